"""Generation: the stream of what a model writes, and sessions."""

import os
from collections.abc import Mapping
from typing import List, NamedTuple, Optional, Union

from . import _native
from ._native import SamplingOptions, State, Tokenizer
from .arguments import names_wrong_types

__all__ = ["Generation", "GenerationStream", "Session"]

PathLike = Union[str, "os.PathLike[str]"]


def is_batch(prompt) -> bool:
    """Whether `prompt` is several: a list of texts, of rows of ids, or an array of two axes."""
    if prompt is None or isinstance(prompt, (str, bytes)):
        return False
    if hasattr(prompt, "ndim"):
        return prompt.ndim > 1
    if not hasattr(prompt, "__getitem__") or not hasattr(prompt, "__len__") or isinstance(prompt, Mapping):
        raise TypeError(f"[generate] prompt: expected text, token ids or a list of them, got {type(prompt).__name__}")
    if len(prompt) == 0:
        raise ValueError("[generate] prompt: expected text or token ids, got an empty sequence (None: from nothing)")
    first = prompt[0]
    return first is None or isinstance(first, (str, bytes)) or hasattr(first, "__len__")


def prompt_ids(tokenizer: Optional[Tokenizer], prompt, bos: Optional[bool], parse_special: bool, going_on: bool):
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

    def __init__(self, native, model, count: int, many: bool, ids: bool):
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

    @property
    def num_finished(self) -> int:
        """Prompts whose text is at its end."""
        return sum(self._done)

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
        return f"coluber.GenerationStream({self._count} prompts, {self.num_finished} finished)"


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

    @names_wrong_types
    def __init__(
        self,
        model,
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
        native = _native_of(model)
        options = _sampling_options(temperature, top_k, top_p, min_p, repetition_penalty, greedy, seed)
        self._native = _native.make_session(native, options, state, _vocab_size(model), stream)
        self.model = model

    @classmethod
    def _of(cls, native, model) -> "Session":
        self = object.__new__(cls)
        self._native, self.model = native, model
        return self

    def append(self, prompt, *, bos: bool = False, parse_special: bool = True) -> None:
        """Reads text or token ids, 512 at a time; Ctrl-C is heard in between, and what was read stays read."""
        self._native.append(prompt_ids(self.model.tokenizer, prompt, bos, parse_special, True))

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
    def device(self) -> str:
        """That of the model: "cpu" or "cuda:0"."""
        return self._native.device

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
        return Session._of(self._native.fork(_sampling_options(**{**mine, **options}), stream or 0), self.model)

    __copy__ = fork

    def save(self, path: PathLike) -> None:
        """One safetensors file, written atomically; State.load and `coluber generate --state-in` read it too."""
        self._native.save(path)

    @classmethod
    def load(cls, path: PathLike, model, *, stream: int = 0, **options) -> "Session":
        """What save() wrote; with the same model, options and stream it draws what that session would have drawn."""
        native = _native.load_session(path, _native_of(model), _sampling_options(**options), _vocab_size(model), stream)
        return cls._of(native, model)

    def __repr__(self) -> str:
        return f"coluber.Session({self.num_tokens} tokens, {self.model._title()})"


def _native_of(model):
    native = getattr(model, "_native", None)
    if not isinstance(native, _native.Model):
        raise TypeError(f"[session] model: expected a Model, got {type(model).__name__}")
    return native


def _vocab_size(model) -> int:
    return 0 if model.tokenizer is None else model.tokenizer.vocab_size


def _sampling_options(
    temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0, repetition_penalty: float = 1.0,
    greedy: bool = False, seed: int = 0,
) -> SamplingOptions:
    return SamplingOptions(
        temperature=temperature, top_k=top_k, top_p=top_p, min_p=min_p, repetition_penalty=repetition_penalty,
        greedy=greedy, seed=seed,
    )
