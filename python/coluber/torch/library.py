"""The ops as registered custom operators, coluber::*, for what traces programs: torch.compile, torch.export.

Eager calls do not come here: a registered operator costs more per call than an autograd.Function. Both run the same
native functions. Backward of the scan computes the states again: its checkpoints have no shape that could be traced.
"""

from typing import List, Optional, Tuple

import torch
from torch import Tensor

from ._autograd import native

if not hasattr(torch.library, "custom_op"):
    raise NotImplementedError("[coluber.torch] torch.compile: expected torch 2.4 or newer, got " + torch.__version__)


def _channels(like):  # (b,d,l) in the memory order of (b,l,d)
    b, d, l = like.shape
    return like.new_empty((b, l, d)).transpose(1, 2)


def _matrix(like, complex_A):
    if complex_A or like.dim() == 2:
        return like.new_empty(like.shape)
    if like.dim() == 3:
        return _channels(like)
    b, g, n, l = like.shape
    return like.new_empty((b, l, g, n)).permute(0, 2, 3, 1)


def _given(*tensors):
    return [t for t in tensors if t is not None]


def _typed(grads, inputs):
    """The gradients of the inputs that are there, in their dtypes."""
    return [g.to(t.dtype) for g, t in zip(grads, inputs) if t is not None]


def _spread(grads, inputs):
    """The opposite: None where there was no input."""
    following = iter(grads)
    return [None if t is None else next(following) for t in inputs]


@torch.library.custom_op("coluber::selective_scan", mutates_args=())
def selective_scan(
    u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor, D: Optional[Tensor], z: Optional[Tensor],
    delta_bias: Optional[Tensor], softplus: bool, state_in: Optional[Tensor], cu_seqlens: Optional[Tensor],
    resets: Optional[Tensor],
) -> Tuple[Tensor, Tensor]:
    out, state, _ = native.scan_forward(
        u, delta, A, B, C, D, z, delta_bias, softplus, state_in, cu_seqlens, resets, True, False
    )
    return out, state


@selective_scan.register_fake
def _(u, delta, A, B, C, D, z, delta_bias, softplus, state_in, cu_seqlens, resets):
    slots = u.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    double = u.dtype == torch.float64
    real = torch.float64 if double else torch.float32
    dtype = (torch.complex128 if double else torch.complex64) if A.is_complex() else real
    return _channels(u), u.new_empty((slots, *A.shape), dtype=dtype)


@torch.library.custom_op("coluber::selective_scan_backward", mutates_args=())
def selective_scan_backward(
    grad_out: Optional[Tensor], grad_state: Optional[Tensor], u: Tensor, delta: Tensor, A: Tensor, B: Tensor, C: Tensor,
    D: Optional[Tensor], z: Optional[Tensor], delta_bias: Optional[Tensor], softplus: bool, state_in: Optional[Tensor],
    cu_seqlens: Optional[Tensor], resets: Optional[Tensor],
) -> List[Tensor]:
    grads = native.scan_backward(
        grad_out, grad_state, None, u, delta, A, B, C, D, z, delta_bias, softplus, state_in, cu_seqlens, resets
    )
    return _typed(grads, (u, delta, A, B, C, D, z, delta_bias, state_in))


@selective_scan_backward.register_fake
def _(grad_out, grad_state, u, delta, A, B, C, D, z, delta_bias, softplus, state_in, cu_seqlens, resets):
    complex_A = A.is_complex()
    grads = [_channels(u), _channels(delta), A.new_empty(A.shape), _matrix(B, complex_A), _matrix(C, complex_A)]
    grads += [] if D is None else [D.new_empty(D.shape)]
    grads += [] if z is None else [_channels(z)]
    return grads + [t.new_empty(t.shape) for t in _given(delta_bias, state_in)]


def _scan_setup(ctx, inputs, output):
    ctx.softplus = inputs[8]
    ctx.save_for_backward(*(t for i, t in enumerate(inputs) if i != 8))
    ctx.set_materialize_grads(False)


def _scan_backward(ctx, grad_out, grad_state):
    u, delta, A, B, C, D, z, delta_bias, state_in, cu_seqlens, resets = ctx.saved_tensors
    grads = selective_scan_backward(
        grad_out, grad_state, u, delta, A, B, C, D, z, delta_bias, ctx.softplus, state_in, cu_seqlens, resets
    )
    *grads, grad_state_in = _spread(grads, (u, delta, A, B, C, D, z, delta_bias, state_in))
    return (*grads, None, grad_state_in, None, None)


