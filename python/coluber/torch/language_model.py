"""The published language model: embedding, blocks, final norm, head."""

import json
import math
import os
from collections import namedtuple
from dataclasses import asdict, dataclass, field
from functools import partial

import torch
from torch import nn

from ._autograd import native
from .block import Block, GatedMLP
from .generation import GenerationMixin
from .layer_norm import RMSNorm, layer_norm_fn
from .mamba import Mamba

CausalLMOutput = namedtuple("CausalLMOutput", ["logits"])


@dataclass
class MambaConfig:
    """config.json of the state-spaces layout. ssm_cfg holds arguments of Mamba."""

    d_model: int = 2560
    d_intermediate: int = 0
    n_layer: int = 64
    vocab_size: int = 50277
    ssm_cfg: dict = field(default_factory=dict)
    attn_layer_idx: list = field(default_factory=list)
    attn_cfg: dict = field(default_factory=dict)
    rms_norm: bool = True
    residual_in_fp32: bool = True
    fused_add_norm: bool = True
    pad_vocab_size_multiple: int = 8
    tie_embeddings: bool = True


def create_block(
    d_model, d_intermediate=0, ssm_cfg=None, attn_layer_idx=None, attn_cfg=None, norm_epsilon=1e-5, rms_norm=False,
    residual_in_fp32=False, fused_add_norm=False, layer_idx=None, device=None, dtype=None,
):
    kwargs = {"device": device, "dtype": dtype}
    if layer_idx in (attn_layer_idx or []):
        raise NotImplementedError("[block] attn_layer_idx: expected no attention layers, which are not built yet")
    options = dict(ssm_cfg or {})
    layer = options.pop("layer", "Mamba1")
    if layer != "Mamba1":
        raise NotImplementedError(f"[block] ssm_cfg layer: expected Mamba1, got {layer} (not built yet)")
    norm_cls = partial(RMSNorm if rms_norm else nn.LayerNorm, eps=norm_epsilon, **kwargs)
    mlp_cls = nn.Identity
    if d_intermediate:
        mlp_cls = partial(GatedMLP, hidden_features=d_intermediate, out_features=d_model, **kwargs)
    block = Block(
        d_model, partial(Mamba, layer_idx=layer_idx, **options, **kwargs), mlp_cls, norm_cls, fused_add_norm,
        residual_in_fp32,
    )
    block.layer_idx = layer_idx
    return block


def _init_weights(module, n_layer, initializer_range=0.02, rescale_prenorm_residual=True, n_residuals_per_layer=1):
    if isinstance(module, nn.Linear):
        if module.bias is not None and not getattr(module.bias, "_no_reinit", False):
            nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Embedding):
        nn.init.normal_(module.weight, std=initializer_range)
    if rescale_prenorm_residual:
        for name, parameter in module.named_parameters():
            if name in ("out_proj.weight", "fc2.weight"):
                # Drawn anew each time: this may be called several times, and scaling would add up.
                nn.init.kaiming_uniform_(parameter, a=math.sqrt(5))
                with torch.no_grad():
                    parameter /= math.sqrt(n_residuals_per_layer * n_layer)


class MixerModel(nn.Module):
    """input_ids (b,l) -> hidden states (b,l,m) after the final norm."""

    def __init__(
        self, d_model, n_layer, d_intermediate, vocab_size, ssm_cfg=None, attn_layer_idx=None, attn_cfg=None,
        norm_epsilon=1e-5, rms_norm=False, initializer_cfg=None, fused_add_norm=False, residual_in_fp32=False,
        device=None, dtype=None,
    ):
        super().__init__()
        kwargs = {"device": device, "dtype": dtype}
        self.residual_in_fp32 = residual_in_fp32
        self.fused_add_norm = fused_add_norm
        self.embedding = nn.Embedding(vocab_size, d_model, **kwargs)
        self.layers = nn.ModuleList(
            create_block(
                d_model, d_intermediate, ssm_cfg, attn_layer_idx, attn_cfg, norm_epsilon, rms_norm, residual_in_fp32,
                fused_add_norm, i, **kwargs,
            )
            for i in range(n_layer)
        )
        self.norm_f = (RMSNorm if rms_norm else nn.LayerNorm)(d_model, eps=norm_epsilon, **kwargs)
        self.apply(
            partial(
                _init_weights, n_layer=n_layer, **(initializer_cfg or {}),
                n_residuals_per_layer=1 if d_intermediate == 0 else 2,
            )
        )

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None, **kwargs):
        return {
            i: layer.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **kwargs)
            for i, layer in enumerate(self.layers)
        }

    def forward(self, input_ids, inference_params=None, **mixer_kwargs):
        hidden_states, residual = self.embedding(input_ids), None
        for layer in self.layers:
            hidden_states, residual = layer(hidden_states, residual, inference_params, **mixer_kwargs)
        norm = self.norm_f
        if not self.fused_add_norm:
            total = hidden_states if residual is None else hidden_states + residual
            return norm(total.to(dtype=norm.weight.dtype))
        return layer_norm_fn(
            hidden_states, norm.weight, norm.bias, residual=residual, eps=norm.eps,
            residual_in_fp32=self.residual_in_fp32, is_rms_norm=isinstance(norm, RMSNorm),
        )


