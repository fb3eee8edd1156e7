"""Training: coluber.train and the Trainer behind it."""

import os
import re
import tempfile
from typing import Callable, Iterable, List, Optional, Sequence, Tuple, Union

from . import _native
from ._native import Tokenizer
from .arguments import names_wrong_types
from .generation import PathLike
from .model import Model
from .training_data import Batches, batch_parts, is_path, is_tokens, paths_of
from .training_run import EvalReport, Hooks, Sample, StepReport, TrainingRun

__all__ = ["Trainer", "train"]

_SAMPLE_TEMPERATURE = 0.8
_FLAGS = (
    "name", "heldout_share", "text_field", "separator", "preset", "d_model", "n_layer", "d_state", "d_conv", "dt_rank",
    "expand", "norm", "untied", "dropout", "batch", "seqlen", "grad_accum", "lr", "lr_min_share", "schedule", "warmup",
    "weight_decay", "clip", "dtype", "recompute", "cuda_graph", "max_steps", "max_seconds", "eval_every", "eval_batches",
    "sample_every", "sample_prompt", "sample_tokens", "save_every", "keep", "seed", "threads", "device",
)


def _words(flags) -> List[str]:
    """The flags of `coluber train` that were given."""
    words = []
    for name, value in flags.items():
        flag = "--" + name.replace("_", "-")
        if value is None:
            continue
        if isinstance(value, bool):
            value = "true" if value else "false"
        for item in value if isinstance(value, (list, tuple)) else [value]:
            words.append(f"{flag}={item!r}" if isinstance(item, float) else f"{flag}={item}")
    return words


def _in_our_words(text: str) -> str:
    """A sentence of `coluber train` with its flags as keywords: --grad-accum is grad_accum."""
    text = text.replace(" (see 'coluber --help')", "")
    return re.sub(r"(?<![^\s(])--([a-z][a-z-]*)", lambda flag: flag[1].replace("-", "_"), text)


