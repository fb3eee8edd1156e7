"""ColuberLM: what the harness asks a language model, asked of a coluber.Model."""

import json
import logging
import os
from typing import Dict, List, Optional, Tuple, Union

import lm_eval.models  # noqa: F401  # the harness's own models, which it does not add once it knows another
from lm_eval.api.model import TemplateLM
from lm_eval.api.registry import register_model
from lm_eval.utils import get_rolling_token_windows, make_disjoint_window
from tqdm import tqdm

from .._native import cuda_device_count, cuda_unavailable_reason
from ..model import Model
from ..tokenizer import Tokenizer
from .scoring import score

# Also by their names in torch, as other models of the harness have them.
_DTYPES = {"auto": None, "float32": "f32", "float64": "f64", "float16": "f16", "bfloat16": "bf16"}
_MAX_TOKENS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")  # the first one given counts
_SAMPLING = ("top_k", "top_p", "min_p", "repetition_penalty")
_AUTO_BATCH = 16
_DEFAULT_DEVICE = "cuda:0"  # what the harness says where nobody said anything


@register_model("coluber")
class ColuberLM(TemplateLM):
    """Answers are those of the harness's own model class for transformers, within rounding.

    pretrained: a folder that Model.load takes, or a Model. tokenizer, dtype: as in Model.load. compute: as in
    Model.forward. batch_size: contexts read together, "auto" for 16; answers do not depend on it. max_length: tokens
    that are looked at, older ones are cut off and long documents read in windows of so many, as it is done for published
    numbers; 0: all, in one piece. add_bos_token: begin-of-text in front of every text; None: where the tokenizer has
    one of its own. prefix_token_id: before a text without context; None: begin-of-text, else end-of-text. seed: of
    sampling, which tasks rarely ask for. device: "cpu", "cuda", "cuda:1" or "auto"; None: "auto".
    """

    def __init__(
        self,
        pretrained: Union[str, "os.PathLike[str]", Model],
        *,
        tokenizer: Union[Tokenizer, str, "os.PathLike[str]", None] = None,
        dtype: Optional[str] = None,
        compute: str = "f32",
        batch_size: Union[int, str, None] = "auto",
        max_batch_size: Optional[int] = None,
        max_length: int = 2048,
        max_gen_toks: int = 256,
        add_bos_token: Optional[bool] = None,
        prefix_token_id: Optional[int] = None,
        seed: int = 0,
        device: Optional[str] = None,
    ):
        super().__init__()
        if device == _DEFAULT_DEVICE and cuda_device_count() == 0:
            logging.getLogger(__name__).info("[lm_eval] device: cpu, as %s", cuda_unavailable_reason())
            device = "cpu"
        if max_length < 0:
            raise ValueError(f"[lm_eval] max_length: expected 0 (no limit) or more, got {max_length}")
        self.batch_size = _batch_size(batch_size, max_batch_size)
        if isinstance(pretrained, Model):
            self.model = pretrained if device in (None, pretrained.device) else pretrained.to(device=device)
        else:
            self.model = Model.load(pretrained, _DTYPES.get(dtype, dtype), device=device or "auto", tokenizer=tokenizer)
        if self.model.tokenizer is None:
            raise ValueError("[lm_eval] tokenizer: expected one beside the weights, or tokenizer=PATH, got none")
        if self.model.config.bidirectional:
            raise NotImplementedError("[lm_eval] model: expected one that reads from left to right, got both ways")
        self.tokenizer = self.model.tokenizer
        self.max_length, self.max_gen_toks, self.compute, self.seed = max_length, max_gen_toks, compute, seed
        own = self.tokenizer.bos_id is not None and self.tokenizer.bos_id != self.tokenizer.eos_id
        self.add_bos_token = own if add_bos_token is None else add_bos_token
        self.custom_prefix_token_id = prefix_token_id

    @property
    def eot_token_id(self) -> Optional[int]:
        own = self.tokenizer.eos_id
        return self.model.config.eos_token_id if own is None else own

    @property
    def prefix_token_id(self) -> int:
        for id in (
            self.custom_prefix_token_id, self.tokenizer.bos_id, self.tokenizer.eos_id, self.model.config.bos_token_id,
            self.model.config.eos_token_id,
        ):
            if id is not None:
                return id
        raise ValueError(
            "[lm_eval] prefix_token_id: expected the id that a text without context begins after, as the tokenizer has "
            "neither begin nor end of text, got None"
        )

    @property
    def tokenizer_name(self) -> str:
        return f"coluber-{self.tokenizer.kind}-{self.tokenizer.fingerprint:x}"

    def get_model_info(self) -> dict:
        return {
            "model_num_parameters": self.model.num_parameters, "model_dtype": self.model.dtype,
            "model_path": self.model.path,
        }

    def tok_encode(self, string: str, add_special_tokens: Optional[bool] = None, **kwargs) -> List[int]:
        add_bos = self.add_bos_token if add_special_tokens is None else add_special_tokens and self.add_bos_token
        if add_bos and add_special_tokens is None:  # a text that begins with it already gets no second one
            spelled = self.tokenizer.token_piece(self.prefix_token_id)
            add_bos = not (spelled and string.startswith(spelled))
        return self.tokenizer.encode(string, add_bos=add_bos)

    def _loglikelihood_tokens(self, requests, disable_tqdm: bool = False, **kwargs) -> List[Tuple[float, bool]]:
        pairs = []
        for words, context, continuation in requests:
            context = context or [self.prefix_token_id]  # of white space alone, which belongs to the continuation
            if self.max_length:
                if len(continuation) > self.max_length:
                    raise ValueError(
                        f"[lm_eval] max_length: expected at least the {len(continuation)} tokens of a continuation, "
                        f"got {self.max_length} (0: no limit)"
                    )
                context = context[-(self.max_length + 1 - len(continuation)) :]
            pairs.append((context, continuation))
        with tqdm(total=len(pairs), disable=disable_tqdm, desc="Running loglikelihood requests") as bar:
            found = score(self.model, pairs, sequences=self.batch_size, compute=self.compute, advance=bar.update)
        answers = [(one.nats, one.greedy) for one in found]
        for (words, _, _), answer in zip(requests, answers):
            if words is not None:  # windows of a document have no words of their own
                self.cache_hook.add_partial("loglikelihood", words, answer)
        return answers

    def loglikelihood_rolling(self, requests, disable_tqdm: bool = False) -> List[float]:
        windows: List[Tuple[None, List[int], List[int]]] = []
        counts = []
        for request in requests:
            ids = self.tok_encode(request.args[0])
            longest = self.max_length or max(1, len(ids))
            own = get_rolling_token_windows(ids, self.prefix_token_id, longest, context_len=1)
            before = len(windows)
            windows += [(None, *make_disjoint_window(window)) for window in own]
            counts.append(len(windows) - before)
        scored = iter(self._loglikelihood_tokens(windows, disable_tqdm=disable_tqdm))
        sums = [sum(next(scored)[0] for _ in range(count)) for count in counts]
        for request, nats in zip(requests, sums):
            self.cache_hook.add_partial("loglikelihood_rolling", request.args, nats)
        return sums

    def generate_until(self, requests, disable_tqdm: bool = False) -> List[str]:
        groups: Dict[str, List[int]] = {}  # of the same options
        for i, request in enumerate(requests):
            groups.setdefault(json.dumps(request.args[1], sort_keys=True, default=str), []).append(i)
        texts = [""] * len(requests)
        with tqdm(total=len(requests), disable=disable_tqdm, desc="Running generate_until requests") as bar:
            for members in groups.values():
                options = _options(requests[members[0]].args[1], self.max_gen_toks)
                prompts = [self._prompt(requests[i].args[0], options["max_tokens"]) for i in members]
                done = bar.n
                stream = self.model.generate(prompts, seed=self.seed, first_stream=members[0], **options)
                for _ in stream:
                    bar.update(done + stream.num_finished - bar.n)
                for i, result in zip(members, stream.results):
                    texts[i] = self._cut(result.ids, options["stop"])
                    self.cache_hook.add_partial("generate_until", requests[i].args, texts[i])
                bar.update(done + len(members) - bar.n)
        return texts

    def _prompt(self, context: str, max_tokens: int) -> List[int]:
        ids = self.tok_encode(context) or [self.prefix_token_id]
        if not self.max_length:
            return ids
        room = self.max_length - max_tokens
        if room <= 0:
            raise ValueError(
                f"[lm_eval] max_gen_toks: expected fewer tokens than max_length {self.max_length}, got {max_tokens}"
            )
        return ids[-room:]

    def _cut(self, ids: List[int], stops: List[str]) -> str:
        text = self.tokenizer.decode(ids, skip_special=True)
        for stop in stops:
            text = text.split(stop)[0]
        return text


