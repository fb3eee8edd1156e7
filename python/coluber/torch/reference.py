"""The functions in plain torch operations, token by token: what the fast ones mean, under their published names."""

import torch
import torch.nn.functional as F

from .causal_conv1d import causal_conv1d_fn
from .selective_scan import selective_scan_fn


def _wide(tensor):
    return tensor.float() if tensor.dtype in (torch.float16, torch.bfloat16) else tensor


def _per_channel(matrix, d, complex_A):
    """B or C as a function of t: (d,n) or (b,d,n)."""
    if matrix.dim() == 2:
        return lambda t: matrix
    matrix = _wide(matrix)
    if complex_A:
        matrix = torch.view_as_complex(matrix.unflatten(-1, (-1, 2)).contiguous())
    if matrix.dim() == 3:
        return lambda t: matrix[..., t].unsqueeze(1)
    matrix = matrix.repeat_interleave(d // matrix.shape[1], dim=1)
    return lambda t: matrix[..., t]


def selective_scan_ref(
    u, delta, A, B, C, D=None, z=None, delta_bias=None, delta_softplus=False, return_last_state=False
):
    """selective_scan_fn by its recurrence."""
    dtype, d = u.dtype, A.shape[0]
    u, delta = _wide(u), _wide(delta)
    if delta_bias is not None:
        delta = delta + delta_bias.unsqueeze(-1)
    if delta_softplus:
        delta = F.softplus(delta)
    at_B, at_C = _per_channel(B, d, A.is_complex()), _per_channel(C, d, A.is_complex())
    h = A.new_zeros((u.shape[0], *A.shape))
    outputs = []
    for t in range(u.shape[-1]):
        step = delta[..., t].unsqueeze(-1)
        h = torch.exp(step * A) * h + step * at_B(t) * u[..., t].unsqueeze(-1)
        y = (h * at_C(t)).sum(-1)
        outputs.append(2 * y.real if y.is_complex() else y)
    out = torch.stack(outputs, dim=-1) if outputs else torch.zeros_like(u)
    if D is not None:
        out = out + u * D.unsqueeze(-1)
    if z is not None:
        out = out * F.silu(_wide(z))
    out = out.to(dtype)
    return (out, h) if return_last_state else out


def mamba_inner_ref(
    xz, conv1d_weight, conv1d_bias, x_proj_weight, delta_proj_weight, out_proj_weight, out_proj_bias, A, B=None, C=None,
    D=None, delta_bias=None, B_proj_bias=None, C_proj_bias=None, delta_softplus=True,
):
    """mamba_inner_fn as published: around causal_conv1d_fn and selective_scan_fn themselves. Programs compare the two
    far closer than a float32 result of the functions of this file is to the exact one."""
    rank, length = delta_proj_weight.shape[1], xz.shape[-1]
    x, z = xz.chunk(2, dim=1)
    x = causal_conv1d_fn(x, conv1d_weight.squeeze(1), conv1d_bias, activation="silu")
    x_dbl = F.linear(x.transpose(1, 2), x_proj_weight)
    delta = (x_dbl[..., :rank] @ delta_proj_weight.t()).transpose(1, 2)
    width = A.shape[-1] * (2 if A.is_complex() else 1)

    def part(given, first, bias):
        if given is not None:
            return given
        matrix = x_dbl[..., first : first + width]
        matrix = matrix if bias is None else matrix + bias
        if not A.is_complex():
            return matrix.transpose(1, 2)
        return matrix.unflatten(-1, (-1, 2)).permute(0, 2, 1, 3).reshape(matrix.shape[0], -1, 2 * length)

    B, C = part(B, rank, B_proj_bias), part(C, x_dbl.shape[-1] - width, C_proj_bias)
    y = selective_scan_fn(x, delta, A, B, C, D, z, delta_bias, delta_softplus)
    return F.linear(y.transpose(1, 2), out_proj_weight, out_proj_bias)


def causal_conv1d_ref(
    x, weight, bias=None, initial_states=None, return_final_states=False, final_states_out=None, activation=None
):
    """causal_conv1d_fn by torch's convolution."""
    d, k = weight.shape
    before = x.new_zeros(*x.shape[:2], k - 1) if initial_states is None else initial_states
    padded = torch.cat([before, x], dim=-1)
    out = F.conv1d(padded.to(weight.dtype), weight.unsqueeze(1), bias, groups=d)
    out = (F.silu(out) if activation in ("silu", "swish") else out).to(x.dtype)
    if not return_final_states:
        return out
    final = padded[..., padded.shape[-1] - (k - 1) :]
    if final_states_out is not None:
        final = final_states_out.copy_(final)
    return out, final


def causal_conv1d_update_ref(x, conv_state, weight, bias=None, activation=None, cache_seqlens=None):
    """causal_conv1d_update by torch's convolution."""
    tokens = x.unsqueeze(-1) if x.dim() == 2 else x
    d, k = weight.shape
    slots, length = conv_state.shape[-1], tokens.shape[-1]
    if cache_seqlens is None:
        joined = torch.cat([conv_state, tokens], dim=-1)
        conv_state.copy_(joined[..., -slots:])
    else:
        def places(first, last):
            numbers = torch.arange(first, last, device=x.device) + cache_seqlens.long().unsqueeze(1)
            return (numbers % slots).unsqueeze(1).expand(-1, d, -1)

        joined = torch.cat([conv_state.gather(2, places(-(k - 1), 0)), tokens], dim=-1)
        conv_state.scatter_(2, places(0, length), tokens)
    out = F.conv1d(joined.to(weight.dtype), weight.unsqueeze(1), bias, groups=d)[..., -length:]
    out = (F.silu(out) if activation in ("silu", "swish") else out).to(x.dtype)
    return out.squeeze(-1) if x.dim() == 2 else out


def causal_conv1d_varlen_states_ref(x, cu_seqlens, state_len):
    """causal_conv1d_varlen_states, one sequence after the other."""
    states = x.new_zeros(len(cu_seqlens) - 1, x.shape[1], state_len)
    for state, begin, end in zip(states, cu_seqlens[:-1].tolist(), cu_seqlens[1:].tolist()):
        kept = x[max(begin, end - state_len) : end]
        state[:, state_len - len(kept) :] = kept.t()
    return states


def selective_state_update_ref(state, x, dt, A, B, C, D=None, z=None, dt_bias=None, dt_softplus=False):
    """selective_state_update, one operation after the other."""
    heads = state.dim() == 4
    groups = (B, C) if B.dim() == 3 else (B.unsqueeze(1), C.unsqueeze(1))
    B, C = (m.repeat_interleave(state.shape[1] // m.shape[1] if heads else 1, dim=1) for m in groups)
    if not heads and B.shape[1] > 1:
        B, C = (m.repeat_interleave(state.shape[1] // m.shape[1], dim=1) for m in (B, C))
    elif heads:
        B, C = B.unsqueeze(2), C.unsqueeze(2)
    step = dt if dt_bias is None else dt + dt_bias
    step = (F.softplus(step) if dt_softplus else step).unsqueeze(-1)
    state.copy_(state * torch.exp(step * A) + step * B * x.unsqueeze(-1))
    out = (state.to(C.dtype) * C).sum(-1)
    if D is not None:
        out = out + (x * D).to(out.dtype)
    return (out if z is None else out * F.silu(z)).to(x.dtype)
