"""A residual block around a mixer, and the gated MLP that some models put behind it."""

import torch
import torch.nn.functional as F
from torch import nn

from .layer_norm import RMSNorm, layer_norm_fn


class GatedMLP(nn.Module):
    """fc2(value activation(gate)), value and gate = split(fc1 x)."""

    def __init__(
        self, in_features, hidden_features=None, out_features=None, activation=F.silu, bias=False, multiple_of=128,
        device=None, dtype=None,
    ):
        super().__init__()
        out_features = in_features if out_features is None else out_features
        hidden = int(8 * in_features / 3) if hidden_features is None else hidden_features
        hidden = -(-hidden // multiple_of) * multiple_of
        self.fc1 = nn.Linear(in_features, 2 * hidden, bias=bias, device=device, dtype=dtype)
        self.activation = activation
        self.fc2 = nn.Linear(hidden, out_features, bias=bias, device=device, dtype=dtype)

    def forward(self, x):
        value, gate = self.fc1(x).chunk(2, dim=-1)
        return self.fc2(value * self.activation(gate))


class Block(nn.Module):
    """residual = hidden_states + residual; hidden_states = mixer(norm(residual)); both are returned, so that the next
    block's sum and norm are one op. With an MLP the same once more."""

    def __init__(self, dim, mixer_cls, mlp_cls, norm_cls=nn.LayerNorm, fused_add_norm=False, residual_in_fp32=False):
        super().__init__()
        self.residual_in_fp32 = residual_in_fp32
        self.fused_add_norm = fused_add_norm
        self.norm = norm_cls(dim)
        self.mixer = mixer_cls(dim)
        self.mlp = None
        if mlp_cls is not nn.Identity:
            self.norm2 = norm_cls(dim)
            self.mlp = mlp_cls(dim)
        if fused_add_norm and not isinstance(self.norm, (nn.LayerNorm, RMSNorm)):
            raise TypeError(
                f"[block] norm_cls: expected LayerNorm or RMSNorm with fused_add_norm, got {type(self.norm).__name__}"
            )

    def _add_norm(self, norm, hidden_states, residual):
        if self.fused_add_norm:
            return layer_norm_fn(
                hidden_states, norm.weight, norm.bias, residual=residual, prenorm=True,
                residual_in_fp32=self.residual_in_fp32, eps=norm.eps, is_rms_norm=isinstance(norm, RMSNorm),
            )
        residual = hidden_states if residual is None else hidden_states + residual
        hidden_states = norm(residual.to(dtype=norm.weight.dtype))
        return hidden_states, residual.to(torch.float32) if self.residual_in_fp32 else residual

    def forward(self, hidden_states, residual=None, inference_params=None, **mixer_kwargs):
        """(hidden_states, residual), both (b,l,m); residual None: the first block. mixer_kwargs go to the mixer."""
        hidden_states, residual = self._add_norm(self.norm, hidden_states, residual)
        hidden_states = self.mixer(hidden_states, inference_params=inference_params, **mixer_kwargs)
        if self.mlp is not None:
            hidden_states, residual = self._add_norm(self.norm2, hidden_states, residual)
            hidden_states = self.mlp(hidden_states)
        return hidden_states, residual

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None, **kwargs):
        return self.mixer.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **kwargs)
