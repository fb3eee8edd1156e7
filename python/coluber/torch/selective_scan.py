"""The selective scan in the published layout, channels (b,d,l), and the functions made of it."""

import torch
import torch.nn.functional as F

from ._autograd import differentiable, is_compiling, native, once_differentiable, refuse_grad, resets_of
from .causal_conv1d import causal_conv1d_fn
from .layer_norm import rms_norm_fn

_forward = native.scan_forward
_backward = native.scan_backward


class _SelectiveScan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, A, B, C, D, z, delta_bias, state_in, constants):
        softplus, cu_seqlens, resets, want_state = constants
        out, state, saved = _forward(
            u, delta, A, B, C, D, z, delta_bias, softplus, state_in, cu_seqlens, resets, want_state, True
        )
        ctx.save_for_backward(u, delta, A, B, C, D, z, delta_bias, state_in, cu_seqlens, resets, saved)
        ctx.softplus = softplus
        ctx.set_materialize_grads(False)
        return (out, state) if want_state else out

    @staticmethod
    @once_differentiable("selective_scan")
    def backward(ctx, grad_out, grad_state=None):
        u, delta, A, B, C, D, z, delta_bias, state_in, cu_seqlens, resets, saved = ctx.saved_tensors
        *grads, grad_state_in = _backward(
            grad_out, grad_state, saved, u, delta, A, B, C, D, z, delta_bias, ctx.softplus, state_in, cu_seqlens, resets
        )
        return (*grads, grad_state_in, None)


_differentiable_scan = differentiable(_SelectiveScan)


def _scan(u, delta, A, B, C, D, z, delta_bias, softplus, state_in, cu_seqlens, resets, want_state):
    if is_compiling():
        from . import library

        out, state = library.selective_scan(u, delta, A, B, C, D, z, delta_bias, softplus, state_in, cu_seqlens, resets)
        return (out, state) if want_state else out
    if torch.is_grad_enabled():
        constants = (softplus, cu_seqlens, resets, want_state)  # in one: torch looks at each argument
        return _differentiable_scan(u, delta, A, B, C, D, z, delta_bias, state_in, constants)
    out, state, _ = _forward(
        u, delta, A, B, C, D, z, delta_bias, softplus, state_in, cu_seqlens, resets, want_state, False
    )
    return (out, state) if want_state else out


def selective_scan_fn(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False,
    *, initial_state=None, seq_idx=None, cu_seqlens=None,
):
    """h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t; y_t = C_t h_t + D u_t; out = y silu(z).

    u, delta, z, out: (b,d,l). A: (d,n), real or complex. B, C: constant (d,n), variable (b,n,l) or grouped (b,g,n,l);
    with a complex A, re and im interleaved along l. D, delta_bias: (d,). dt = delta + delta_bias, then softplus when
    delta_softplus. With return_last_state also the state (b,d,n) after the last token.

    Beyond the published function: gradients through the last state, `initial_state` (b,d,n), and packed rows, told by
    `seq_idx` (b,l) or, for b = 1, `cu_seqlens` (s+1); states then are (s,d,n).
    """
    return _scan(
        u, delta, A, B, C, D, z, delta_bias, delta_softplus, initial_state, cu_seqlens, resets_of(seq_idx),
        return_last_state,
    )


def selective_state_update(
    state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False, state_batch_indices=None
):
    """One token of the scan; `state` is updated in place.

    state: (b,d,n) or (b,h,d,n). x, dt, z, out: (b,d) or (b,h,d). A: (d,n) or (h,d,n). B, C: (b,n) or (b,g,n).
    D, dt_bias: (d,) or (h,d). state_batch_indices (b,): rows of a larger state; -1: no row, the output is 0.

    A state of 16 bits is computed in float32 and rounded, and out is read from it as it is stored: out and the next
    token follow from one state, as in the published reference (the published kernel reads out before it rounds)."""
    hint = "it updates the state in place: use selective_scan_fn"
    if not isinstance(state, torch.Tensor):
        raise TypeError(f"[selective_state_update] state: expected a torch tensor, got {type(state).__name__}")
    refuse_grad("selective_state_update", hint, state=state, x=x, dt=dt, B=B, C=C, z=z)
    if state.dim() not in (3, 4):
        raise ValueError(
            f"[selective_state_update] state: expected (b,d,n) or (b,h,d,n), got {tuple(state.shape)}"
        )
    with torch.no_grad():
        if state_batch_indices is None:
            return _update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus)
        kept = state_batch_indices >= 0
        places = state_batch_indices[kept].long()
        rows = state[places]
        out = torch.zeros_like(x)
        out[kept] = _update(
            rows, x[kept], dt[kept], A, B[kept], C[kept], D, None if z is None else z[kept], dt_bias, dt_softplus
        )
        state[places] = rows
        return out


