"""coluber.torch under the names of mamba_ssm and causal_conv1d, in processes of their own."""

import importlib.util
import os
import subprocess
import sys

import pytest
from torch_support import error, torch


def run(code, *arguments, **environment):
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), **environment}
    environment.setdefault("HF_HUB_OFFLINE", "1")
    done = subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)], env=environment, capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


IMPORTS = """
import torch
import mamba_ssm, causal_conv1d
from mamba_ssm import Mamba, MambaLMHeadModel, mamba_inner_fn, selective_scan_fn
from mamba_ssm.modules.mamba_simple import Mamba as Simple, Block
from mamba_ssm.models.config_mamba import MambaConfig
from mamba_ssm.models.mixer_seq_simple import MixerModel, create_block
from mamba_ssm.ops.selective_scan_interface import selective_scan_ref, mamba_inner_ref
from mamba_ssm.ops.triton.selective_state_update import selective_state_update
from mamba_ssm.ops.triton.layer_norm import RMSNorm, layer_norm_fn, rms_norm_fn
from mamba_ssm.ops.triton.layernorm import RMSNorm
from mamba_ssm.utils.generation import InferenceParams
from mamba_ssm.utils.hf import load_config_hf, load_state_dict_hf
from causal_conv1d import causal_conv1d_fn, causal_conv1d_update
from causal_conv1d.causal_conv1d_interface import causal_conv1d_ref
from causal_conv1d.causal_conv1d_varlen import causal_conv1d_varlen_states
import coluber
assert Mamba is Simple is coluber.Mamba
x = torch.randn(1, 100, 256)
print(Mamba(d_model=256, d_state=16, d_conv=4, expand=2)(x).shape)
"""


def test_function():
    out = run("import coluber; coluber.install_as_mamba_ssm(); coluber.install_as_mamba_ssm()\n" + IMPORTS)
    assert out == "torch.Size([1, 100, 256])\n"


def test_environment():
    assert run("import coluber\n" + IMPORTS, COLUBER_AS_MAMBA_SSM="1") == "torch.Size([1, 100, 256])\n"
    assert run("import coluber, sys; print('mamba_ssm' in sys.modules, 'torch' in sys.modules)") == "False False\n"


def test_real_package_is_left_alone():
    code = """
import sys, types
sys.modules["mamba_ssm"] = types.ModuleType("mamba_ssm")
import coluber
try:
    coluber.install_as_mamba_ssm()
except RuntimeError as error:
    print(error)
"""
    assert "mamba_ssm: expected it not to be imported before" in run(code)


def test_without_torch():
    code = """
import sys
sys.modules["torch"] = None
import coluber
try:
    coluber.Mamba
except ImportError as error:
    print(error)
"""
    assert run(code) == "[coluber.torch] torch: expected it to be installed, it is not (pip install torch)\n"


TRANSFORMERS = """
import sys, torch, coluber
fast, path = sys.argv[1] == "fast", sys.argv[2]
calls = []
if fast:
    coluber.install_as_mamba_ssm()
    import mamba_ssm, causal_conv1d
    def counted(module, name):
        import functools
        function = getattr(module, name)
        @functools.wraps(function)
        def wrapper(*args, **kwargs):
            calls.append(name)
            return function(*args, **kwargs)
        setattr(module, name, wrapper)
    counted(mamba_ssm, "mamba_inner_fn"); counted(mamba_ssm, "selective_scan_fn")
    counted(causal_conv1d, "causal_conv1d_fn")
    counted(causal_conv1d, "causal_conv1d_update")
    counted(sys.modules["mamba_ssm.ops.triton.selective_state_update"], "selective_state_update")
import transformers
config = transformers.MambaConfig(
    vocab_size=50, hidden_size=32, state_size=8, num_hidden_layers=3, pad_token_id=0, bos_token_id=0, eos_token_id=49,
)
torch.manual_seed(0)
model = transformers.MambaForCausalLM(config)
ids = torch.randint(1, 49, (2, 30), generator=torch.Generator().manual_seed(1))
results = {"logits": model.eval()(ids).logits.detach()}
for mode in ("train", "eval"):
    getattr(model, mode)()
    model.zero_grad()
    loss = model(ids, labels=ids).loss
    loss.backward()
    results[mode + "/loss"] = loss.detach()
    results.update({mode + "/" + name: p.grad.clone() for name, p in model.named_parameters()})
model.eval()
results["generated"] = model.generate(ids[:, :5], max_new_tokens=20, do_sample=False)
torch.save(results, path)
print(*sorted(set(calls)))
"""


@pytest.mark.skipif(importlib.util.find_spec("transformers") is None, reason="transformers is not installed")
def test_transformers_takes_the_fast_path(tmp_path):
    paths = {name: tmp_path / name for name in ("fast", "slow")}
    called = run(TRANSFORMERS, "fast", paths["fast"]).split()
    run(TRANSFORMERS, "slow", paths["slow"])
    assert called == [
        "causal_conv1d_fn", "causal_conv1d_update", "mamba_inner_fn", "selective_scan_fn", "selective_state_update",
    ]
    fast, slow = (torch.load(path) for path in paths.values())
    assert torch.equal(fast.pop("generated"), slow.pop("generated"))
    assert fast.keys() == slow.keys()
    for name, expected in slow.items():
        assert error(fast[name], expected) < 1e-4, name
