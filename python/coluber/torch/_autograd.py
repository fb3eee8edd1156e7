"""What the differentiable functions share."""

import functools

import torch

from .._native import torch as native

native.set_torch(torch)

# True while torch.compile traces; torch before 2.1 has no such thing.
is_compiling = getattr(getattr(torch, "compiler", None), "is_compiling", None) or (lambda: False)


_transforms_active = getattr(torch._C, "_are_functorch_transforms_active", lambda: False)  # torch 2.0 and newer


def differentiable(function):
    """function.apply of an autograd.Function, past its part in Python where no transform of torch.func is at work: with
    a dozen arguments that part takes 40 % of the time in torch 2.11."""
    direct = super(torch.autograd.Function, function).apply

    def apply(*args):
        return function.apply(*args) if _transforms_active() else direct(*args)

    return apply


def once_differentiable(name):
    """Decorates backward(ctx, *grads): its result may be used, and a second derivative through it is refused.

    torch's own decorator lets a second derivative pass as zero where the incoming gradient is a constant."""
    sentence = f"[{name}] double backward: expected first derivatives only, got a second (there is none of this op)"

    def decorate(backward):
        @functools.wraps(backward)
        def wrapper(ctx, *grads):
            if not torch.is_grad_enabled():
                return backward(ctx, *grads)
            with torch.no_grad():
                results = backward(ctx, *grads)
            leaves = [r.detach().requires_grad_() for r in results if r is not None]
            refused = torch._C._functions.DelayedError(sentence, len(leaves))(*leaves)
            following = iter(refused if isinstance(refused, (tuple, list)) else [refused])
            return tuple(None if r is None else next(following) for r in results)

        return wrapper

    return decorate


def requires_grad(*tensors):
    """Whether torch wants a gradient through an op of these; None is a constant."""
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def refuse_grad(name, hint, **tensors):
    """For what works in place on a state: refuses inputs that want a gradient, instead of losing it."""
    if torch.is_grad_enabled():
        for argument, tensor in tensors.items():
            if tensor is not None and tensor.requires_grad:
                raise RuntimeError(
                    f"[{name}] {argument}: expected a tensor without gradient, got one with requires_grad ({hint})"
                )


def resets_of(seq_idx):
    """(b,l) numbers of sequences -> (b,l) uint8, 1 where another sequence begins."""
    if seq_idx is None:
        return None
    if not isinstance(seq_idx, torch.Tensor):
        raise TypeError(f"[seq_idx] expected a torch tensor (b,l), got {type(seq_idx).__name__}")
    if seq_idx.dim() != 2 or seq_idx.dtype not in (torch.int32, torch.int64):
        raise TypeError(
            f"[seq_idx] expected (b,l) of int32 or int64, got {tuple(seq_idx.shape)} of {seq_idx.dtype}"
        )
    resets = torch.zeros_like(seq_idx, dtype=torch.uint8)
    resets[:, 1:] = seq_idx[:, 1:] != seq_idx[:, :-1]
    return resets


def autocast_dtype(tensor):
    """dtype of matrix products under torch.autocast on the device of `tensor`, else None."""
    kind = tensor.device.type
    if _autocast_takes_device:
        return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None
    if kind == "cuda":
        return torch.get_autocast_gpu_dtype() if torch.is_autocast_enabled() else None
    return torch.get_autocast_cpu_dtype() if torch.is_autocast_cpu_enabled() else None


_autocast_takes_device = hasattr(torch, "get_autocast_dtype")  # torch 2.4 and newer
