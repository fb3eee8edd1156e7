"""Coluber: selective state-space sequence models (Mamba), native and fast on any CPU.

    import coluber
    model = coluber.Model.load("path/to/mamba-130m")

    from coluber import Mamba            # a torch module, when torch is there

Nothing here needs torch or numpy until you use a part that does.
"""

import importlib
import os as _os

from ._native import (
    Array,
    LayerState,
    SamplingOptions,
    State,
    __version__,
    array,
    cpu_isa,
    get_num_threads,
    memory_stats,
    release_cached_memory,
    set_num_threads,
)

# Names that live in modules of their own, imported at their first use.
_LAZY = {
    name: module
    for module, names in {
        ".config": ("ModelConfig",),
        ".generation": ("Generation", "GenerationStream", "Session"),
        ".model": ("LossSum", "Model"),
        ".tokenizer": ("StreamDecoder", "Tokenizer"),
        ".training": ("Trainer", "train"),
        ".training_run": ("EvalReport", "Sample", "StepReport", "TrainingRun"),
        ".torch": (
            "Block",
            "InferenceParams",
            "Mamba",
            "MambaConfig",
            "MambaLMHeadModel",
            "MixerModel",
            "RMSNorm",
            "causal_conv1d_fn",
            "causal_conv1d_update",
            "install_as_mamba_ssm",
            "layer_norm_fn",
            "mamba_inner_fn",
            "rms_norm_fn",
            "selective_scan_fn",
            "selective_state_update",
        ),
    }.items()
    for name in names
}
_MODULES = {"ops", "torch"}

__all__ = [
    "Array",
    "LayerState",
    "SamplingOptions",
    "State",
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


if _os.environ.get("COLUBER_AS_MAMBA_SSM") == "1":
    __getattr__("install_as_mamba_ssm")()
