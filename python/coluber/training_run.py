"""What a training tells: reports on the way, and the run at its end."""

import os
import sys
from typing import Any, List, NamedTuple, Optional, Tuple

from . import _native
from ._native import Tokenizer
from .model import Model

__all__ = ["EvalReport", "Sample", "StepReport", "TrainingRun"]


class StepReport(NamedTuple):
    """One optimiser step. `loss` in nats per token; `tokens` read and `seconds` trained so far."""

    step: int
    total_steps: int
    loss: float
    lr: float
    grad_norm: float
    tokens: int
    seconds: float
    tokens_per_s: float


class EvalReport(NamedTuple):
    """Loss over the held-out data, in nats per token; bits_per_byte is 0 where the bytes are unknown."""

    step: int
    heldout_loss: float
    heldout_tokens: int
    bits_per_byte: float


class Sample(NamedTuple):
    prompt: str
    text: str


class TrainingRun:
    """What a training was: its curves, its model. In a notebook it shows the picture of its loss."""

    def __init__(self, trainer: Any, end: str):
        self.model: Model = trainer.model
        self.tokenizer: Optional[Tokenizer] = trainer.tokenizer
        self.losses: List[Tuple[int, float]] = trainer.losses
        self.heldout_losses: List[Tuple[int, float]] = trainer.heldout_losses
        self.out: Optional[str] = trainer.out
        self.num_steps: int = trainer.num_steps
        self.seconds: float = trainer.last_step.seconds if trainer.last_step else 0.0
        self.stopped: bool = end != "done"  # before its limit
        self.checkpoint: Optional[str] = trainer.checkpoint  # the newest one written
        self._title = os.path.basename(os.path.normpath(self.out)) if self.out else "training"

    def plot(self, ax=None):
        """Draws both losses over steps with matplotlib (ImportError without it); returns the axes."""
        if ax is None:
            from matplotlib import pyplot

            ax = pyplot.figure(figsize=(7, 4)).add_subplot()
        self._draw(ax)
        return ax

    def _draw(self, ax) -> None:
        if self.losses:
            ax.plot(*zip(*self.losses), linewidth=0.8, label="training")
        if self.heldout_losses:
            ax.plot(*zip(*self.heldout_losses), marker="o", label="held out")
        ax.set_xlabel("step")
        ax.set_ylabel("loss, nats per token")
        ax.set_title(self._title)
        if ax.get_legend_handles_labels()[0]:
            ax.legend()

    def to_svg(self) -> str:
        """The picture of the loss that is also written beside the model, as SVG."""
        return _native.loss_picture(self._title, self.losses, self.heldout_losses)

    def _repr_html_(self) -> str:
        return self.to_svg()

    def _repr_png_(self) -> Optional[bytes]:
        try:
            from matplotlib.backends.backend_agg import FigureCanvasAgg
            from matplotlib.figure import Figure
        except ImportError:
            return None
        import io

        figure = Figure(figsize=(7, 4))
        FigureCanvasAgg(figure)
        self._draw(figure.add_subplot())
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=100)
        return buffer.getvalue()

    def __repr__(self) -> str:
        parts = [f"{self.num_steps} steps in {self.seconds:.1f} s"]
        if self.losses:
            parts.append(f"loss {self.losses[-1][1]:.3f}")
        if self.heldout_losses:
            parts.append(f"held-out {self.heldout_losses[-1][1]:.3f}")
        if self.stopped:
            parts.append("stopped early")
        return f"coluber.TrainingRun({', '.join(parts)}, out={self.out!r})"


class Hooks:
    """What a run calls: the caller's functions and the bar."""

    def __init__(self, trainer: Any, on_step, on_eval, on_sample, on_checkpoint, should_stop, progress):
        given = {"on_step": on_step, "on_eval": on_eval, "on_sample": on_sample, "on_checkpoint": on_checkpoint,
                 "should_stop": should_stop}
        for name, hook in given.items():
            if hook is not None and not callable(hook):
                raise TypeError(f"[train] {name}: expected a function, got {type(hook).__name__}")
        self._trainer = trainer
        self._on_step, self._on_eval, self._on_sample = on_step, on_eval, on_sample
        self._on_checkpoint, self._should_stop = on_checkpoint, should_stop
        self._bar = _bar(progress, trainer.num_steps)
        self._loss = 0.0  # running mean
        self.out_of_data = False
        self.interrupted = False

    def on_step(self, *values) -> None:
        report = self._trainer.last_step = StepReport(*values)
        if self._bar is not None:
            self._loss = 0.95 * self._loss + 0.05 * report.loss if self._loss else report.loss
            self._bar.total = report.total_steps
            self._bar.set_postfix_str(f"loss {self._loss:.3f}", refresh=False)
            self._bar.update()
        if self._on_step is not None:
            self._on_step(report)

    def on_eval(self, *values) -> None:
        if self._on_eval is not None:
            self._on_eval(EvalReport(*values))

    def on_sample(self, step: int) -> None:
        if self._on_sample is not None:
            self._on_sample(step, self._trainer.sample())

    def on_checkpoint(self, folder: str) -> None:
        self._trainer.checkpoint = folder
        if self._on_checkpoint is not None:
            self._on_checkpoint(folder)

    def should_stop(self) -> bool:
        if self.interrupted:
            return True
        batches, count = self._trainer._batches, self._trainer._grad_accum
        if batches is not None and not batches.has(count, self._trainer.num_steps * count):
            self.out_of_data = True
            return True
        return self._should_stop is not None and bool(self._should_stop())

    def close(self) -> None:
        if self._bar is not None:
            self._bar.close()


def _bar(progress: Optional[bool], done: int):
    if progress is False or (progress is None and not sys.stderr.isatty()):
        return None
    try:
        from tqdm.auto import tqdm
    except ImportError:
        return None
    return tqdm(desc="training", unit="step", initial=done)
