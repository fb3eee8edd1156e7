"""The depthwise causal convolution in the published layout, channels (b,d,l)."""

import torch

from ._autograd import differentiable, is_compiling, native, once_differentiable, refuse_grad, resets_of

_forward = native.conv_forward
_backward = native.conv_backward


class _CausalConv1d(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, silu, state_in, cu_seqlens, resets, want_state):
        out, state = _forward(x, weight, bias, silu, state_in, cu_seqlens, resets, want_state)
        ctx.save_for_backward(x, weight, bias, state_in, cu_seqlens, resets)
        ctx.silu = silu
        ctx.set_materialize_grads(False)
        return (out, state) if want_state else out

    @staticmethod
    @once_differentiable("causal_conv1d")
    def backward(ctx, grad_out, grad_state=None):
        x, weight, bias, state_in, cu_seqlens, resets = ctx.saved_tensors
        *grads, grad_state_in = _backward(
            grad_out, grad_state, x, weight, bias, ctx.silu, state_in, cu_seqlens, resets
        )
        return (*grads, None, grad_state_in, None, None, None)


_differentiable_conv = differentiable(_CausalConv1d)


def _silu(activation):
    if activation is None:
        return False
    if activation in ("silu", "swish"):
        return True
    raise NotImplementedError(f"[causal_conv1d] activation: expected None, silu or swish, got {activation}")


def _conv(x, weight, bias, silu, state_in, cu_seqlens, resets, want_state):
    if is_compiling():
        from . import library

        out, state = library.causal_conv1d(x, weight, bias, silu, state_in, cu_seqlens, resets)
        return (out, state) if want_state else out
    if torch.is_grad_enabled():
        return _differentiable_conv(x, weight, bias, silu, state_in, cu_seqlens, resets, want_state)
    out, state = _forward(x, weight, bias, silu, state_in, cu_seqlens, resets, want_state)
    return (out, state) if want_state else out


def causal_conv1d_fn(
    x, weight, bias=None, seq_idx=None, initial_states=None, return_final_states=False, final_states_out=None,
    activation=None, *, cu_seqlens=None,
):
    """out_t = act(bias + sum_j weight[:,j] x_{t-k+1+j}), each channel for itself.

    x, out: (b,d,l). weight: (d,k) of any width k. bias: (d,). seq_idx (b,l): tokens of another sequence are not seen,
    and where it is negative the output is 0. initial_states (b,d,k-1): inputs before the first token, oldest first.
    With return_final_states also the last k-1 inputs (b,d,k-1), written to final_states_out when given.
    activation: None, "silu" or "swish". Beyond the published function: any layout of x takes states, and `cu_seqlens`
    (s+1) packs s sequences in one row, with states (s,d,k-1).
    """
    silu = _silu(activation)
    if seq_idx is not None and (initial_states is not None or return_final_states):
        raise ValueError("[causal_conv1d] seq_idx: expected None beside states, got both (cu_seqlens takes states)")
    want_state = return_final_states or final_states_out is not None
    result = _conv(x, weight, bias, silu, initial_states, cu_seqlens, resets_of(seq_idx), want_state)
    out, state = result if want_state else (result, None)
    if seq_idx is not None:
        padding = seq_idx < 0
        if is_compiling() or x.is_cuda or bool(padding.any()):  # a GPU is not waited for
            out = out.masked_fill(padding.unsqueeze(1), 0)
    if final_states_out is not None:
        final_states_out.copy_(state)
        state = final_states_out
    return (out, state) if return_final_states else out


def causal_conv1d_update(
    x, conv_state, weight, bias=None, activation=None, cache_seqlens=None, conv_state_indices=None
):
    """One or more tokens after `conv_state`, which is updated in place.

    x, out: (b,d) or (b,d,l). conv_state: (b,d,s) with s >= k-1, the last s inputs, oldest first. weight: (d,k).
    cache_seqlens (b,) int32: conv_state is a circular buffer whose next place is cache_seqlens % s.
    conv_state_indices (b,) int32: rows of a larger conv_state; -1: no row, the output is 0."""
    hint = "it updates the state in place: use causal_conv1d_fn"
    refuse_grad("causal_conv1d_update", hint, x=x, conv_state=conv_state)
    silu = _silu(activation)
    if conv_state.dim() != 3:
        raise ValueError(f"[causal_conv1d_update] conv_state: expected (b,d,s), got {tuple(conv_state.shape)}")
    with torch.no_grad():
        tokens = x.unsqueeze(-1) if x.dim() == 2 else x
        if conv_state_indices is None:
            out = _update(tokens, conv_state, weight, bias, silu, cache_seqlens)
        else:
            kept = conv_state_indices >= 0
            rows = conv_state_indices[kept].long()
            state = conv_state[rows]
            out = torch.zeros_like(tokens)
            out[kept] = _update(
                tokens[kept], state, weight, bias, silu, None if cache_seqlens is None else cache_seqlens[kept]
            )
            conv_state[rows] = state
        return out.squeeze(-1) if x.dim() == 2 else out


def _update(x, conv_state, weight, bias, silu, cache_seqlens):
    k, slots, length = weight.shape[-1], conv_state.shape[-1], x.shape[-1]
    if conv_state.shape[:2] != x.shape[:2] or slots < k - 1:
        raise ValueError(
            f"[causal_conv1d_update] conv_state: expected ({x.shape[0]}, {x.shape[1]}, {k - 1} or more), "
            f"got {tuple(conv_state.shape)}"
        )
    if cache_seqlens is None:
        before = conv_state[..., slots - (k - 1) :]
    else:
        places = torch.arange(-(k - 1), 0, device=x.device) + cache_seqlens.long().unsqueeze(1)
        before = conv_state.gather(2, (places % slots).unsqueeze(1).expand(-1, x.shape[1], -1))
    out, _ = _forward(x, weight, bias, silu, before.clone(), None, None, False)
    if length == 0:
        return out
    if cache_seqlens is None:
        if length < slots:
            conv_state[..., :-length] = conv_state[..., length:].clone()
        conv_state[..., -min(length, slots) :] = x[..., -min(length, slots) :]
    else:
        kept = x[..., -min(length, slots) :]
        places = torch.arange(length - kept.shape[-1], length, device=x.device) + cache_seqlens.long().unsqueeze(1)
        conv_state.scatter_(2, (places % slots).unsqueeze(1).expand(-1, x.shape[1], -1), kept.to(conv_state.dtype))
    return out


def causal_conv1d_varlen_states(x, cu_seqlens, state_len):
    """The last state_len inputs of each sequence, zeros before its first token: x (tokens,d), cu_seqlens (s+1) ->
    (s,d,state_len)."""
    ends = cu_seqlens[1:].long().unsqueeze(1)
    places = ends + torch.arange(-state_len, 0, device=x.device)  # (s,state_len)
    inside = places >= cu_seqlens[:-1].long().unsqueeze(1)
    rows = x[places.clamp(min=0)].masked_fill(~inside.unsqueeze(-1), 0)
    return rows.transpose(1, 2)