class Trainer:
    """A training that may also be taken step by step. Arguments are those of coluber.train, without its callbacks.

        trainer = coluber.Trainer("book.txt", max_steps=100)
        while trainer.num_steps < 100:
            report = trainer.step()
        trainer.evaluate()
        trainer.run()        # or all of it

    `model` is trained in place.
    """

    @names_wrong_types
    def __init__(
        self,
        data=None,
        *,
        model: Union[Model, PathLike, None] = None,
        out: Optional[PathLike] = None,
        resume: Union[bool, PathLike, None] = None,
        overwrite: bool = False,
        name: Optional[str] = None,
        heldout=None,
        heldout_share: Optional[float] = None,
        text_field: Optional[str] = None,
        separator: Optional[str] = None,
        tokenizer: Union[Tokenizer, PathLike, None] = None,
        vocab_size: Optional[int] = None,
        preset: Optional[str] = None,
        d_model: Optional[int] = None,
        n_layer: Optional[int] = None,
        d_state: Optional[int] = None,
        d_conv: Optional[int] = None,
        dt_rank: Optional[int] = None,
        expand: Optional[float] = None,
        norm: Optional[str] = None,
        untied: Optional[bool] = None,
        dropout: Optional[float] = None,
        batch: Optional[int] = None,
        seqlen: Optional[int] = None,
        grad_accum: Optional[int] = None,
        lr: Optional[float] = None,
        lr_min_share: Optional[float] = None,
        schedule: Optional[str] = None,
        warmup: Optional[int] = None,
        weight_decay: Optional[float] = None,
        clip: Optional[float] = None,
        dtype: Optional[str] = None,
        recompute: Optional[str] = None,
        cuda_graph: Optional[str] = None,
        max_steps: Optional[int] = None,
        max_seconds: Optional[float] = None,
        eval_every: Optional[int] = None,
        eval_batches: Optional[int] = None,
        sample_every: Optional[int] = None,
        sample_prompt: Union[str, Sequence[str], None] = None,
        sample_tokens: Optional[int] = None,
        save_every: Optional[int] = None,
        keep: Optional[int] = None,
        seed: Optional[int] = None,
        threads: Optional[int] = None,
        device: Optional[str] = None,
    ):
        flags = {key: value for key, value in locals().items() if key in _FLAGS}
        self._work = tempfile.TemporaryDirectory(prefix="coluber-")
        try:
            self._begin(data, heldout, model, out, resume, overwrite, tokenizer, vocab_size, flags)
        finally:
            self._work.cleanup()  # what was opened from it stays mapped

    def _begin(self, data, heldout, model, out, resume, overwrite, tokenizer, vocab_size, flags) -> None:
        device = flags["device"]
        if model is not None and not isinstance(model, Model):
            model = Model.load(model, "f32", device=device or "auto")
        elif model is not None and device is not None and model.device not in (device, f"{device}:0"):
            raise ValueError(
                f"[train] device: expected {model.device}, where the model is, got {device} (move it with to())"
            )
        if tokenizer is None and model is not None:
            tokenizer = model.tokenizer
        if data is None and not resume:
            raise TypeError("[train] data: expected files, token ids or batches, got None")
        words = _words(flags)
        if out is not None:
            words.append(f"--out={os.fspath(out)}")
        if resume is not None and resume is not False:
            words.append("--resume" if resume is True else f"--resume={os.fspath(resume)}")
        if overwrite:
            words.append("--overwrite")
        native = {"ids": None, "heldout_ids": None, "batches": None, "heldout_batches": None, "num_heldout_batches": 0}
        files, self._batches = paths_of(data), None
        if data is None or files is not None:
            words += self._file_words(files or [], heldout, tokenizer, out)
            tokenizer = None
        elif is_tokens(data):
            native["ids"], native["heldout_ids"] = data, heldout
            tokenizer, vocab_size = self._vocabulary(data, heldout, tokenizer, vocab_size, model)
        else:
            tokenizer = self._own_batches(data, heldout, tokenizer, model, flags, words, native)
        try:
            self._native = _native.make_trainer(
                words, self._work.name, None if model is None else model._native, tokenizer,
                vocab_size=vocab_size or 0, num_threads=_native.get_num_threads(), **native,
            )
        except (ValueError, OSError, MemoryError, NotImplementedError) as error:
            text = str(error)
            if _in_our_words(text) == text:
                raise
            raise type(error)(_in_our_words(text)) from None
        self.model = model or Model._of(self._native.model)
        if self.model.tokenizer is None:
            self.model.tokenizer = self._native.tokenizer
        self.last_step: Optional[StepReport] = None
        self.checkpoint: Optional[str] = None
        self._grad_accum = flags["grad_accum"] or 1
        if self._batches is not None:
            self._batches.skip_to(self.num_steps * self._grad_accum)

    def _file_words(self, files, heldout, tokenizer, out) -> List[str]:
        held = [] if heldout is None else paths_of(heldout)
        if held is None:
            raise TypeError(f"[train] heldout: expected files, as data, got {type(heldout).__name__}")
        words = [f"--data={path}" for path in files] + [f"--heldout={path}" for path in held]
        if isinstance(tokenizer, Tokenizer):
            if tokenizer.kind == "bytes":
                tokenizer = "bytes"
            else:  # a resumed training finds it beside its checkpoints
                folder = self._work.name if out is None else os.fspath(out)
                os.makedirs(folder, exist_ok=True)
                tokenizer.save(folder)
                tokenizer = folder
        return words if tokenizer is None else words + [f"--tokenizer={os.fspath(tokenizer)}"]

    @staticmethod
    def _vocabulary(data, heldout, tokenizer, vocab_size, model):
        tokenizer = Tokenizer.load(tokenizer) if is_path(tokenizer) else tokenizer
        if vocab_size is None and tokenizer is not None:
            vocab_size = tokenizer.vocab_size
        if vocab_size is None and model is not None:
            vocab_size = model.config.vocab_size
        if vocab_size is None:
            raise TypeError("[train] vocab_size: expected a number, a tokenizer or a model beside token ids, got none")
        return tokenizer, vocab_size

    def _own_batches(self, data, heldout, tokenizer, model, flags, words, native):
        if not callable(data) and not isinstance(data, Iterable):
            raise TypeError(
                "[train] data: expected files, token ids, an iterable of batches or a function of their number, got "
                + type(data).__name__
            )
        if model is None and not any(word.startswith("--resume") for word in words):
            raise TypeError("[train] model: expected one beside batches of your own, got None")
        limited = flags["max_steps"] or flags["max_seconds"]
        window = flags["grad_accum"] or 1
        self._batches = Batches(data, window, bool(limited))
        native["batches"] = self._batches
        if not limited and hasattr(data, "__len__"):
            words.append(f"--max-steps={max(1, len(data) // window)}")
        if heldout is not None:
            held = list(heldout)
            native["heldout_batches"] = lambda index: batch_parts(held[index])
            native["num_heldout_batches"] = len(held)
        return Tokenizer.load(tokenizer) if is_path(tokenizer) else tokenizer

    def step(self) -> StepReport:
        """One optimiser step. FloatingPointError when loss or gradients stop being finite; ValueError when there is no
        further batch."""
        self.last_step = StepReport(*self._native.step(None))
        return self.last_step

    def evaluate(self) -> EvalReport:
        """Over the held-out data."""
        return EvalReport(*self._native.evaluate(None))

    def save(self) -> str:
        """Writes a checkpoint of now into out/checkpoints; returns its folder."""
        self.checkpoint = self._native.save(None)
        return self.checkpoint

    def estimate(self) -> dict:
        """What run() will need: bytes, seconds, steps, by trial steps that change nothing. MemoryError when it would
        not fit."""
        return self._native.estimate(None)

    def run(
        self,
        *,
        on_step: Optional[Callable[[StepReport], None]] = None,
        on_eval: Optional[Callable[[EvalReport], None]] = None,
        on_sample: Optional[Callable[[int, List[Sample]], None]] = None,
        on_checkpoint: Optional[Callable[[str], None]] = None,
        should_stop: Optional[Callable[[], bool]] = None,
        progress: Optional[bool] = None,
    ) -> TrainingRun:
        """Trains to the limit; see coluber.train."""
        hooks = Hooks(self, on_step, on_eval, on_sample, on_checkpoint, should_stop, progress)
        try:
            end = self._native.run(hooks)
        except KeyboardInterrupt:  # while a batch was made: the step before it was the last
            hooks.interrupted = True
            self._native.run(hooks)
            end = "interrupted"
        finally:
            hooks.close()
        if end == "stopped" and hooks.out_of_data:
            end = "done"
        run = TrainingRun(self, end)
        if end == "interrupted":
            saved = f" and saved; coluber.train(resume={self.out!r}) goes on" if self.out else ""
            error = KeyboardInterrupt(f"[train] stopped at step {self.num_steps}{saved}")
            error.run = run
            raise error
        return run

    @property
    def num_steps(self) -> int:
        """Finished steps, those of earlier runs included."""
        return self._native.num_steps

    @property
    def losses(self) -> List[Tuple[int, float]]:
        """(step, nats per token) of every step."""
        return self._native.losses

    @property
    def heldout_losses(self) -> List[Tuple[int, float]]:
        """(step, nats per token) of every evaluation."""
        return self._native.heldout_losses

    @property
    def tokenizer(self) -> Optional[Tokenizer]:
        return self.model.tokenizer

    @property
    def out(self) -> Optional[str]:
        return self._native.out or None

    def sample(self, prompts: Optional[Sequence[str]] = None) -> List[Sample]:
        """Texts that the model writes now, for the prompts given or those of the training; [] without a tokenizer."""
        if self.tokenizer is None:
            return []
        prompts = list(prompts or self._native.sample_prompts or [self._native.first_words])
        written = self.model.generate(
            [prompt or None for prompt in prompts], max_tokens=self._native.sample_tokens,
            temperature=_SAMPLE_TEMPERATURE, seed=self._native.seed,
        )
        return [Sample(prompt, one.text) for prompt, one in zip(prompts, written.results)]

    def __repr__(self) -> str:
        return f"coluber.Trainer({self.num_steps} steps done, {self.model._title()}, out={self.out!r})"


