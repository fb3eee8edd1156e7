"""The operators as explicit pairs: `<op>_forward`, `<op>_backward` and, where a state is carried, `<op>_step`.

They take any array that speaks DLPack or the buffer protocol (numpy, torch without gradients, jax, array.array, ...),
read it without copying, and give back arrays of the same kind: numpy for numpy, torch for torch, else `coluber.Array`.
For functions that torch differentiates see `coluber.torch`.

Letters of the shapes: b sequences, l tokens, d channels, n states, k taps, g groups, s state slots, m features,
v vocabulary. All floating arrays of one call have one dtype: float32 (fast kernels) or float64 (reference kernels).
Arrays of one call are on one device, and so are results. On a GPU activations are float32, bfloat16 or float16, beside
parameters and states in float32. torch's tensors are worked on in torch's current stream, those of others in ours
(coluber.StreamScope names another).
Sequences are the b rows of l tokens or, with `cu_seqlens`, s+1 integers, s sequences packed in one row (b = 1).
`resets` (b,l) uint8: where not 0, the state is cleared before that token. `reverse`: from the last token to the first.
`algorithm`: "auto", "reference" (plain loops: the meaning of the op) or "cpu".

Wrong shapes, dtypes, values and devices raise ValueError, what is no array TypeError, a device that this build does not
compute on NotImplementedError.
"""

from typing import Any, NamedTuple

from . import _native
from .arguments import names_wrong_types

__all__ = [
    "CausalConv1dGrads",
    "CrossEntropy",
    "LinearGrads",
    "NormGrads",
    "SelectiveScanGrads",
    "causal_conv1d",
    "causal_conv1d_backward",
    "causal_conv1d_forward",
    "causal_conv1d_step",
    "embedding_backward",
    "embedding_forward",
    "layer_norm",
    "linear",
    "linear_backward",
    "linear_cross_entropy",
    "linear_forward",
    "norm_backward",
    "norm_forward",
    "rms_norm",
    "selective_scan",
    "selective_scan_backward",
    "selective_scan_forward",
    "selective_scan_step",
]


def _numpy(array):
    import numpy

    return numpy.asarray(array)


def _torch(array):
    if array.device == "cpu":
        import torch

        return torch.from_dlpack(array)
    from .torch import _autograd

    return _autograd.native.give(array)


_KINDS = {"numpy": _numpy, "torch": _torch}


def _kind_of(array):
    return type(array).__module__.partition(".")[0]


def _like(model, result):
    """`result` as the kind of array that `model` is; tuples item by item."""
    kind = _KINDS.get(_kind_of(model))
    if kind is None:
        return result
    if isinstance(result, tuple):
        return tuple(kind(r) if isinstance(r, _native.Array) else r for r in result)
    return kind(result) if isinstance(result, _native.Array) else result


def _run(model, op, *arguments):
    """op(*arguments), its results as the kind of array that `model` is and on its device. torch's tensors on a GPU: on
    torch's current stream, in memory of torch's."""
    if _kind_of(model) == "torch" and getattr(model, "is_cuda", False):
        from .torch import _autograd

        with _autograd.native.TorchScope(model):
            return _like(model, op(*arguments))
    return _like(model, op(*arguments))


class SelectiveScanGrads(NamedTuple):
    """Gradients of selective_scan's inputs, None for those that were None."""

    u: Any
    dt: Any
    A: Any
    B: Any
    C: Any
    D: Any
    z: Any
    dt_bias: Any
    state_in: Any


class CausalConv1dGrads(NamedTuple):
    """Gradients of causal_conv1d's inputs, None for those that were None."""

    x: Any
    weight: Any
    bias: Any
    state_in: Any


class NormGrads(NamedTuple):
    """Gradients of norm's inputs, None for those that were None; that of `residual` equals that of `x`."""

    x: Any
    weight: Any
    bias: Any
    z: Any


class LinearGrads(NamedTuple):
    """Gradients of linear's inputs, None for those that were None."""

    x: Any
    weight: Any
    bias: Any


class CrossEntropy(NamedTuple):
    """A mean cross entropy in nats over `num_tokens` targets and, where wanted, its gradients."""

    loss: float
    num_tokens: int
    grad_x: Any
    grad_weight: Any
    grad_bias: Any


