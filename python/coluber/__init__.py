"""Coluber: selective state-space sequence models (Mamba), native and fast on any CPU and NVIDIA GPU.

    import coluber
    model = coluber.Model.load("path/to/mamba-130m")

    from coluber import Mamba            # a torch module, when torch is there

Nothing here needs torch or numpy until you use a part that does.
"""

import importlib
import os as _os
from typing import TYPE_CHECKING

from . import arguments as _arguments

_arguments.name_wrong_types_of_natives()

from ._native import (
    Array,
    CudaDeviceInfo,
    LayerState,
    SamplingOptions,
    State,
    StreamScope,
    __version__,
    array,
    cpu_isa,
    cuda_device_count,
    cuda_device_info,
    cuda_unavailable_reason,
    get_num_threads,
    memory_stats,
    release_cached_memory,
    set_num_threads,
    synchronize,
)

from . import pickling as _pickling

# What type checkers see of the names that are imported at their first use, and of _LAZY below.
if TYPE_CHECKING:
    from . import ops as ops
    from . import torch as torch
    from .config import ModelConfig as ModelConfig
    from .generation import Generation as Generation
    from .generation import GenerationStream as GenerationStream
    from .generation import Session as Session
    from .model import LossSum as LossSum
    from .model import Model as Model
    from .tokenizer import StreamDecoder as StreamDecoder
    from .tokenizer import Tokenizer as Tokenizer
    from .training import Trainer as Trainer
    from .training import train as train
    from .training_run import EvalReport as EvalReport
    from .training_run import Sample as Sample
    from .training_run import StepReport as StepReport
    from .training_run import TrainingRun as TrainingRun
    from .torch import Block as Block
    from .torch import InferenceParams as InferenceParams
    from .torch import Mamba as Mamba
    from .torch import MambaConfig as MambaConfig
    from .torch import MambaLMHeadModel as MambaLMHeadModel
    from .torch import MixerModel as MixerModel
    from .torch import RMSNorm as RMSNorm
    from .torch import causal_conv1d_fn as causal_conv1d_fn
    from .torch import causal_conv1d_update as causal_conv1d_update
    from .torch import install_as_mamba_ssm as install_as_mamba_ssm
    from .torch import layer_norm_fn as layer_norm_fn
    from .torch import mamba_inner_fn as mamba_inner_fn
    from .torch import rms_norm_fn as rms_norm_fn
    from .torch import selective_scan_fn as selective_scan_fn
    from .torch import selective_state_update as selective_state_update

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
    "CudaDeviceInfo",
    "LayerState",
    "SamplingOptions",
    "State",
    "StreamScope",
    "__version__",
    "array",
    "cpu_isa",
    "cuda_device_count",
    "cuda_device_info",
    "cuda_unavailable_reason",
    "get_num_threads",
    "memory_stats",
    "release_cached_memory",
    "set_num_threads",
    "synchronize",
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
