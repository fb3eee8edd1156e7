"""RMS and layer norm of x + residual, with the published options."""

import torch
from torch import nn

from ._autograd import differentiable, is_compiling, native, once_differentiable

_forward = native.norm_forward
_backward = native.norm_backward


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, bias, residual, rms, eps):
        y, total = _forward(x, weight, bias, residual, rms, eps)
        # What was normalised is the rounded sum, as the published function saves it.
        ctx.save_for_backward(x if total is None else total, weight, bias)
        ctx.rms, ctx.eps, ctx.has_residual = rms, eps, residual is not None
        ctx.set_materialize_grads(False)
        return y if total is None else (y, total)

    @staticmethod
    @once_differentiable("norm")
    def backward(ctx, grad_y, grad_total=None):
        total, weight, bias = ctx.saved_tensors
        grad_x, grad_weight, grad_bias = _backward(grad_y, grad_total, total, weight, bias, ctx.rms, ctx.eps)
        return grad_x, grad_weight, grad_bias, grad_x if ctx.has_residual else None, None, None


_differentiable_norm = differentiable(_Norm)


def _norm(x, weight, bias, residual, rms, eps):
    """y, and x + residual when there is a residual."""
    if is_compiling():
        from . import library

        return library.norm(x, weight, bias, residual, rms, eps)
    if torch.is_grad_enabled():
        return _differentiable_norm(x, weight, bias, residual, rms, eps)
    y, total = _forward(x, weight, bias, residual, rms, eps)
    return y if total is None else (y, total)


def _dropped(x, p, want_mask):
    if p == 0:
        return x, None
    mask = torch.rand_like(x, dtype=torch.float32) >= p
    return x * mask / (1 - p), mask if want_mask else None


def layer_norm_fn(
    x, weight, bias, residual=None, x1=None, weight1=None, bias1=None, eps=1e-6, dropout_p=0.0, rowscale=None,
    prenorm=False, residual_in_fp32=False, is_rms_norm=False, return_dropout_mask=False,
):
    """norm(dropout(x rowscale) + dropout(x1) + residual) weight + bias over the last axis.

    x, x1, residual: (...,m). weight, bias, weight1, bias1: (m,). rowscale: (...). With weight1 a second output of the
    same sum; with prenorm also the sum, in the dtype of residual (float32 without one where residual_in_fp32); with
    return_dropout_mask also the masks of x and x1."""
    if not 0 <= dropout_p < 1:
        raise ValueError(f"[norm] dropout_p: expected 0 or more, below 1, got {dropout_p}")
    if x1 is not None and rowscale is not None:
        raise ValueError("[norm] rowscale: expected None beside x1, got both")
    dtype = x.dtype
    total = x if rowscale is None else x * rowscale.unsqueeze(-1)
    total, mask = _dropped(total, dropout_p, return_dropout_mask)
    mask1 = None
    if x1 is not None:
        added, mask1 = _dropped(x1, dropout_p, return_dropout_mask)
        total = total + added
    total = total.to(dtype)
    if residual is not None:
        y, total = _norm(total, weight, bias, residual, is_rms_norm, eps)
    else:
        y = _norm(total, weight, bias, None, is_rms_norm, eps)
        if residual_in_fp32 and total.dtype in (torch.float16, torch.bfloat16):
            total = total.float()
    outputs = [y]
    if weight1 is not None:
        outputs.append(_norm(total, weight1, bias1, None, is_rms_norm, eps).to(dtype))
    if prenorm:
        outputs.append(total)
    if return_dropout_mask:
        outputs += [mask, mask1]
    return outputs[0] if len(outputs) == 1 else tuple(outputs)


def rms_norm_fn(
    x, weight, bias, residual=None, x1=None, weight1=None, bias1=None, eps=1e-6, dropout_p=0.0, rowscale=None,
    prenorm=False, residual_in_fp32=False, return_dropout_mask=False,
):
    """layer_norm_fn with the root mean square alone: x / sqrt(mean(x^2) + eps) weight + bias."""
    return layer_norm_fn(
        x, weight, bias, residual, x1, weight1, bias1, eps, dropout_p, rowscale, prenorm, residual_in_fp32, True,
        return_dropout_mask,
    )


class RMSNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) weight over the last axis, of x + residual when that is given."""

    def __init__(self, hidden_size, eps=1e-5, dropout_p=0.0, device=None, dtype=None):
        super().__init__()
        self.eps = eps
        self.drop = nn.Dropout(dropout_p) if dropout_p > 0.0 else None
        self.weight = nn.Parameter(torch.empty(hidden_size, device=device, dtype=dtype))
        self.register_parameter("bias", None)
        self.reset_parameters()

    def reset_parameters(self):
        nn.init.ones_(self.weight)

    def forward(self, x, residual=None, prenorm=False, residual_in_fp32=False):
        return rms_norm_fn(
            x, self.weight, self.bias, residual=residual, eps=self.eps,
            dropout_p=self.drop.p if self.drop is not None and self.training else 0.0,
            prenorm=prenorm, residual_in_fp32=residual_in_fp32,
        )

    def extra_repr(self):
        return f"{self.weight.shape[0]}, eps={self.eps}"