@names_wrong_types
def selective_scan_forward(
    u, dt, A, B, C, D=None, z=None, dt_bias=None, *, dt_softplus: bool = False, reverse: bool = False, state_in=None,
    cu_seqlens=None, resets=None, return_state: bool = False, algorithm: str = "auto",
):
    """S6, the selective scan (arXiv 2312.00752, section 3):

        dt = softplus(dt + dt_bias);  h_t = exp(dt_t A) h_{t-1} + dt_t B_t u_t;  y_t = C_t h_t + D u_t;  y *= silu(z)

    u, dt, z (b,l,d); A (d,n), or complex; B and C constant (d,n), variable (b,l,n) or grouped (b,l,g,n), each on its
    own; D, dt_bias (d); state_in (s,d,n). Returns y (b,l,d), or (y, state_out) with `return_state`.
    """
    y, state, _ = _run(
        u, _native.selective_scan_forward, u, dt, A, B, C, D, z, dt_bias, dt_softplus, reverse, state_in, cu_seqlens,
        resets, return_state, False, algorithm,
    )
    return (y, state) if return_state else y


@names_wrong_types
def selective_scan_backward(
    grad_y, u, dt, A, B, C, D=None, z=None, dt_bias=None, *, dt_softplus: bool = False, reverse: bool = False,
    state_in=None, cu_seqlens=None, resets=None, grad_state_out=None, algorithm: str = "auto",
) -> SelectiveScanGrads:
    """Gradients of selective_scan_forward for grad_y (b,l,d) and grad_state_out (s,d,n), None: zero."""
    grads = _run(
        u, _native.selective_scan_backward, grad_y, u, dt, A, B, C, D, z, dt_bias, dt_softplus, reverse, state_in,
        cu_seqlens, resets, grad_state_out, None, algorithm,
    )
    return SelectiveScanGrads(*grads)


@names_wrong_types
def selective_scan_step(
    state, u, dt, A, B, C, D=None, z=None, dt_bias=None, *, dt_softplus: bool = False, algorithm: str = "auto"
):
    """One token: shapes as in selective_scan_forward with l = 1. Updates `state` (b,d,n) in place; gives y (b,1,d)."""
    return _run(u, _native.selective_scan_step, state, u, dt, A, B, C, D, z, dt_bias, dt_softplus, algorithm)


@names_wrong_types
def causal_conv1d_forward(
    x, weight, bias=None, *, silu: bool = False, reverse: bool = False, state_in=None, cu_seqlens=None, resets=None,
    return_state: bool = False, algorithm: str = "auto",
):
    """Causal depthwise convolution: y_t = act(bias + sum_j weight[:,j] x_{t-k+1+j}), act the identity or SiLU.

    x (b,l,d); weight (d,k), its last column for the current token; bias (d); state_in (s,d,k-1) the raw inputs before
    the first token, oldest first. Returns y (b,l,d), or (y, state_out) with `return_state`.
    """
    y, state = _run(
        x, _native.causal_conv1d_forward, x, weight, bias, silu, reverse, state_in, cu_seqlens, resets, return_state,
        algorithm,
    )
    return (y, state) if return_state else y


@names_wrong_types
def causal_conv1d_backward(
    grad_y, x, weight, bias=None, *, silu: bool = False, reverse: bool = False, state_in=None, cu_seqlens=None,
    resets=None, grad_state_out=None, algorithm: str = "auto",
) -> CausalConv1dGrads:
    """Gradients of causal_conv1d_forward for grad_y (b,l,d) and grad_state_out (s,d,k-1), None: zero."""
    grads = _run(
        x, _native.causal_conv1d_backward, grad_y, x, weight, bias, silu, reverse, state_in, cu_seqlens, resets,
        grad_state_out, algorithm,
    )
    return CausalConv1dGrads(*grads)


@names_wrong_types
def causal_conv1d_step(state, x, weight, bias=None, *, silu: bool = False, algorithm: str = "auto"):
    """One token: x (b,1,d). Updates `state` (b,d,k-1) in place; returns y (b,1,d)."""
    return _run(x, _native.causal_conv1d_step, state, x, weight, bias, silu, algorithm)


