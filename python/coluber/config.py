"""ModelConfig: every number that fixes the shape and the arithmetic of a model."""

import warnings
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Dict, Optional, Union

from . import _native
from .arguments import names_wrong_types

__all__ = ["ModelConfig"]


@dataclass(frozen=True)
class ModelConfig:
    """Every number that fixes the shape and the arithmetic of a model. 0 in d_inner and dt_rank: derived.

    `dataclasses.replace(config, n_layer=8)` makes another; ValueError names the field that does not fit.
    """

    d_model: int
    n_layer: int
    vocab_size: int
    pad_vocab_size_multiple: int = 8
    d_state: int = 16
    d_conv: int = 4
    expand: float = 2
    d_inner: int = 0
    dt_rank: Union[int, str] = 0
    conv_bias: bool = True
    bias: bool = False
    norm_dt_B_C: bool = False
    norm_dt_B_C_eps: float = 1e-6
    dt_min: float = 0.001
    dt_max: float = 0.1
    dt_init_random: bool = True
    dt_scale: float = 1.0
    dt_init_floor: float = 1e-4
    norm: str = "rms"
    norm_eps: float = 1e-5
    residual_in_fp32: bool = True
    tie_embeddings: bool = True
    bidirectional: bool = False
    dropout: float = 0.0
    initializer_range: float = 0.02
    rescale_prenorm_residual: bool = True
    layout: str = "state_spaces"
    bos_token_id: Optional[int] = None
    eos_token_id: Optional[int] = None
    pad_token_id: Optional[int] = None

    def __post_init__(self):
        if self.dt_rank == "auto":
            object.__setattr__(self, "dt_rank", 0)
        for name, value in _native.resolve_config(asdict(self)).items():
            object.__setattr__(self, name, value)

    @property
    def padded_vocab_size(self) -> int:
        """Rows of the embedding: vocab_size rounded up to pad_vocab_size_multiple."""
        return -(-self.vocab_size // self.pad_vocab_size_multiple) * self.pad_vocab_size_multiple

    @classmethod
    def preset(cls, name: str) -> "ModelConfig":
        """A published shape by name: "tiny", "mamba-130m", ... "mamba-2.8b". ValueError names the known ones."""
        return cls(**_native.model_preset(name))

    @classmethod
    @names_wrong_types
    def from_json(cls, text: str) -> "ModelConfig":
        """From the text of a config.json of any layout that Model.load takes."""
        values, sentences = _native.config_from_json(text)
        for sentence in sentences:
            warnings.warn(sentence, stacklevel=2)
        return cls(**values)

    def to_json(self, layout: Optional[str] = None) -> str:
        """The config.json of a layout ("state_spaces", "mamba", "falcon_mamba"; None: its own)."""
        return _native.config_to_json(asdict(self), layout or self.layout)


def config_of(config, changes: Dict[str, Any]) -> ModelConfig:
    known = {field.name for field in fields(ModelConfig)}
    for name in changes:
        if name not in known:
            raise TypeError(f"[model] create: expected fields of ModelConfig, got {name!r}")
    if isinstance(config, str):
        config = ModelConfig.preset(config)
    elif isinstance(config, dict):
        return config_of(None, {**config, **changes})
    elif config is None:
        missing = [name for name in ("d_model", "n_layer", "vocab_size") if name not in changes]
        if missing:
            raise TypeError(f"[model] create: expected a preset, a config, or {', '.join(missing)} too")
        return ModelConfig(**changes)
    elif not isinstance(config, ModelConfig):
        raise TypeError(f"[model] config: expected a preset's name, ModelConfig or dict, got {type(config).__name__}")
    derived = {"d_model": ("d_inner", "dt_rank"), "expand": ("d_inner",)}
    for name, others in derived.items():  # what was derived from the field that changes is derived anew
        if name in changes:
            changes = {**{other: 0 for other in others}, **changes}
    return replace(config, **changes) if changes else config
