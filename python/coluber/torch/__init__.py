"""Coluber for torch: the names of mamba-ssm and causal-conv1d, with their arguments, layouts and gradients, on CPUs and
NVIDIA GPUs.

    from coluber.torch import Mamba, selective_scan_fn

Tensors are shared with torch by DLPack, without copies. Every function works under autograd, and with torch 2.4 or
newer under torch.compile without graph breaks. On a GPU work goes to torch's current stream and memory is of torch's
allocator, so that streams, record_stream and CUDA graphs mean what they do for torch's own operations.
"""

try:
    import torch as _torch
except ImportError as error:
    raise ImportError("[coluber.torch] torch: expected it to be installed, it is not (pip install torch)") from error

from .block import Block, GatedMLP
from .causal_conv1d import causal_conv1d_fn, causal_conv1d_update, causal_conv1d_varlen_states
from .generation import InferenceParams
from .install import install_as_mamba_ssm
from .language_model import MambaConfig, MambaLMHeadModel, MixerModel
from .layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from .mamba import Mamba
from .selective_scan import mamba_inner_fn, selective_scan_fn, selective_state_update

__all__ = [
    "Block",
    "GatedMLP",
    "InferenceParams",
    "Mamba",
    "MambaConfig",
    "MambaLMHeadModel",
    "MixerModel",
    "RMSNorm",
    "causal_conv1d_fn",
    "causal_conv1d_update",
    "causal_conv1d_varlen_states",
    "install_as_mamba_ssm",
    "layer_norm_fn",
    "mamba_inner_fn",
    "rms_norm_fn",
    "selective_scan_fn",
    "selective_state_update",
]
