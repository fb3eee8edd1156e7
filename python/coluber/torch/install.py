"""coluber.torch under the names of the published packages, for programs that import those."""

import importlib.machinery
import sys
import types
import warnings

# The versions whose names are there; programs compare with them.
MAMBA_SSM_VERSION = "2.3.2+coluber"
CAUSAL_CONV1D_VERSION = "1.6.1+coluber"


def _contents():
    from . import block, causal_conv1d, generation, language_model, layer_norm, mamba, reference, selective_scan

    scan_names = {
        name: getattr(selective_scan, name) for name in ("selective_scan_fn", "mamba_inner_fn")
    } | {name: getattr(reference, name) for name in ("selective_scan_ref", "mamba_inner_ref")}
    norm_names = {name: getattr(layer_norm, name) for name in ("RMSNorm", "layer_norm_fn", "rms_norm_fn")}
    conv_names = {name: getattr(causal_conv1d, name) for name in ("causal_conv1d_fn", "causal_conv1d_update")}
    varlen = {"causal_conv1d_varlen_states": causal_conv1d.causal_conv1d_varlen_states}
    update = {
        "selective_state_update": selective_scan.selective_state_update,
        "selective_state_update_ref": reference.selective_state_update_ref,
    }
    model_names = ("MambaConfig", "MixerModel", "MambaLMHeadModel", "create_block")
    models = {name: getattr(language_model, name) for name in model_names}
    files = {name: getattr(language_model, name) for name in ("load_config_hf", "load_state_dict_hf")}
    return {
        "mamba_ssm": {
            "__version__": MAMBA_SSM_VERSION, "Mamba": mamba.Mamba,
            "MambaLMHeadModel": language_model.MambaLMHeadModel,
            "selective_scan_fn": selective_scan.selective_scan_fn, "mamba_inner_fn": selective_scan.mamba_inner_fn,
        },
        "mamba_ssm.modules": {},
        "mamba_ssm.modules.mamba_simple": {"Mamba": mamba.Mamba, "Block": block.Block},
        "mamba_ssm.modules.block": {"Block": block.Block},
        "mamba_ssm.modules.mlp": {"GatedMLP": block.GatedMLP},
        "mamba_ssm.models": {},
        "mamba_ssm.models.config_mamba": {"MambaConfig": language_model.MambaConfig},
        "mamba_ssm.models.mixer_seq_simple": models,
        "mamba_ssm.ops": {},
        "mamba_ssm.ops.selective_scan_interface": scan_names,
        "mamba_ssm.ops.triton": {},
        "mamba_ssm.ops.triton.selective_state_update": update,
        "mamba_ssm.ops.triton.layer_norm": norm_names,
        "mamba_ssm.ops.triton.layernorm": norm_names,  # its name before version 2
        "mamba_ssm.utils": {},
        "mamba_ssm.utils.generation": {
            name: getattr(generation, name) for name in ("InferenceParams", "GenerationMixin", "decode", "sample")
        },
        "mamba_ssm.utils.hf": files,
        "causal_conv1d": {"__version__": CAUSAL_CONV1D_VERSION, **conv_names, **varlen},
        "causal_conv1d.causal_conv1d_interface": {
            **conv_names, "causal_conv1d_ref": reference.causal_conv1d_ref,
            "causal_conv1d_update_ref": reference.causal_conv1d_update_ref,
        },
        "causal_conv1d.causal_conv1d_varlen": {
            **varlen, "causal_conv1d_varlen_states_ref": reference.causal_conv1d_varlen_states_ref,
        },
    }


def install_as_mamba_ssm():
    """Makes `import mamba_ssm` and `import causal_conv1d` give Coluber in this process.

    Call it before whatever imports them; transformers binds what it finds when it imports a model.
    COLUBER_AS_MAMBA_SSM=1 in the environment does it at `import coluber`. Refuses when the published packages were
    imported before."""
    for name in ("mamba_ssm", "causal_conv1d"):
        module = sys.modules.get(name)
        if module is not None and not getattr(module, "__coluber__", False):
            raise RuntimeError(f"[install_as_mamba_ssm] {name}: expected it not to be imported before, it is")
    if "transformers.models.mamba.modeling_mamba" in sys.modules and "mamba_ssm" not in sys.modules:
        warnings.warn(
            "transformers has imported its Mamba before install_as_mamba_ssm(), and keeps to its slow path",
            stacklevel=2,
        )
    contents = _contents()
    for name, names in contents.items():
        module = types.ModuleType(name, f"Coluber under the name {name}.")
        is_package = any(other.startswith(name + ".") for other in contents)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None, is_package=is_package)
        if is_package:
            module.__path__ = []
        module.__coluber__ = True
        module.__dict__.update(names)
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
