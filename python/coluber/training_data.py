"""What a training learns from, as Python has it: paths, token ids, batches."""

import os
from collections.abc import Sequence
from typing import Any, List, Optional, Tuple

__all__ = []


class Batches:
    """A function of the number of a batch, from a function or an iterable; keeps the batches of the step at hand."""

    def __init__(self, source, window: int, endless: bool):
        self._source, self._window, self._endless = source, window, endless
        self._call = source if callable(source) else None
        self._iterator = None if self._call else iter(source)
        self._restarts = self._iterator is not source and endless
        self._kept = {}
        self._next = 0

    def skip_to(self, index: int) -> None:
        """A training that goes on does not read again what was read before."""
        while not self._call and self._next < index and self._fetch():
            pass

    def has(self, count: int, first: int) -> bool:
        """Whether `count` batches from number `first` are there."""
        if self._call:
            return True
        while self._next < first + count:
            if not self._fetch():
                return False
        return True

    def _fetch(self) -> bool:
        try:
            batch = next(self._iterator)
        except StopIteration:
            if not self._restarts:
                return False
            self._iterator = iter(self._source)
            batch = next(self._iterator, None)
            if batch is None:
                return False
        self._kept[self._next] = batch_parts(batch)
        self._next += 1
        self._kept.pop(self._next - 1 - 2 * self._window, None)
        return True

    def __call__(self, index: int):
        if self._call:
            return batch_parts(self._call(index))
        if not self.has(1, index):
            raise ValueError(f"[train] data: expected a batch number {index}, got {self._next} in all")
        if index not in self._kept:
            raise ValueError(
                f"[train] data: expected batches in order, got number {index} after {self._next - 1} "
                "(give a function of the number to go back)"
            )
        return self._kept[index]


def batch_parts(batch) -> Tuple[Any, Any, Any]:
    if isinstance(batch, dict):
        unknown = set(batch) - {"ids", "targets", "resets"}
        if unknown or "ids" not in batch:
            raise TypeError(f"[train] batch: expected keys ids, targets and resets, got {', '.join(map(str, batch))}")
        return batch["ids"], batch.get("targets"), batch.get("resets")
    if isinstance(batch, tuple) or (isinstance(batch, list) and batch and hasattr(batch[0], "ndim")):
        if not 1 <= len(batch) <= 3:
            raise TypeError(f"[train] batch: expected ids, targets and resets, got {len(batch)} parts")
        return (*batch, None, None)[:3]
    return batch, None, None


def is_path(value) -> bool:
    return isinstance(value, (str, os.PathLike))


def is_tokens(data) -> bool:
    """An array or sequence of token ids of one axis."""
    if hasattr(data, "ndim"):
        return data.ndim == 1
    return isinstance(data, Sequence) and len(data) > 0 and isinstance(data[0], int)


def paths_of(data) -> Optional[List[str]]:
    if is_path(data):
        return [os.fspath(data)]
    if isinstance(data, (list, tuple)) and data and all(is_path(item) for item in data):
        return [os.fspath(item) for item in data]
    return None