selective_scan.register_autograd(_scan_backward, setup_context=_scan_setup)


@torch.library.custom_op("coluber::causal_conv1d", mutates_args=())
def causal_conv1d(
    x: Tensor, weight: Tensor, bias: Optional[Tensor], silu: bool, state_in: Optional[Tensor],
    cu_seqlens: Optional[Tensor], resets: Optional[Tensor],
) -> Tuple[Tensor, Tensor]:
    return native.conv_forward(x, weight, bias, silu, state_in, cu_seqlens, resets, True)


@causal_conv1d.register_fake
def _(x, weight, bias, silu, state_in, cu_seqlens, resets):
    slots = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
    return _channels(x), x.new_empty((slots, x.shape[1], weight.shape[1] - 1))


@torch.library.custom_op("coluber::causal_conv1d_backward", mutates_args=())
def causal_conv1d_backward(
    grad_out: Optional[Tensor], grad_state: Optional[Tensor], x: Tensor, weight: Tensor, bias: Optional[Tensor],
    silu: bool, state_in: Optional[Tensor], cu_seqlens: Optional[Tensor], resets: Optional[Tensor],
) -> List[Tensor]:
    grads = native.conv_backward(grad_out, grad_state, x, weight, bias, silu, state_in, cu_seqlens, resets)
    return _typed(grads, (x, weight, bias, state_in))


@causal_conv1d_backward.register_fake
def _(grad_out, grad_state, x, weight, bias, silu, state_in, cu_seqlens, resets):
    return [_channels(x)] + [t.new_empty(t.shape) for t in _given(weight, bias, state_in)]


def _conv_setup(ctx, inputs, output):
    ctx.silu = inputs[3]
    ctx.save_for_backward(*(t for i, t in enumerate(inputs) if i != 3))
    ctx.set_materialize_grads(False)


def _conv_backward(ctx, grad_out, grad_state):
    x, weight, bias, state_in, cu_seqlens, resets = ctx.saved_tensors
    grads = causal_conv1d_backward(grad_out, grad_state, x, weight, bias, ctx.silu, state_in, cu_seqlens, resets)
    *grads, grad_state_in = _spread(grads, (x, weight, bias, state_in))
    return (*grads, None, grad_state_in, None, None)


causal_conv1d.register_autograd(_conv_backward, setup_context=_conv_setup)


@torch.library.custom_op("coluber::norm", mutates_args=())
def _norm_op(
    x: Tensor, weight: Optional[Tensor], bias: Optional[Tensor], residual: Optional[Tensor], rms: bool, eps: float
) -> List[Tensor]:
    return [t for t in native.norm_forward(x, weight, bias, residual, rms, eps) if t is not None]


@_norm_op.register_fake
def _(x, weight, bias, residual, rms, eps):
    return [t.new_empty(t.shape) for t in _given(x, residual)]


@torch.library.custom_op("coluber::norm_backward", mutates_args=())
def norm_backward(
    grad_y: Optional[Tensor], grad_total: Optional[Tensor], total: Tensor, weight: Optional[Tensor],
    bias: Optional[Tensor], rms: bool, eps: float,
) -> List[Tensor]:
    return _typed(native.norm_backward(grad_y, grad_total, total, weight, bias, rms, eps), (total, weight, bias))


@norm_backward.register_fake
def _(grad_y, grad_total, total, weight, bias, rms, eps):
    return [t.new_empty(t.shape) for t in _given(total, weight, bias)]


def _norm_setup(ctx, inputs, output):
    x, weight, bias, residual, ctx.rms, ctx.eps = inputs
    ctx.has_residual, ctx.dtype = residual is not None, x.dtype
    ctx.save_for_backward(output[1] if ctx.has_residual else x, weight, bias)


def _norm_backward(ctx, grads):
    total, weight, bias = ctx.saved_tensors
    grad_total = grads[1] if ctx.has_residual else None
    found = norm_backward(grads[0], grad_total, total, weight, bias, ctx.rms, ctx.eps)
    grad_x, grad_weight, grad_bias = _spread(found, (total, weight, bias))
    return grad_x.to(ctx.dtype), grad_weight, grad_bias, grad_x if ctx.has_residual else None, None, None


_norm_op.register_autograd(_norm_backward, setup_context=_norm_setup)


def norm(x, weight, bias, residual, rms, eps):
    results = _norm_op(x, weight, bias, residual, rms, eps)
    return results[0] if residual is None else (results[0], results[1])