@names_wrong_types
def norm_forward(
    x, weight=None, bias=None, *, residual=None, z=None, kind: str = "rms", eps: float = 1e-5,
    norm_before_gate: bool = False, group_size: int = 0, return_residual: bool = False, algorithm: str = "auto",
):
    """RMS or layer norm of r = x + residual over the last axis: y = norm(r) weight + bias.

    x, residual, z (...,m); weight, bias (m); kind "rms" or "layer". With a gate z: norm(r silu(z)) weight, or
    norm(r) weight silu(z) when `norm_before_gate`. group_size > 0: means over groups of that many features.
    Returns y (...,m), or (y, r) with `return_residual`.
    """
    y, r = _run(
        x, _native.norm_forward, x, weight, bias, residual, z, kind, eps, norm_before_gate, group_size,
        return_residual, algorithm,
    )
    return (y, r) if return_residual else y


@names_wrong_types
def norm_backward(
    grad_y, x, weight=None, bias=None, *, residual=None, z=None, kind: str = "rms", eps: float = 1e-5,
    norm_before_gate: bool = False, group_size: int = 0, grad_residual_out=None, algorithm: str = "auto",
) -> NormGrads:
    """Gradients of norm_forward for grad_y and grad_residual_out (...,m), None: zero."""
    grads = _run(
        x, _native.norm_backward, grad_y, x, weight, bias, residual, z, kind, eps, norm_before_gate, group_size,
        grad_residual_out, algorithm,
    )
    return NormGrads(*grads)


def rms_norm(x, weight=None, bias=None, *, residual=None, eps: float = 1e-5, return_residual: bool = False):
    """norm_forward of kind "rms": (x + residual) / sqrt(mean((x + residual)^2) + eps) weight + bias."""
    return norm_forward(x, weight, bias, residual=residual, kind="rms", eps=eps, return_residual=return_residual)


def layer_norm(x, weight=None, bias=None, *, residual=None, eps: float = 1e-5, return_residual: bool = False):
    """norm_forward of kind "layer": mean taken off, then divided by the standard deviation."""
    return norm_forward(x, weight, bias, residual=residual, kind="layer", eps=eps, return_residual=return_residual)


@names_wrong_types
def linear_forward(x, weight, bias=None, *, compute: str = "f32", algorithm: str = "auto"):
    """y = x weight^T + bias: x (...,in), weight (out,in) of any floating dtype, bias (out) -> (...,out).

    compute "bf16" rounds x and weight to bfloat16 and sums in float32.
    """
    return _run(x, _native.linear_forward, x, weight, bias, compute, algorithm)


@names_wrong_types
def linear_backward(grad_y, x, weight, bias=None, *, compute: str = "f32", algorithm: str = "auto") -> LinearGrads:
    """Gradients of linear_forward for grad_y (...,out)."""
    return LinearGrads(*_run(x, _native.linear_backward, grad_y, x, weight, bias, compute, algorithm))


@names_wrong_types
def embedding_forward(ids, table, *, algorithm: str = "auto"):
    """Rows of table (v,m) for ids (...) in [0, v): (...,m), float32 (float64 for a float64 table)."""
    return _run(table, _native.embedding_forward, ids, table, algorithm)


@names_wrong_types
def embedding_backward(grad_y, ids, num_rows: int, *, algorithm: str = "auto"):
    """Gradient (num_rows,m) of the table for grad_y (...,m); rows are summed in token order."""
    return _run(grad_y, _native.embedding_backward, grad_y, ids, num_rows, algorithm)


@names_wrong_types
def linear_cross_entropy(
    x, weight, targets, bias=None, *, compute: str = "f32", return_grads: bool = False, algorithm: str = "auto"
) -> CrossEntropy:
    """Mean over targets >= 0 of logsumexp(x weight^T + bias) - that logit, in nats; the logits are never kept whole.

    x (tok,m), weight (v,m), bias (v), targets (tok), -1 for those that do not count.
    """
    return CrossEntropy(
        *_run(x, _native.linear_cross_entropy, x, weight, targets, bias, compute, return_grads, algorithm)
    )


selective_scan = selective_scan_forward
causal_conv1d = causal_conv1d_forward
linear = linear_forward