def train(
    data=None,
    *,
    on_step: Optional[Callable[[StepReport], None]] = None,
    on_eval: Optional[Callable[[EvalReport], None]] = None,
    on_sample: Optional[Callable[[int, List[Sample]], None]] = None,
    on_checkpoint: Optional[Callable[[str], None]] = None,
    should_stop: Optional[Callable[[], bool]] = None,
    progress: Optional[bool] = None,
    **options,
) -> TrainingRun:
    """Trains a language model, as `coluber train` does; options have the names and defaults of its flags.

        run = coluber.train("book.txt", out="model", max_seconds=300)
        run.model.generate("In the beginning").text
        coluber.train(out="model", resume=True, max_seconds=600)         # on, to the same bits as without the stop

    data: text files, JSON lines (*.jsonl) or a file of tokens; or token ids of one axis (with vocab_size, tokenizer or
    model); or batches: an iterable, or a function of their number, of ids (b,l), or of (ids, targets, resets), targets
    (b,l) with -1 where none counts (None: the next tokens). An iterable is read once, with a limit as often as needed.
    heldout: the same kind of thing to measure on; else heldout_share of the data (0.05) is set apart.

    Model: model= one to go on with, trained in place (f32); else a new one of preset, d_model (256), n_layer (4),
    d_state (16), d_conv (4), dt_rank, expand (2), norm ("rms"), untied, dropout, seed (0). tokenizer: "bytes", a path,
    "train:N" or a Tokenizer.
    Learning: batch (8), seqlen (512), grad_accum (1), lr (2e-3), lr_min_share (0.1), schedule ("cosine", "linear",
    "constant", "wsd"), warmup, weight_decay (0.1), clip (1), dtype of matrix products ("f32", "bf16"), recompute:
    what is made again in backward instead of kept, for less memory and the same bits ("none", "light", "scan",
    "layer"), cuda_graph: steps on a GPU as one graph where shapes repeat ("auto", "off").
    Limits: max_steps, max_seconds (300 when neither is given).
    On the way: eval_every (ten times in all), eval_batches (8), sample_every (three times), sample_prompt,
    sample_tokens (60), save_every (every ten minutes), keep (3).
    device: "auto" (a GPU where there is one), "cpu", "cuda", "cuda:1"; with model=, where that is.
    Folders: out: model, checkpoints, metrics.jsonl, loss.svg; None: nothing is written. resume: True, or a folder: on
    from its newest checkpoint, with the options that it was begun with. overwrite, name, threads.

    on_step(StepReport), on_eval(EvalReport), on_sample(step, [Sample]), on_checkpoint(folder) are called from this
    thread; what they raise ends the training. should_stop() is asked before every step. progress: a tqdm bar on
    stderr, where tqdm is installed; None: when stderr is a terminal.

    Ctrl-C ends it after the step: the checkpoint and the model are saved, and KeyboardInterrupt is raised, whose `run`
    is the TrainingRun so far. TypeError for unknown options, ValueError for values that do not fit, FloatingPointError
    when loss or gradients stop being finite, MemoryError when it would not fit.
    """
    trainer = Trainer(data, **options)
    return trainer.run(
        on_step=on_step, on_eval=on_eval, on_sample=on_sample, on_checkpoint=on_checkpoint, should_stop=should_stop,
        progress=progress,
    )