def _update(state, x, dt, A, B, C, D, z, dt_bias, dt_softplus):
    heads = state.dim() == 4

    def flat(tensor, axes):  # joins the axes of heads and channels
        if tensor is None or not heads:
            return tensor
        return tensor.reshape(*tensor.shape[:axes], -1, *tensor.shape[axes + 2 :])

    h = flat(state, 1)
    rounded = h.dtype in (torch.float16, torch.bfloat16)
    work = h.float() if rounded else h
    if work.dtype == torch.float32 and x.dtype == torch.float64:
        raise TypeError("[selective_state_update] state: expected float64 as x, got float32")
    work = work.contiguous()
    x_, dt_, A_, D_, z_ = flat(x, 1), flat(dt, 1), flat(A, 0), flat(D, 0), flat(z, 1)
    out = native.scan_step(work, x_, dt_, A_, B, C, D_, z_, flat(dt_bias, 0), dt_softplus)
    if work is not h or h.data_ptr() != state.data_ptr():
        state.copy_(work.reshape(state.shape))
    if rounded:  # a token that takes no time leaves a state as it is and reads it out
        stored = flat(state, 1).float().contiguous()
        out = native.scan_step(stored, x_, torch.zeros_like(dt_), torch.zeros_like(A_), B, C, D_, z_, None, False)
    return out.reshape(x.shape)


def mamba_inner_fn(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias,
    A, B=None, C=None, D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True,
    checkpoint_lvl=1, b_rms_weight=None, c_rms_weight=None, dt_rms_weight=None, b_c_dt_rms_eps=1e-6,
):
    """The Mamba block after in_proj: xz (b,2d,l) -> (b,l,m). B and C are read from x where they are None.

    `checkpoint_lvl` chooses between memory and time in the published function; here both values give the same."""
    if checkpoint_lvl not in (0, 1):
        raise ValueError(f"[mamba_inner_fn] checkpoint_lvl: expected 0 or 1, got {checkpoint_lvl}")
    rank, length = delta_proj_weight.shape[1], xz.shape[-1]
    x, z = xz.chunk(2, dim=1)
    x = causal_conv1d_fn(x, conv1d_weight.squeeze(1), conv1d_bias, activation="silu")
    x_dbl = F.linear(x.transpose(1, 2), x_proj_weight)  # (b,l,u+...)
    delta = F.linear(x_dbl[..., :rank], delta_proj_weight).transpose(1, 2)
    width = A.shape[-1] * (2 if A.is_complex() else 1)

    def part(given, first, bias, rms_weight):
        if given is not None:
            return given
        matrix = x_dbl[..., first : first + width]
        if bias is not None:
            matrix = matrix + bias.to(matrix.dtype)
        if rms_weight is not None:
            matrix = rms_norm_fn(matrix, rms_weight, None, eps=b_c_dt_rms_eps)
        if A.is_complex():  # (b,l,n re im) -> (b,n,l re im)
            return matrix.unflatten(-1, (-1, 2)).permute(0, 2, 1, 3).reshape(matrix.shape[0], -1, 2 * length)
        return matrix.transpose(1, 2)

    # As published: B directly after delta, C at the end.
    matrix_B = part(B, rank, B_proj_bias, b_rms_weight)
    matrix_C = part(C, x_dbl.shape[-1] - width, C_proj_bias, c_rms_weight)
    if dt_rms_weight is not None:
        delta = rms_norm_fn(delta.transpose(1, 2), dt_rms_weight, None, eps=b_c_dt_rms_eps).transpose(1, 2)
    y = selective_scan_fn(x, delta, A, matrix_B, matrix_C, D, z, delta_bias, delta_softplus)
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)