class MambaLMHeadModel(nn.Module, GenerationMixin):
    """input_ids (b,l) -> .logits (b,l,v) over the padded vocabulary."""

    def __init__(self, config, initializer_cfg=None, device=None, dtype=None):
        super().__init__()
        self.config = config
        vocab_size = -(-config.vocab_size // config.pad_vocab_size_multiple) * config.pad_vocab_size_multiple
        kwargs = {"device": device, "dtype": dtype}
        self.backbone = MixerModel(
            d_model=config.d_model, n_layer=config.n_layer, d_intermediate=config.d_intermediate,
            vocab_size=vocab_size, ssm_cfg=config.ssm_cfg, attn_layer_idx=config.attn_layer_idx,
            attn_cfg=config.attn_cfg, rms_norm=config.rms_norm, initializer_cfg=initializer_cfg,
            fused_add_norm=config.fused_add_norm, residual_in_fp32=config.residual_in_fp32, **kwargs,
        )
        self.lm_head = nn.Linear(config.d_model, vocab_size, bias=False, **kwargs)
        self.apply(partial(_init_weights, n_layer=config.n_layer, **(initializer_cfg or {})))
        self.tie_weights()

    def tie_weights(self):
        if self.config.tie_embeddings:
            self.lm_head.weight = self.backbone.embedding.weight

    def allocate_inference_cache(self, batch_size, max_seqlen, dtype=None, **kwargs):
        return self.backbone.allocate_inference_cache(batch_size, max_seqlen, dtype=dtype, **kwargs)

    def forward(self, input_ids, position_ids=None, inference_params=None, num_last_tokens=0, **mixer_kwargs):
        """num_last_tokens > 0: logits of those alone. position_ids is not used: order is in the state."""
        hidden_states = self.backbone(input_ids, inference_params=inference_params, **mixer_kwargs)
        if num_last_tokens > 0:
            hidden_states = hidden_states[:, -num_last_tokens:]
        return CausalLMOutput(logits=self.lm_head(hidden_states))

    @classmethod
    def from_pretrained(cls, pretrained_model_name, device=None, dtype=None, **kwargs):
        """A folder on this machine in state-spaces or Hugging Face layout (`coluber.Model.load` reads the same)."""
        facts, tensors = native.read_checkpoint(os.fspath(pretrained_model_name))
        if facts["bidirectional"]:
            raise NotImplementedError(
                f"[from_pretrained] {pretrained_model_name}: expected a model that reads from left to right, got both "
                "ways (coluber.Model.load runs it)"
            )
        config = _config_of(facts)
        model = cls(config, device=device, dtype=dtype, **kwargs)
        if facts["norm_epsilon"] != 1e-5:  # MambaConfig has no name for it
            for module in model.modules():
                if isinstance(module, (RMSNorm, nn.LayerNorm)):
                    module.eps = facts["norm_epsilon"]
        model.load_state_dict(_state_dict_of(tensors, model.state_dict()))
        return model

    def save_pretrained(self, save_directory):
        """config.json and pytorch_model.bin in the state-spaces layout; each appears whole or not at all."""
        if self.config.ssm_cfg.get("norm_dt_B_C_eps") is not None:
            raise NotImplementedError(
                "[save_pretrained] expected a plain Mamba, got one that norms dt, B and C, which the state-spaces layout "
                "cannot say (coluber.Model.save writes the falcon_mamba layout)"
            )
        os.makedirs(save_directory, exist_ok=True)

        def written(name, write):
            path = os.path.join(save_directory, name)
            write(path + ".tmp")
            os.replace(path + ".tmp", path)

        def write_config(path):
            with open(path, "w") as file:
                json.dump(asdict(self.config), file, indent=4)

        written("pytorch_model.bin", partial(torch.save, self.state_dict()))
        written("config.json", write_config)


def _config_of(facts):
    # Only what differs from the defaults of Mamba, as published files have it.
    expand = facts["d_inner"] / facts["d_model"]
    chosen = {
        "d_state": (facts["d_state"], 16), "d_conv": (facts["d_conv"], 4), "conv_bias": (facts["conv_bias"], True),
        "bias": (facts["bias"], False), "expand": (int(expand) if expand == int(expand) else expand, 2),
        "dt_rank": (facts["dt_rank"], math.ceil(facts["d_model"] / 16)),
        "norm_dt_B_C_eps": (facts["norm_dt_B_C_eps"], None),
    }
    return MambaConfig(
        ssm_cfg={name: value for name, (value, default) in chosen.items() if value != default},
        **{
            name: facts[name]
            for name in (
                "d_model", "n_layer", "vocab_size", "rms_norm", "residual_in_fp32", "pad_vocab_size_multiple",
                "tie_embeddings",
            )
        },
    )


def _state_dict_of(tensors, expected):
    found = {}
    for name, array in tensors.items():
        key = name if name in expected else "backbone." + name
        tensor = torch.from_dlpack(array)
        found[key] = tensor.unsqueeze(1) if key.endswith("conv1d.weight") else tensor
    if "lm_head.weight" not in found:
        found["lm_head.weight"] = found["backbone.embedding.weight"]
    return found


def load_config_hf(model_name):
    """config.json of a folder on this machine, as a dict."""
    with open(os.path.join(model_name, "config.json")) as file:
        return json.load(file)


def load_state_dict_hf(model_name, device=None, dtype=None):
    """The tensors of a folder on this machine under the names of MambaLMHeadModel."""
    facts, tensors = native.read_checkpoint(os.fspath(model_name))
    names = {"lm_head.weight": None} | {"backbone." + name: None for name in tensors if name != "lm_head.weight"}
    return {key: t.to(device=device, dtype=dtype) for key, t in _state_dict_of(tensors, names).items()}
