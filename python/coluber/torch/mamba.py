"""The Mamba module: the published mixer, and with n_layer a stack of them with norms and residuals."""

import math

import torch
import torch.nn.functional as F
from torch import nn

from ._autograd import (
    autocast_dtype, differentiable, is_compiling, native, once_differentiable, requires_grad, resets_of,
)
from .causal_conv1d import _conv
from .layer_norm import RMSNorm, layer_norm_fn
from .selective_scan import _scan


class _Mixer(torch.autograd.Function):
    """The whole mixer, natively. `number` stands for the tape that forward keeps (python/src/torch_mixer.cc)."""

    @staticmethod
    def forward(ctx, bf16, norm_eps, want_state, cu_seqlens, resets, x, conv_state, ssm_state, *weights):
        ctx.wanted = ctx.needs_input_grad[5:]  # of x and all that follows
        out, conv, ssm, number = native.mixer_forward(
            x, weights, conv_state, ssm_state, cu_seqlens, resets, bf16, norm_eps, want_state, ctx.wanted
        )
        ctx.save_for_backward(number, cu_seqlens, resets, x, conv_state, ssm_state, *weights)
        ctx.bf16, ctx.norm_eps = bf16, norm_eps
        ctx.set_materialize_grads(False)
        return (out, conv, ssm) if want_state else out

    @staticmethod
    @once_differentiable("mamba")
    def backward(ctx, grad_out, grad_conv=None, grad_ssm=None):
        number, cu_seqlens, resets, x, conv_state, ssm_state, *weights = ctx.saved_tensors
        grads = native.mixer_backward(
            number, grad_out, grad_conv, grad_ssm, x, tuple(weights), conv_state, ssm_state, cu_seqlens, resets,
            ctx.bf16, ctx.norm_eps, ctx.wanted,
        )
        return (None, None, None, None, None, *grads)


_differentiable_mixer = differentiable(_Mixer)


def _check_positive(**numbers):
    for name, value in numbers.items():
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise ValueError(f"[mamba] {name}: expected a whole number of 1 or more, got {value!r}")


def _over_rms(x, eps):
    wide = x if x.dtype == torch.float64 else x.float()
    return (wide * torch.rsqrt(wide.square().mean(-1, keepdim=True) + eps)).to(x.dtype)