def _batch_size(value: Union[int, str, None], most: Optional[int]) -> int:
    text = str(value)
    if value is None or text.startswith("auto"):
        return min(_AUTO_BATCH, most or _AUTO_BATCH)
    if not text.isdigit() or int(text) < 1:
        raise ValueError(f"[lm_eval] batch_size: expected auto or 1 or more, got {value}")
    return int(text)


def _options(asked: dict, max_gen_toks: int) -> dict:
    """What Model.generate takes, of what a task asks for."""
    asked = dict(asked)
    until = asked.pop("until", None) or []
    given = [asked.pop(name) for name in _MAX_TOKENS if asked.get(name) is not None]
    do_sample, temperature = asked.pop("do_sample", None), asked.pop("temperature", None)
    if temperature is None:
        temperature = 1.0 if do_sample else 0.0
    options = {
        "max_tokens": int(given[0]) if given else max_gen_toks,
        "stop": [stop for stop in ([until] if isinstance(until, str) else until) if stop],
        **{name: asked.pop(name) for name in _SAMPLING if asked.get(name) is not None},
    }
    if do_sample is False or temperature == 0.0:
        options["greedy"] = True
    else:
        options["temperature"] = float(temperature)
    for name, value in asked.items():
        if value is not None and not (name == "num_beams" and value == 1):
            raise NotImplementedError(
                f"[lm_eval] generation: expected until, max_gen_toks, do_sample, temperature, {', '.join(_SAMPLING)}, "
                f"got {name}={value}"
            )
    return options
