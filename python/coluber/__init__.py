"""Coluber: selective state-space sequence models (Mamba), native and fast on any CPU.

    import coluber
    model = coluber.Model.load("path/to/mamba-130m")

    from coluber import Mamba            # a torch module, when torch is there

Nothing here needs torch or numpy until you use a part that does.
"""

import importlib

from ._native import (
    Array,
    __version__,
    array,
    cpu_isa,
    get_num_threads,
    memory_stats,
    release_cached_memory,
    set_num_threads,
)

# Names that live in modules of their own, imported at their first use.
_LAZY = {}
_MODULES = {"ops"}

__all__ = [
    "Array",
    "__version__",
    "array",
    "cpu_isa",
    "get_num_threads",
    "memory_stats",
    "release_cached_memory",
    "set_num_threads",
    *_LAZY,
    *_MODULES,
]


def __getattr__(name):
    if name in _MODULES:
        return importlib.import_module("." + name, __name__)
    if name in _LAZY:
        value = getattr(importlib.import_module(_LAZY[name], __name__), name)
        globals()[name] = value
        return value
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__():
    return sorted(__all__)
