"""Model: the language model as Python sees it."""

import html
import os
import shutil
import warnings
from dataclasses import asdict
from typing import Any, Dict, NamedTuple, Optional, Sequence, Union

from . import _native
from ._native import SamplingOptions, State
from .arguments import names_wrong_types
from .config import ModelConfig, config_of
from .generation import GenerationStream, PathLike, Session, is_batch, prompt_ids
from .ops import _kind_of, _like
from .tokenizer import Tokenizer

__all__ = ["LossSum", "Model"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")
_TOKENIZER_WORDS = ("tokenizer_config.json", "special_tokens_map.json")  # beside it, of which ids begin and end texts


class LossSum(NamedTuple):
    """What evaluation gives: `nats` summed over the `num_tokens` targets that count."""

    nats: float
    num_tokens: int

    @property
    def mean(self) -> float:
        """Nats per token; 0 when no token counted."""
        return self.nats / self.num_tokens if self.num_tokens else 0.0


class Model:
    """A Mamba language model: embedding, a stack of mixers, head.

        model = coluber.Model.load("path/to/mamba-130m")
        logits = model.forward(ids)                        # (b,l) -> (b,l,v)
        for piece in model.generate("Once upon a time"):   # text as it is written
            print(piece, end="", flush=True)

    Nothing in it changes while it reads and writes text: any number of threads may use one at once, each with states
    and sessions of its own. Its long calls let other threads run.
    """

    __slots__ = ("_native", "_tokenizer", "_beside", "path", "__weakref__")

    def __init__(self, *args, **kwargs):
        raise TypeError("[model] expected Model.load(path) or Model.create(config)")

    @classmethod
    def _of(cls, native, tokenizer=None, path: Optional[str] = None) -> "Model":
        self = object.__new__(cls)
        self._native, self._tokenizer, self.path = native, tokenizer, path
        self._beside = None  # the folder whose tokenizer is read when it is wanted
        return self

    @classmethod
    @names_wrong_types
    def load(
        cls,
        path: PathLike,
        dtype: Optional[str] = None,
        *,
        device: str = "cpu",
        tokenizer: Union[Tokenizer, PathLike, None] = None,
    ) -> "Model":
        """A folder in state-spaces or Hugging Face layout.

        dtype: of the matrices, "f32", "bf16", "f16", or "f64" for all of the model; None: bf16 and f16 files stay as
        they are, others become f32. device: "cpu", "cuda" (the first GPU), "cuda:1", or "auto", a GPU where there
        is one. tokenizer: None: the one beside the weights, read when it is wanted.

        FileNotFoundError when a file or tensor is missing, ValueError when the folder contradicts itself,
        NotImplementedError for models of other kinds. What the folder leaves open is warned of.
        """
        path = os.fspath(path)
        native, sentences = _native.load_model(path, dtype, device)
        for sentence in sentences:
            warnings.warn(sentence, stacklevel=2)
        self = cls._of(native, None, path)
        self.tokenizer = tokenizer
        if tokenizer is None and any(os.path.exists(os.path.join(path, name)) for name in _TOKENIZER_FILES):
            self._beside = path
        return self

    @classmethod
    @names_wrong_types
    def create(
        cls,
        config: Union[str, ModelConfig, Dict[str, Any], None] = None,
        *,
        seed: int = 0,
        dtype: str = "f32",
        device: str = "cpu",
        tokenizer: Union[Tokenizer, PathLike, None] = None,
        **changes,
    ) -> "Model":
        """A model with random values: of a preset ("tiny", "mamba-130m", ...), a ModelConfig, or its fields alone.

            Model.create("tiny", seed=1)
            Model.create("mamba-130m", n_layer=12)
            Model.create(d_model=64, n_layer=2, vocab_size=256)
        """
        self = cls._of(_native.create_model(asdict(config_of(config, changes)), seed, dtype, device))
        self.tokenizer = tokenizer
        return self

    @names_wrong_types
    def save(
        self,
        path: PathLike,
        layout: Optional[str] = None,
        dtype: Optional[str] = None,
        *,
        safetensors: bool = True,
        max_shard_bytes: int = 5_000_000_000,
    ) -> None:
        """Writes config.json, the weights and the tokenizer into a folder.

        layout: "state_spaces", "mamba" or "falcon_mamba"; None: as it was loaded. dtype: of all floating tensors in
        the file; None: as they are. safetensors False: pytorch_model.bin. NotImplementedError for what a layout cannot
        say, FloatingPointError for values that a dtype cannot hold.
        """
        self._native.save(path, layout, dtype, safetensors, max_shard_bytes)
        if self._tokenizer is not None and self._tokenizer.kind != "bytes":
            self._tokenizer.save(path)
        for name in _TOKENIZER_FILES + _TOKENIZER_WORDS if self._beside is not None else ():
            there, here = os.path.join(self._beside, name), os.path.join(path, name)
            if os.path.exists(there) and os.path.realpath(there) != os.path.realpath(here):
                shutil.copyfile(there, here)

    @property
    def tokenizer(self) -> Optional[Tokenizer]:
        """What text becomes ids with; None: there is none. May be set, also by a path or "bytes".

        Raises what Tokenizer.load does when the one beside the weights cannot be read."""
        if self._tokenizer is None and self._beside is not None:
            self.tokenizer = self._beside
        return self._tokenizer

    @tokenizer.setter
    def tokenizer(self, value: Union[Tokenizer, PathLike, None]) -> None:
        if value is not None and not isinstance(value, Tokenizer):
            value = Tokenizer.load(value)
        rows = self.config.padded_vocab_size
        if value is not None and value.vocab_size > rows:
            raise ValueError(
                f"[tokenizer] vocabulary: expected at most {rows} tokens, the rows of the model, got "
                f"{value.vocab_size} (it belongs to another model)"
            )
        self._tokenizer, self._beside = value, None

    @property
    def config(self) -> ModelConfig:
        """A copy of the config, read-only."""
        return ModelConfig(**self._native.config)

    @property
    def dtype(self) -> str:
        """Of the matrices: "f32", "bf16", "f16" or "f64"."""
        return self._native.dtype

    @property
    def device(self) -> str:
        """Where it is and computes: "cpu" or "cuda:0"."""
        return self._native.device

    @property
    def num_parameters(self) -> int:
        return self._native.num_parameters

    @property
    def size_bytes(self) -> int:
        """Of the parameters in memory."""
        return self._native.size_bytes

    def parameters(self) -> Dict[str, _native.Array]:
        """Arrays by name ("backbone.layers.0.mixer.in_proj.weight", ...), over the model's own memory: writing to one
        changes the model."""
        return self._native.parameters()

    @names_wrong_types
    def to(self, target: Optional[str] = None, *, dtype: Optional[str] = None, device: Optional[str] = None) -> "Model":
        """The same model with its matrices in another dtype, on another device, or both: a copy.

            model.to("bf16"); model.to("cuda"); model.to(device="cuda:1", dtype="bf16")
        """
        if target is not None and (target in ("cpu", "auto") or target.startswith("cuda")):
            device = target
        elif target is not None:
            dtype = target
        other = type(self)._of(self._native.to(dtype, device), self._tokenizer, self.path)
        other._beside = self._beside
        return other

    def pack_weights(self) -> "Model":
        """Keeps matrices of bf16 once more, as many bytes again, in the order in which a CPU with AMX reads them: several
        sequences are decoded and prompts are read faster, nothing is rounded. Nothing is done where that gains nothing.

            model = coluber.Model.load(path, dtype="bf16").pack_weights()
        """
        self._native.pack_weights()
        return self

    @names_wrong_types
    def make_state(self, batch: int = 1) -> State:
        """The state before the first token of `batch` sequences."""
        return self._native.make_state(batch)

    @names_wrong_types
    def forward(
        self,
        ids,
        state: Optional[State] = None,
        *,
        cu_seqlens=None,
        resets=None,
        last_token_only: bool = False,
        compute: str = "f32",
        algorithm: str = "auto",
    ):
        """Logits (b,l,v) f32 over the padded vocabulary for token ids (b,l) of any integer dtype (torch: uint8, int32,
        int64).

        state: read before and written after, in place; None: every sequence begins anew. cu_seqlens (s+1): s sequences
        packed in one row (b = 1). resets (b,l) uint8 or bool: the state is cleared before these tokens.
        last_token_only: (b,1,v). compute "bf16": matrix products round to bfloat16.

        Logits are on the model's device: a torch tensor there for torch's ids, numpy's for numpy's (a copy on the CPU
        where the model is on a GPU), else a coluber.Array. Ids of 64 bits on a GPU are looked at on the CPU. More than
        2048 tokens are read in pieces that carry the state, between which Ctrl-C is heard (packed rows and bidirectional
        models: in one).
        """
        logits = self._native.forward(ids, state, cu_seqlens, resets, last_token_only, compute, algorithm)
        return self._given_as(ids, logits)

    __call__ = forward

    def __reduce__(self):
        raise TypeError(
            "[model] pickle: expected save() into a folder and load() from it, got a model (to() copies one in memory)"
        )

    @names_wrong_types
    def step(self, ids, state: State, *, algorithm: str = "auto"):
        """Logits (b,v) f32 after one more token for each sequence, ids (b); updates `state` in place."""
        return self._given_as(ids, self._native.step(ids, state, algorithm))

    @staticmethod
    def _given_as(ids, logits):
        kind = _kind_of(ids)
        if kind == "numpy":
            return _like(ids, logits.to("cpu"))
        if kind == "torch" and logits.device != "cpu":  # computed on our stream, which torch's waits for
            import torch

            return torch.from_dlpack(logits)
        return _like(ids, logits)

    @names_wrong_types
    def evaluate(
        self,
        ids,
        targets=None,
        state: Optional[State] = None,
        *,
        cu_seqlens=None,
        resets=None,
        compute: str = "f32",
        algorithm: str = "auto",
    ) -> LossSum:
        """Cross entropy of targets (b,l), -1 where none counts, in nats; None: of every next token of ids (b,l).
        The logits are never kept. Other arguments as in forward."""
        if targets is None and cu_seqlens is not None:
            raise ValueError("[model] targets: expected an array for packed rows, got None (say which tokens count)")
        return LossSum(*self._native.evaluate(ids, targets, state, cu_seqlens, resets, compute, algorithm))

    def loss(self, ids, targets=None, state: Optional[State] = None, **options) -> float:
        """The mean of evaluate(), in nats per token."""
        return self.evaluate(ids, targets, state, **options).mean

    def session(self, **options) -> "Session":
        """Session(self, **options)."""
        return Session(self, **options)

    @names_wrong_types
    def generate(
        self,
        prompt=None,
        *,
        max_tokens: int = 128,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        greedy: bool = False,
        seed: int = 0,
        stop: Union[str, Sequence[str]] = (),
        ignore_eos: bool = False,
        batch: int = _native.MAX_GENERATE_BATCH,
        bos: Optional[bool] = None,
        parse_special: bool = True,
        first_stream: int = 0,
        start: Optional["Session"] = None,
        keep_sessions: bool = False,
        stream: str = "text",
        algorithm: str = "auto",
    ) -> "GenerationStream":
        """Goes on with a prompt, or with several: an iterator over what is written, as it is written.

            for piece in model.generate("Once", temperature=0.8, seed=7): ...       # str
            model.generate("Once").text                                             # all of it
            for i, piece in model.generate(["Once", "Twice"]): ...                  # prompt number, str
            list(model.generate([17, 4], stream="ids"))                             # token ids

        prompt: str, bytes, token ids (a sequence or an array of one axis), or a list of such (or an array of two);
        None: from the begin-of-text token, or from `start` as it stands. Options are those of `coluber generate`, and
        the same seed gives the same text: max_tokens to write; stop: end where one of these texts begins; ignore_eos:
        do not end at the end-of-text token; batch: prompts written at the same time, 1 to 8, the ids do not depend on
        it; bos: begin-of-text in front, None: where the tokenizer has one of its own; parse_special: special tokens
        spelled in a prompt become their ids; prompt i draws from random stream first_stream + i. start: a Session to
        go on from; it stays as it is. keep_sessions: results have a session that stands at their end.

        ValueError for options out of range, TypeError for unknown ones. Ctrl-C ends it between two tokens.
        """
        if stream not in ("text", "ids"):
            raise ValueError(f"[generate] stream: expected text or ids, got {stream}")
        sampling = SamplingOptions(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
            greedy=greedy, seed=seed,
        )
        stops = [stop] if isinstance(stop, (str, bytes)) or not hasattr(stop, "__iter__") else list(stop)
        for text in stops:
            if not isinstance(text, str):
                raise TypeError(f"[generate] stop: expected a str or several, got {type(text).__name__}")
        if isinstance(max_tokens, int) and max_tokens < 0:
            raise ValueError(f"[generate] max_tokens: expected 0 or more, got {max_tokens}")
        if isinstance(batch, int) and not 1 <= batch <= _native.MAX_GENERATE_BATCH:
            raise ValueError(
                f"[generate] batch: expected 1 to {_native.MAX_GENERATE_BATCH}, got {batch} (more prompts wait for a "
                "place)"
            )
        if "" in stops:
            raise ValueError("[generate] stop: expected some text, got an empty one")
        tokenizer = self.tokenizer
        if tokenizer is None and (stream == "text" or stops):
            raise ValueError(
                "[generate] tokenizer: expected one, got None (set model.tokenizer, 'bytes' for a model of bytes, or "
                "take stream='ids')"
            )
        if start is not None and not isinstance(start, Session):
            raise TypeError(f"[generate] start: expected a Session or None, got {type(start).__name__}")
        if start is not None and start.model is not self:
            raise ValueError("[generate] start: expected a session of this model, got one of another")
        many = is_batch(prompt)
        prompts = [
            prompt_ids(tokenizer, one, bos, parse_special, start is not None) for one in (prompt if many else [prompt])
        ]
        native = _native.generate(
            self._native, tokenizer, prompts, sampling, max_tokens, stops, ignore_eos, batch, first_stream,
            None if start is None else start._native, keep_sessions, algorithm,
        )
        return GenerationStream(native, self, len(prompts), many, stream == "ids")

    def __repr__(self) -> str:
        lines = [f"coluber.Model: {self._title()}"]
        lines += [f"  {name:<14}{value}" for name, value in self._table()]
        return "\n".join(lines)

    def _repr_html_(self) -> str:
        cell = "<td style='text-align:left'>{}</td>"
        rows = "".join(
            f"<tr><th style='text-align:left'>{html.escape(name)}</th>{cell.format(html.escape(value))}</tr>"
            for name, value in self._table()
        )
        parameters = "".join(
            f"<tr>{cell.format(name)}{cell.format(a.shape)}{cell.format(a.dtype)}<td>{a.nbytes:,}</td></tr>"
            for name, a in self.parameters().items()
        )
        return (
            f"<table><caption>coluber.Model: {html.escape(self._title())}</caption>{rows}</table>"
            f"<details><summary>Parameters</summary><table><tr><th>name</th><th>shape</th><th>dtype</th><th>bytes</th>"
            f"</tr>{parameters}</table></details>"
        )

    def _title(self) -> str:
        name = os.path.basename(os.path.normpath(self.path)) if self.path else "new"
        return f"{name}, {self.num_parameters:,} parameters"

    def _table(self):
        c = self.config
        yield "layers", f"{c.n_layer}, {'bidirectional' if c.bidirectional else 'forward only'}, {c.norm} norm"
        yield "width", f"d_model {c.d_model}, d_inner {c.d_inner}, d_state {c.d_state}, d_conv {c.d_conv}, " \
            f"dt_rank {c.dt_rank}"
        head = "head tied to the embedding" if c.tie_embeddings else "head of its own"
        yield "vocabulary", f"{c.vocab_size:,}, {c.padded_vocab_size:,} rows, {head}"
        tokenizer = self._tokenizer
        without = "none" if self._beside is None else "beside the weights"
        yield "tokenizer", without if tokenizer is None else f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens"
        yield "layout", c.layout
        yield "device", self.device
        yield "memory", f"{self.size_bytes:,} bytes in {self.dtype}, state {self.make_state(1).size_bytes:,} bytes " \
            "a sequence"