class Mamba(nn.Module):
    """hidden_states (b,l,d_model) -> (b,l,d_model), causal.

    Arguments are those of the published module. `layer_idx` names this mixer's state in InferenceParams.
    `use_fast_path=False` goes op by op instead of through one native call. Beyond it: `n_layer`, when given, makes a
    stack of that many residual blocks, x = x + mixer(norm(x)), and a final norm (`layers.N.norm`, `layers.N.mixer`,
    `norm_f`). `norm_dt_B_C_eps`, when given, divides dt, B and C by their root mean square, as Falcon-Mamba does.
    """

    def __init__(
        self, d_model, d_state=16, d_conv=4, expand=2, dt_rank="auto", dt_min=0.001, dt_max=0.1, dt_init="random",
        dt_scale=1.0, dt_init_floor=1e-4, conv_bias=True, bias=False, use_fast_path=True, layer_idx=None, device=None,
        dtype=None, *, n_layer=None, norm_dt_B_C_eps=None,
    ):
        super().__init__()
        _check_positive(d_model=d_model, d_state=d_state, d_conv=d_conv)
        self.d_model, self.d_state, self.d_conv, self.expand = d_model, d_state, d_conv, expand
        self.d_inner = int(expand * d_model)
        self.dt_rank = math.ceil(d_model / 16) if dt_rank == "auto" else dt_rank
        _check_positive(d_inner=self.d_inner, dt_rank=self.dt_rank)
        if norm_dt_B_C_eps is not None and not norm_dt_B_C_eps > 0:
            raise ValueError(f"[mamba] norm_dt_B_C_eps: expected more than 0, or None, got {norm_dt_B_C_eps}")
        self.norm_dt_B_C_eps = norm_dt_B_C_eps
        self.use_fast_path, self.layer_idx, self.n_layer = use_fast_path, layer_idx, n_layer
        options = dict(
            d_state=d_state, d_conv=d_conv, expand=expand, dt_rank=dt_rank, dt_min=dt_min, dt_max=dt_max,
            dt_init=dt_init, dt_scale=dt_scale, dt_init_floor=dt_init_floor, conv_bias=conv_bias, bias=bias,
            use_fast_path=use_fast_path, device=device, dtype=dtype, norm_dt_B_C_eps=norm_dt_B_C_eps,
        )
        if n_layer is None:
            self._make_mixer(conv_bias, bias, dt_init, dt_scale, dt_min, dt_max, dt_init_floor, device, dtype)
        else:
            _check_positive(n_layer=n_layer)
            self._make_stack(n_layer, options)

    def _make_mixer(self, conv_bias, bias, dt_init, dt_scale, dt_min, dt_max, dt_init_floor, device, dtype):
        if dt_init not in ("random", "constant"):
            raise NotImplementedError(f"[mamba] dt_init: expected random or constant, got {dt_init!r}")
        kwargs = {"device": device, "dtype": dtype}
        d, n, u = self.d_inner, self.d_state, self.dt_rank
        self.in_proj = nn.Linear(self.d_model, 2 * d, bias=bias, **kwargs)
        self.conv1d = nn.Conv1d(d, d, self.d_conv, groups=d, padding=self.d_conv - 1, bias=conv_bias, **kwargs)
        self.activation = "silu"
        self.act = nn.SiLU()
        self.x_proj = nn.Linear(d, u + 2 * n, bias=False, **kwargs)
        self.dt_proj = nn.Linear(u, d, bias=True, **kwargs)
        std = u**-0.5 * dt_scale  # keeps the variance of dt
        if dt_init == "constant":
            nn.init.constant_(self.dt_proj.weight, std)
        else:
            nn.init.uniform_(self.dt_proj.weight, -std, std)
        # softplus^-1 of a dt that is log-uniform in [dt_min, dt_max]
        spread = math.log(dt_max) - math.log(dt_min)
        dt = torch.exp(torch.rand(d, device=device) * spread + math.log(dt_min)).clamp(min=dt_init_floor)
        with torch.no_grad():
            self.dt_proj.bias.copy_(dt + torch.log(-torch.expm1(-dt)))
        self.dt_proj.bias._no_reinit = True
        # A = -(1..n) in every channel; A_log and D stay in float32 whatever dtype says.
        states = torch.arange(1, n + 1, dtype=torch.float32, device=device)
        self.A_log = nn.Parameter(torch.log(states).repeat(d, 1))
        self.A_log._no_weight_decay = True
        self.D = nn.Parameter(torch.ones(d, device=device))
        self.D._no_weight_decay = True
        self.out_proj = nn.Linear(d, self.d_model, bias=bias, **kwargs)

    def _make_stack(self, n_layer, options):
        from .block import Block

        kwargs = {"device": options["device"], "dtype": options["dtype"]}
        first = self.layer_idx or 0

        def mixer(i):
            return lambda d_model: Mamba(d_model, layer_idx=first + i, **options)

        self.layers = nn.ModuleList(
            Block(
                self.d_model, mixer(i), nn.Identity, norm_cls=lambda m: RMSNorm(m, **kwargs), fused_add_norm=True,
                residual_in_fp32=True,
            )
            for i in range(n_layer)
        )
        self.norm_f = RMSNorm(self.d_model, **kwargs)
        with torch.no_grad():  # the residual stream sums n_layer branches
            for layer in self.layers:
                layer.mixer.out_proj.weight /= math.sqrt(n_layer)

    def extra_repr(self):
        return f"d_model={self.d_model}, d_state={self.d_state}, d_conv={self.d_conv}, expand={self.expand}" + (
            f", n_layer={self.n_layer}" if self.n_layer is not None else ""
        )

    def _weights(self):
        return (
            self.in_proj.weight, self.in_proj.bias, self.conv1d.weight, self.conv1d.bias, self.x_proj.weight,
            self.dt_proj.weight, self.dt_proj.bias, self.A_log, self.D, self.out_proj.weight, self.out_proj.bias,
        )

    def _runs_natively(self):
        """Whether the parts are the plain ones, so that nobody notices that their forward is not called."""
        if not self.use_fast_path or is_compiling():
            return False
        for part in (self.in_proj, self.x_proj, self.dt_proj, self.out_proj):
            if type(part) is not nn.Linear or part._forward_hooks or part._forward_pre_hooks or part._backward_hooks:
                return False
        return type(self.conv1d) is nn.Conv1d and self.x_proj.bias is None

    def _run(self, x, state, cu_seqlens, resets, want_state):
        """out, and (conv (s,d,k-1), ssm (s,d,n)) after the last token when want_state."""
        length = x.shape[1]
        if cu_seqlens is not None and cu_seqlens.numel() > 0 and not is_compiling():
            end = int(cu_seqlens.reshape(-1)[-1])
            if 0 <= end < length:  # padding, which belongs to no sequence
                resets = None if resets is None else resets[:, :end]
                out, after = self._run(x[:, :end], state, cu_seqlens, resets, want_state)
                return F.pad(out, (0, 0, 0, length - end)), after
        conv_state, ssm_state = (None, None) if state is None else state
        if not self._runs_natively():
            return self._run_by_ops(x, conv_state, ssm_state, cu_seqlens, resets, want_state)
        autocast = autocast_dtype(x)
        if autocast is not None and x.is_cuda:
            x = x.to(autocast)  # activations are stored in 16 bits there
        weights = self._weights()
        bf16 = (weights[0].dtype if autocast is None else autocast) == torch.bfloat16
        arguments = (cu_seqlens, resets, x, conv_state, ssm_state)
        if torch.is_grad_enabled():
            results = _differentiable_mixer(bf16, self.norm_dt_B_C_eps, want_state, *arguments, *weights)
        else:
            results = native.mixer_forward(
                x, weights, conv_state, ssm_state, cu_seqlens, resets, bf16, self.norm_dt_B_C_eps, want_state, ()
            )
            results = results[:3] if want_state else results[0]
        out, after = (results[0], results[1:]) if want_state else (results, None)
        dtype = x.dtype if autocast is None else autocast
        return (out if out.dtype == dtype else out.to(dtype)), after

    def _run_by_ops(self, x, conv_state, ssm_state, cu_seqlens, resets, want_state):
        xz = self.in_proj(x).transpose(1, 2)
        A = -torch.exp(self.A_log if self.A_log.dtype == torch.float64 else self.A_log.float())
        left, z = xz.chunk(2, dim=1)
        conv_weight = self.conv1d.weight.squeeze(1)
        conv = _conv(left, conv_weight, self.conv1d.bias, True, conv_state, cu_seqlens, resets, want_state)
        left, conv_after = conv if want_state else (conv, None)
        x_dbl = self.x_proj(left.transpose(1, 2))
        dt, B, C = torch.split(x_dbl, [self.dt_rank, self.d_state, self.d_state], dim=-1)
        if self.norm_dt_B_C_eps is not None:
            dt, B, C = (_over_rms(part, self.norm_dt_B_C_eps) for part in (dt, B, C))
        dt = F.linear(dt, self.dt_proj.weight).transpose(1, 2)
        scanned = _scan(
            left, dt, A, B.transpose(1, 2), C.transpose(1, 2), self.D, z, self.dt_proj.bias, True, ssm_state,
            cu_seqlens, resets, want_state,
        )
        y, ssm_after = scanned if want_state else (scanned, None)
        return self.out_proj(y.transpose(1, 2)), (conv_after, ssm_after) if want_state else None

    def _check_input(self, x):
        if not isinstance(x, torch.Tensor):
            raise TypeError(f"[mamba] hidden_states: expected a torch tensor, got {type(x).__name__}")
        if x.dim() != 3 or x.shape[-1] != self.d_model:
            raise ValueError(f"[mamba] hidden_states: expected (b, l, {self.d_model}), got {tuple(x.shape)}")

    def forward(
        self, hidden_states, inference_params=None, *, seq_idx=None, cu_seqlens=None, state=None, return_state=False
    ):
        """hidden_states (b,l,m) -> (b,l,m).

        With inference_params, the state of each layer is read from and kept in it, and any number of tokens may follow.
        `seq_idx` (b,l), or for b = 1 `cu_seqlens` (s+1), packs several sequences in a row. Tokens behind the last of
        `cu_seqlens` are padding: no sequence reads them, and the mixer's output there is 0. `state` is what an earlier
        call with return_state=True gave (out, state), gradients flow through both; in a stack it is a list.
        """
        self._check_input(hidden_states)
        if inference_params is not None and (state is not None or return_state):
            raise ValueError("[mamba] state: expected None beside inference_params, got both")
        if self.n_layer is not None:
            return self._forward_stack(hidden_states, inference_params, seq_idx, cu_seqlens, state, return_state)
        if inference_params is not None:
            return self._forward_cached(hidden_states, inference_params, seq_idx, cu_seqlens)
        out, after = self._run(hidden_states, state, cu_seqlens, resets_of(seq_idx), return_state)
        return (out, after) if return_state else out

    def _forward_stack(self, x, inference_params, seq_idx, cu_seqlens, state, return_state):
        if state is not None and len(state) != self.n_layer:
            raise ValueError(f"[mamba] state: expected one of {self.n_layer} layers, got {len(state)}")
        hidden, residual, after = x, None, []
        for i, layer in enumerate(self.layers):
            options = {}
            if state is not None or return_state:
                options = {"state": None if state is None else state[i], "return_state": return_state}
            hidden, residual = layer(
                hidden, residual, inference_params, seq_idx=seq_idx, cu_seqlens=cu_seqlens, **options
            )
            if return_state:
                hidden, one = hidden
                after.append(one)
        out = layer_norm_fn(
            hidden, self.norm_f.weight, None, residual=residual, eps=self.norm_f.eps, is_rms_norm=True
        )
        return (out, after) if return_state else out

    def _forward_cached(self, x, inference_params, seq_idx, cu_seqlens):
        batch = x.shape[0] if cu_seqlens is None else cu_seqlens.shape[0] - 1
        conv_state, ssm_state = self._get_states_from_cache(inference_params, batch)
        going_on = inference_params.seqlen_offset > 0
        return self._advance(x, conv_state, ssm_state, going_on, seq_idx, cu_seqlens)

    def _advance(self, x, conv_state, ssm_state, going_on=True, seq_idx=None, cu_seqlens=None):
        """Reads x after the state, or after nothing, and writes the state. Gradients flow through x and the weights,
        not through the state, which is written in place."""
        one = going_on and x.shape[1] == 1 and cu_seqlens is None
        if one and self._runs_natively() and not requires_grad(x, *self._weights()):
            return self._step(x, conv_state, ssm_state)
        before = None
        if going_on:  # copies: the state is written below, while backward may still want them
            before = (conv_state[..., 1:].to(x.dtype, copy=True), ssm_state.clone())
        out, after = self._run(x, before, cu_seqlens, resets_of(seq_idx), True)
        with torch.no_grad():
            oldest = self._raw_inputs_before_window(x, conv_state, going_on, cu_seqlens)
            conv_state[..., 1:] = after[0]
            conv_state[..., 0] = oldest
            ssm_state.copy_(after[1])
        return out

    def _raw_inputs_before_window(self, x, conv_state, going_on, cu_seqlens):
        """The published cache keeps k raw inputs, the convolution k-1: input number l-k (s,d)."""
        length, k = x.shape[1], self.d_conv
        bias = None if self.in_proj.bias is None else self.in_proj.bias[: self.d_inner]
        weight = self.in_proj.weight[: self.d_inner]
        if cu_seqlens is not None:
            places = cu_seqlens[1:].long() - k
            inside = places >= cu_seqlens[:-1]
            raw = F.linear(x[0, places.clamp(min=0)], weight, bias)
            return raw.masked_fill(~inside.unsqueeze(-1), 0)
        if length >= k:
            return F.linear(x[:, length - k], weight, bias)
        return conv_state[..., length].clone() if going_on else 0

    def step(self, hidden_states, conv_state, ssm_state):
        """One token (b,1,m) -> (out (b,1,m), conv_state, ssm_state). conv_state (b,d,k), the last k inputs of the
        convolution, and ssm_state (b,d,n) are updated in place, without gradient; in a stack both are lists."""
        self._check_input(hidden_states)
        if hidden_states.shape[1] != 1:
            raise ValueError(f"[mamba] step: expected one token, got {hidden_states.shape[1]} (forward takes several)")
        if self.n_layer is None:
            return self._advance(hidden_states, conv_state, ssm_state), conv_state, ssm_state
        hidden, residual = hidden_states, None
        for layer, conv, ssm in zip(self.layers, conv_state, ssm_state):
            hidden, residual = layer._add_norm(layer.norm, hidden, residual)
            hidden = layer.mixer._advance(hidden, conv, ssm)
        return self.norm_f(hidden, residual=residual), conv_state, ssm_state

    def _step(self, x, conv_state, ssm_state):
        wide = torch.float64 if x.dtype == torch.float64 else torch.float32
        conv, ssm = conv_state.to(wide), ssm_state.to(wide)
        out = native.mixer_step(x, self._weights(), conv, ssm, self.norm_dt_B_C_eps)
        if conv is not conv_state:
            conv_state.copy_(conv)
        if ssm is not ssm_state:
            ssm_state.copy_(ssm)
        dtype = autocast_dtype(x) or x.dtype
        return out if out.dtype == dtype else out.to(dtype)

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None):
        """Zeros (b,d,k) and (b,d,n), in a stack {layer_idx: both}; their size does not depend on max_seqlen."""
        if self.n_layer is not None:
            return {
                layer.mixer.layer_idx: layer.allocate_inference_cache(batch_size, max_seqlen, dtype)
                for layer in self.layers
            }
        weight = self.out_proj.weight
        conv = torch.zeros(
            batch_size, self.d_inner, self.d_conv, device=weight.device, dtype=dtype or self.conv1d.weight.dtype
        )
        ssm = torch.zeros(
            batch_size, self.d_inner, self.d_state, device=weight.device, dtype=dtype or self.dt_proj.weight.dtype
        )
        return conv, ssm

    def _get_states_from_cache(self, inference_params, batch_size, initialize_states=False):
        if self.layer_idx is None:
            raise ValueError("[mamba] layer_idx: expected a number to keep the state under, got None")
        cache = inference_params.key_value_memory_dict
        if self.layer_idx not in cache:
            cache[self.layer_idx] = self.allocate_inference_cache(batch_size, inference_params.max_seqlen)
        conv_state, ssm_state = cache[self.layer_idx]
        if conv_state.shape[0] != batch_size:
            raise ValueError(
                f"[mamba] inference_params: expected a state of {batch_size} sequences, got {conv_state.shape[0]}"
            )
        if initialize_states:
            conv_state.zero_()
            ssm_state.zero_()
        return conv_state, ssm_state
