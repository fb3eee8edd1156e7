"""Model, its config, sessions and generation: the language model as Python sees it."""

import html
import os
import warnings
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Dict, Iterable, List, NamedTuple, Optional, Sequence, Union

from . import _native
from ._native import SamplingOptions, State, Tokenizer
from .ops import _like

__all__ = ["Generation", "GenerationStream", "LossSum", "Model", "ModelConfig", "Session"]

PathLike = Union[str, "os.PathLike[str]"]

_TOKENIZER_FILES = ("tokenizer.json", "tokenizer.model")


class LossSum(NamedTuple):
    """What evaluation gives: `nats` summed over the `num_tokens` targets that count."""

    nats: float
    num_tokens: int

    @property
    def mean(self) -> float:
        """Nats per token; 0 when no token counted."""
        return self.nats / self.num_tokens if self.num_tokens else 0.0


@dataclass(frozen=True)
class ModelConfig:
    """Every number that fixes the shape and the arithmetic of a model. 0 in d_inner and dt_rank: derived.

    `dataclasses.replace(config, n_layer=8)` makes another; ValueError names the field that does not fit.
    """

    d_model: int
    n_layer: int
    vocab_size: int
    pad_vocab_size_multiple: int = 8
    d_state: int = 16
    d_conv: int = 4
    expand: float = 2
    d_inner: int = 0
    dt_rank: Union[int, str] = 0
    conv_bias: bool = True
    bias: bool = False
    norm_dt_B_C: bool = False
    norm_dt_B_C_eps: float = 1e-6
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_init_random: bool = True
    dt_scale: float = 1.0
    dt_init_floor: float = 1e-4
    norm: str = "rms"
    norm_eps: float = 1e-5
    residual_in_fp32: bool = True
    tie_embeddings: bool = True
    bidirectional: bool = False
    dropout: float = 0.0
    initializer_range: float = 0.02
    rescale_prenorm_residual: bool = True
    layout: str = "state_spaces"
    bos_token_id: Optional[int] = None
    eos_token_id: Optional[int] = None
    pad_token_id: Optional[int] = None

    def __post_init__(self):
        if self.dt_rank == "auto":
            object.__setattr__(self, "dt_rank", 0)
        for name, value in _native.resolve_config(asdict(self)).items():
            object.__setattr__(self, name, value)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: vocab_size rounded up to pad_vocab_size_multiple."""
        return -(-self.vocab_size // self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple

    @classmethod
    def preset(cls, name: str) -> "ModelConfig":
        """A published shape by name: "tiny", "mamba-130m", ... "mamba-2.8b". ValueError names the known ones."""
        return cls(**_native.model_preset(name))

    @classmethod
    def from_json(cls, text: str) -> "ModelConfig":
        """From the text of a config.json of any layout that Model.load takes."""
        values, sentences = _native.config_from_json(text)
        for sentence in sentences:
            warnings.warn(sentence, stacklevel=2)
        return cls(**values)

    def to_json(self, layout: Optional[str] = None) -> str:
        """The config.json of a layout ("state_spaces", "mamba", "falcon_mamba"; None: its own)."""
        return _native.config_to_json(asdict(self), layout or self.layout)


def _config(config, changes: Dict[str, Any]) -> ModelConfig:
    known = {field.name for field in fields(ModelConfig)}
    for name in changes:
        if name not in known:
            raise TypeError(f"[model] create: expected fields of ModelConfig, got {name!r}")
    if isinstance(config, str):
        config = ModelConfig.preset(config)
    elif isinstance(config, dict):
        return _config(None, {**config, **changes})
    elif config is None:
        missing = [name for name in ("d_model", "n_layer", "vocab_size") if name not in changes]
        if missing:
            raise TypeError(f"[model] create: expected a preset, a config, or {', '.join(missing)} too")
        return ModelConfig(**changes)
    elif not isinstance(config, ModelConfig):
        raise TypeError(f"[model] config: expected a preset's name, ModelConfig or dict, got {type(config).__name__}")
    derived = {"d_model": ("d_inner", "dt_rank"), "expand": ("d_inner",)}
    for name, others in derived.items():  # what was derived from the field that changes is derived anew
        if name in changes:
            changes = {**{other: 0 for other in others}, **changes}
    return replace(config, **changes) if changes else config


class Model:
    """A Mamba language model: embedding, a stack of mixers, head.

        model = coluber.Model.load("path/to/mamba-130m")
        logits = model.forward(ids)                        # (b,l) -> (b,l,v)
        for piece in model.generate("Once upon a time"):   # text as it is written
            print(piece, end="", flush=True)

    Nothing in it changes while it reads and writes text: any number of threads may use one at once, each with states
    and sessions of its own. Its long calls let other threads run.
    """

    __slots__ = ("_native", "_tokenizer", "path", "__weakref__")

    def __init__(self, *args, **kwargs):
        raise TypeError("[model] expected Model.load(path) or Model.create(config)")

    @classmethod
    def _of(cls, native, tokenizer=None, path: Optional[str] = None) -> "Model":
        self = object.__new__(cls)
        self._native, self._tokenizer, self.path = native, tokenizer, path
        return self

    @classmethod
    def load(
        cls, path: PathLike, dtype: Optional[str] = None, *, tokenizer: Union[Tokenizer, PathLike, None] = None
    ) -> "Model":
        """A folder in state-spaces or Hugging Face layout.

        dtype: of the matrices, "f32", "bf16", "f16", or "f64" for all of the model; None: bf16 and f16 files stay as
        they are, others become f32. tokenizer: None: the one beside the weights, if there is one.

        FileNotFoundError when a file or tensor is missing, ValueError when the folder contradicts itself,
        NotImplementedError for models of other kinds. What the folder leaves open is warned of.
        """
        path = os.fspath(path)
        native, sentences = _native.load_model(path, dtype)
        for sentence in sentences:
            warnings.warn(sentence, stacklevel=2)
        if tokenizer is None and any(os.path.exists(os.path.join(path, name)) for name in _TOKENIZER_FILES):
            tokenizer = path
        self = cls._of(native, None, path)
        self.tokenizer = tokenizer
        return self

    @classmethod
    def create(
        cls,
        config: Union[str, ModelConfig, Dict[str, Any], None] = None,
        *,
        seed: int = 0,
        dtype: str = "f32",
        tokenizer: Union[Tokenizer, PathLike, None] = None,
        **changes,
    ) -> "Model":
        """A model with random values: of a preset ("tiny", "mamba-130m", ...), a ModelConfig, or its fields alone.

            Model.create("tiny", seed=1)
            Model.create("mamba-130m", n_layer=12)
            Model.create(d_model=64, n_layer=2, vocab_size=256)
        """
        self = cls._of(_native.create_model(asdict(_config(config, changes)), seed, dtype))
        self.tokenizer = tokenizer
        return self

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

    @property
    def tokenizer(self) -> Optional[Tokenizer]:
        """What text becomes ids with; None: there is none. May be set, also by a path or "bytes"."""
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
        self._tokenizer = value

    @property
    def config(self) -> ModelConfig:
        """A copy of the config, read-only."""
        return ModelConfig(**self._native.config)

    @property
    def dtype(self) -> str:
        """Of the matrices: "f32", "bf16", "f16" or "f64"."""
        return self._native.dtype

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

    def to(self, dtype: str) -> "Model":
        """The same model with its matrices in another dtype: a copy."""
        return type(self)._of(self._native.to(dtype), self._tokenizer, self.path)

    def make_state(self, batch: int = 1) -> State:
        """The state before the first token of `batch` sequences."""
        return self._native.make_state(batch)

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
        """Logits (b,l,v) f32 over the padded vocabulary for token ids (b,l) of any integer dtype.

        state: read before and written after, in place; None: every sequence begins anew. cu_seqlens (s+1): s sequences
        packed in one row (b = 1). resets (b,l) uint8 or bool: the state is cleared before these tokens.
        last_token_only: (b,1,v). compute "bf16": matrix products round to bfloat16.

        Given numpy or torch, gives the same back; else a coluber.Array. Ids of more than 2048 tokens are read in pieces
        that carry the state, between which Ctrl-C is heard (packed rows and bidirectional models: in one).
        """
        logits = self._native.forward(ids, state, cu_seqlens, resets, last_token_only, compute, algorithm)
        return _like(ids, logits)

    __call__ = forward

    def step(self, ids, state: State, *, algorithm: str = "auto"):
        """Logits (b,v) f32 after one more token for each sequence, ids (b); updates `state` in place."""
        return _like(ids, self._native.step(ids, state, algorithm))

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
        stops = [stop] if isinstance(stop, str) else list(stop)
        if "" in stops:
            raise ValueError("[generate] stop: expected some text, got an empty one")
        tokenizer = self._tokenizer
        if tokenizer is None and (stream == "text" or stops):
            raise ValueError(
                "[generate] tokenizer: expected one, got None (set model.tokenizer, 'bytes' for a model of bytes, or "
                "take stream='ids')"
            )
        many = _is_batch(prompt)
        prompts = [
            _prompt_ids(tokenizer, one, bos, parse_special, start is not None) for one in (prompt if many else [prompt])
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
        yield "tokenizer", "none" if tokenizer is None else f"{tokenizer.kind}, {tokenizer.vocab_size:,} tokens"
        yield "layout", c.layout
        yield "memory", f"{self.size_bytes:,} bytes in {self.dtype}, state {self.make_state(1).size_bytes:,} bytes " \
            "a sequence"


def _is_batch(prompt) -> bool:
    """Whether `prompt` is several: a list of texts, of rows of ids, or an array of two axes."""
    if prompt is None or isinstance(prompt, (str, bytes)):
        return False
    if hasattr(prompt, "ndim"):
        return prompt.ndim > 1
    if not isinstance(prompt, Iterable):
        raise TypeError(f"[generate] prompt: expected text, token ids or a list of them, got {type(prompt).__name__}")
    if len(prompt) == 0:
        raise ValueError("[generate] prompt: expected text or token ids, got an empty sequence (None: from nothing)")
    first = prompt[0]
    return first is None or isinstance(first, (str, bytes)) or hasattr(first, "__len__")


def _prompt_ids(tokenizer: Optional[Tokenizer], prompt, bos: Optional[bool], parse_special: bool, going_on: bool):
    if prompt is None:
        return []
    if not isinstance(prompt, (str, bytes)):
        return prompt
    if tokenizer is None:
        raise ValueError("[generate] prompt: expected token ids, got text (the model has no tokenizer)")
    # Where one id opens and ends texts, models read prompts without it as well; a <s> of its own they expect.
    own = tokenizer.bos_id is not None and tokenizer.bos_id != tokenizer.eos_id
    if isinstance(prompt, bytes) and not tokenizer.lossless:
        prompt.decode()  # this tokenizer knows characters only: UnicodeDecodeError
    add_bos = bos if bos is not None else own and not going_on
    return tokenizer.encode(prompt, parse_special=parse_special, add_bos=add_bos)


class Generation(NamedTuple):
    """What was written for one prompt."""

    prompt_ids: List[int]
    ids: List[int]  # drawn, the end-of-text id excluded, those that spelled a stop text included
    text: str  # of `ids`, cut before the stop text; "" without a tokenizer
    finish: Optional[str]  # "length", "eos" or "stop"; None: it was not written to its end
    session: Optional["Session"]  # with keep_sessions: after the prompt and every token drawn


class GenerationStream:
    """What Model.generate returns: an iterator over pieces of text or ids, of several prompts over (number, piece).

    `result` and `results` read it to the end first, as does `text`. close() ends it early.
    """

    __slots__ = ("_native", "_model", "_count", "_many", "_ids", "_done")

    def __init__(self, native, model: Model, count: int, many: bool, ids: bool):
        self._native, self._model, self._count, self._many, self._ids = native, model, count, many, ids
        self._done = [False] * count

    def __iter__(self) -> "GenerationStream":
        return self

    def __next__(self):
        while True:
            event = self._native.next()
            if event is None:
                raise StopIteration
            prompt, id, text, last = event
            self._done[prompt] |= last
            piece = id if self._ids else text
            if piece is None or piece == "":  # a part of a character, or the end of text
                continue
            return (prompt, piece) if self._many else piece

    def close(self) -> None:
        """Nothing more is written; what there is stays in partial()."""
        self._native.close()

    def __enter__(self) -> "GenerationStream":
        return self

    def __exit__(self, *exception) -> None:
        self.close()

    def partial(self) -> List[Generation]:
        """What there is so far, of every prompt."""
        found = []
        for i in range(self._count):
            prompt_ids, ids, text, finish, session = self._native.result(i)
            own = None if session is None else Session._of(session, self._model)
            found.append(Generation(prompt_ids, ids, text, finish if self._done[i] else None, own))
        return found

    @property
    def results(self) -> List[Generation]:
        """Of every prompt, at the end."""
        for _ in self:
            pass
        return self.partial()

    @property
    def result(self) -> Generation:
        """Of the one prompt, at the end."""
        if self._count != 1:
            raise ValueError(f"[generate] result: expected one prompt, got {self._count} (take results)")
        return self.results[0]

    @property
    def text(self) -> str:
        """All that was written for the one prompt."""
        return self.result.text

    def __repr__(self) -> str:
        done = sum(self._done)
        return f"coluber.GenerationStream({self._count} prompts, {done} finished)"


class Session:
    """One text that is read and written: a model, a state and a place in a random stream.

        session = coluber.Session(model, temperature=0.8, seed=7)
        session.append("Once upon a time")
        ids = [session.next() for _ in range(20)]
        other = session.fork()                     # both go on from here

    Options are those of Model.generate. state: of one sequence, to go on from; a token must be appended before next().
    One thread at a time may use a session (ValueError for the second); fork() gives another its own.
    """

    __slots__ = ("_native", "model", "__weakref__")

    def __init__(
        self,
        model: Model,
        *,
        state: Optional[State] = None,
        stream: int = 0,
        temperature: float = 1.0,
        top_k: int = 0,
        top_p: float = 1.0,
        min_p: float = 0.0,
        repetition_penalty: float = 1.0,
        greedy: bool = False,
        seed: int = 0,
    ):
        options = SamplingOptions(
            temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
            greedy=greedy, seed=seed,
        )
        self._native = _native.make_session(model._native, options, state, _vocab_size(model), stream)
        self.model = model

    @classmethod
    def _of(cls, native, model: Model) -> "Session":
        self = object.__new__(cls)
        self._native, self.model = native, model
        return self

    def append(self, prompt, *, bos: bool = False, parse_special: bool = True) -> None:
        """Reads text or token ids, 512 at a time; Ctrl-C is heard in between, and what was read stays read."""
        self._native.append(_prompt_ids(self.model.tokenizer, prompt, bos, parse_special, True))

    def next(self) -> int:
        """Draws the next token id, and will have read it. ValueError when nothing was appended yet."""
        return self._native.next()

    @property
    def logits(self):
        """(v) f32 after the last token; None before the first."""
        return self._native.logits

    @property
    def state(self) -> State:
        """A copy of the state after every token so far."""
        return self._native.state

    @property
    def num_tokens(self) -> int:
        """Read and written so far."""
        return self._native.num_tokens

    @property
    def options(self) -> SamplingOptions:
        return self._native.options

    def fork(self, *, stream: Optional[int] = None, **options) -> "Session":
        """A copy that draws the same tokens; with `stream` or other sampling options, others."""
        if stream is None and not options:
            return Session._of(self._native.copy(), self.model)
        names = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "greedy", "seed")
        mine = {name: getattr(self.options, name) for name in names}
        return Session._of(self._native.fork(SamplingOptions(**{**mine, **options}), stream or 0), self.model)

    __copy__ = fork

    def save(self, path: PathLike) -> None:
        """One safetensors file, written atomically; State.load and `coluber generate --state-in` read it too."""
        self._native.save(path)

    @classmethod
    def load(cls, path: PathLike, model: Model, *, stream: int = 0, **options) -> "Session":
        """What save() wrote; with the same model, options and stream it draws what that session would have drawn."""
        native = _native.load_session(path, model._native, SamplingOptions(**options), _vocab_size(model), stream)
        return cls._of(native, model)

    def __repr__(self) -> str:
        return f"coluber.Session({self.num_tokens} tokens, {self.model._title()})"


def _vocab_size(model: Model) -> int:
    return 0 if model.tokenizer is None else model.tokenizer.vocab_size
