"""coluber.torch's modules: the seed's example, golden files, states, and what torch does with a module."""

import copy
import os
import subprocess
import sys

import pytest
from torch_support import Goldens, error, in_places, torch

import coluber
from coluber import torch as ct

BLOCK = Goldens("mamba1_block")


def test_seed_example():
    from coluber import Mamba

    torch.manual_seed(0)
    for n_layer in (None, 3):
        model = Mamba(d_model=256, n_layer=n_layer)
        x = torch.randn(1, 100, 256)
        y = model(x)
        assert str(y.shape) == "torch.Size([1, 100, 256])"
        y.square().mean().backward()
        assert all(p.grad is not None and bool(p.grad.abs().sum() > 0) for p in model.parameters())
        later = x.clone()
        later[:, 60:] += 1
        again = model(later)
        assert torch.equal(again[:, :60], y[:, :60]) and not torch.equal(again[:, 60:], y[:, 60:])


def golden_mamba(case, device, dtype):
    options, inputs = BLOCK.options(case), BLOCK.tensors(case)
    x = inputs.pop("x")
    model = ct.Mamba(
        options["d_model"], options["d_state"], options["d_conv"], options["expand"], options["dt_rank"],
        conv_bias=options["conv_bias"], bias=options["bias"], layer_idx=0,
    ).to(device, dtype)
    model.load_state_dict({name: t.to(dtype) for name, t in inputs.items()})
    return model, x.to(device, dtype)


@pytest.mark.parametrize("fast", [True, False])
@in_places
@pytest.mark.parametrize("case", BLOCK.cases)
def test_block_goldens(case, device, dtype, bound, fast):
    model, x = golden_mamba(case, device, dtype)
    model.use_fast_path = fast
    x.requires_grad_()
    out = model(x)
    expected, grads = BLOCK.tensors(case, "out"), BLOCK.tensors(case, "grad")
    assert error(out, expected["out"]) < bound
    out.backward(BLOCK.tensors(case, "cot")["out"].to(device, dtype))
    assert error(x.grad, grads.pop("x")) < bound * 10
    parameters = dict(model.named_parameters())
    assert grads.keys() == parameters.keys()
    for name, grad in grads.items():
        assert error(parameters[name].grad, grad) < bound * 10, name


@in_places
@pytest.mark.parametrize("case", [c for c in BLOCK.cases if BLOCK.options(c)["decode_steps"] > 0])
def test_block_steps(case, device, dtype, bound):
    model, x = golden_mamba(case, device, dtype)
    expected = BLOCK.tensors(case, "out")
    conv_state, ssm_state = model.allocate_inference_cache(x.shape[0], x.shape[1])
    with torch.no_grad():
        for t in range(BLOCK.options(case)["decode_steps"]):
            out, conv_state, ssm_state = model.step(x[:, t : t + 1], conv_state, ssm_state)
            assert error(out[:, 0], expected["step_out"][:, t]) < bound
            assert error(conv_state, expected["step_conv_state"][:, t]) < bound
            assert error(ssm_state, expected["step_ssm_state"][:, t]) < bound


@pytest.mark.parametrize("d_conv", [1, 2, 4])
@pytest.mark.parametrize("fast", [True, False])
def test_cache_is_the_same_however_tokens_come(d_conv, fast):
    torch.manual_seed(1)
    model = ct.Mamba(12, d_conv=d_conv, layer_idx=0, bias=True, use_fast_path=fast).double()
    x = torch.randn(2, 9, 12, dtype=torch.float64)
    whole = model(x)
    caches = []
    for chunks in ([9], [1] * 9, [2, 3, 4], [5, 1, 1, 2]):
        params, parts, begin = ct.InferenceParams(max_seqlen=9, max_batch_size=2), [], 0
        with torch.no_grad():
            for length in chunks:
                parts.append(model(x[:, begin : begin + length], inference_params=params))
                begin += length
                params.seqlen_offset = begin
        assert error(torch.cat(parts, 1), whole) < 1e-12
        caches.append(params.key_value_memory_dict[0])
    for conv_state, ssm_state in caches[1:]:
        assert error(conv_state, caches[0][0]) < 1e-12 and error(ssm_state, caches[0][1]) < 1e-12


@pytest.mark.parametrize("n_layer", [None, 2])
def test_steps_with_gradients(n_layer):
    torch.manual_seed(8)
    model = ct.Mamba(8, n_layer=n_layer).double()
    x = torch.randn(2, 4, 8, dtype=torch.float64, requires_grad=True)

    def states():
        cache = model.allocate_inference_cache(2, 4)
        return cache if n_layer is None else [list(kind) for kind in zip(*cache.values())]

    conv, ssm = states()
    outs = []
    for t in range(4):
        out, conv, ssm = model.step(x[:, t : t + 1], conv, ssm)
        outs.append(out)
    assert error(torch.cat(outs, 1), model(x)) < 1e-12
    got = torch.autograd.grad(outs[0].square().sum(), [x, *model.parameters()])
    expected = torch.autograd.grad(model(x[:, :1]).square().sum(), [x, *model.parameters()])
    assert all(error(g, e) < 1e-11 for g, e in zip(got, expected))
    conv, ssm = states()
    with torch.no_grad():
        for t in range(4):
            same, conv, ssm = model.step(x[:, t : t + 1], conv, ssm)
            assert error(same, outs[t]) < 1e-12


@pytest.mark.parametrize("n_layer", [None, 2])
@pytest.mark.parametrize("fast", [True, False])
def test_states_and_packed_rows(n_layer, fast):
    torch.manual_seed(2)
    model = ct.Mamba(8, n_layer=n_layer, use_fast_path=fast).double()
    x = torch.randn(1, 10, 8, dtype=torch.float64, requires_grad=True)
    whole = model(x)
    (expected,) = torch.autograd.grad(whole.square().sum(), x)
    first, state = model(x[:, :4], return_state=True)
    second, _ = model(x[:, 4:], state=state, return_state=True)
    joined = torch.cat([first, second], 1)
    assert error(joined, whole) < 1e-12
    (got,) = torch.autograd.grad(joined.square().sum(), x)
    assert error(got, expected) < 1e-11
    apart = torch.cat([model(x[:, :4]), model(x[:, 4:])], 1)
    assert error(model(x, seq_idx=torch.tensor([[0] * 4 + [1] * 6])), apart) < 1e-12
    assert error(model(x, cu_seqlens=torch.tensor([0, 4, 10])), apart) < 1e-12


def test_gradcheck_of_the_whole_mixer():
    model = ct.Mamba(4, d_state=3, bias=True).double()
    names = [name for name, _ in model.named_parameters()]

    def run(x, conv, ssm, *values):
        return functional_call(model, dict(zip(names, values)), x, state=(conv, ssm), return_state=True)

    def functional_call(module, values, *args, **kwargs):
        for name, value in values.items():
            owner, _, leaf = name.rpartition(".")
            part = getattr(module, owner) if owner else module
            part.__dict__.setdefault("_parameters", {})[leaf] = value
        out, (conv, ssm) = module(*args, **kwargs)
        return out, conv, ssm

    x = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    conv = torch.randn(2, 8, 3, dtype=torch.float64, requires_grad=True)
    ssm = torch.randn(2, 8, 3, dtype=torch.float64, requires_grad=True)
    values = [p.detach().clone().requires_grad_() for p in model.parameters()]
    assert torch.autograd.gradcheck(run, (x, conv, ssm, *values))


def test_fast_path_is_the_ops():
    torch.manual_seed(3)
    fast = ct.Mamba(32, n_layer=2)
    slow = copy.deepcopy(fast)
    for module in slow.modules():
        if isinstance(module, ct.Mamba):
            module.use_fast_path = False
    x = torch.randn(2, 50, 32)
    a, b = fast(x), slow(x)
    assert error(a, b) < 1e-5
    a.square().sum().backward()
    b.square().sum().backward()
    for p, q in zip(fast.parameters(), slow.parameters()):
        assert error(p.grad, q.grad) < 1e-4


def test_replaced_and_hooked_parts_are_called():
    model, seen = ct.Mamba(16), []
    model.in_proj.register_forward_hook(lambda *args: seen.append("hook"))
    model(torch.randn(1, 3, 16))
    assert seen == ["hook"]

    class Doubled(torch.nn.Linear):
        def forward(self, x):
            return 2 * super().forward(x)

    plain = ct.Mamba(16)
    replaced = copy.deepcopy(plain)
    replaced.out_proj = Doubled(32, 16, bias=False)
    replaced.out_proj.weight = plain.out_proj.weight
    x = torch.randn(1, 3, 16)
    assert error(replaced(x), 2 * plain(x)) < 1e-5


def test_what_tape_a_backward_gets():
    torch.manual_seed(4)
    model = ct.Mamba(16)
    x = torch.randn(2, 20, 16, requires_grad=True)
    given = [x, *model.parameters()]
    out = model(x)
    first = torch.autograd.grad(out.sum(), given, retain_graph=True)
    again = torch.autograd.grad(out.sum(), given, retain_graph=True)  # the tape is spent: forward is run again
    assert all(torch.equal(a, b) for a, b in zip(first, again))
    other = model(2 * x)  # a second tape of the same weights
    mixed = torch.autograd.grad(out.sum() + other.sum(), given)
    assert all(torch.isfinite(g).all() for g in mixed)
    with torch.autograd.graph.save_on_cpu():  # torch keeps copies of what it saves, also of the tape's number
        copied = model(x)
    assert all(torch.equal(a, b) for a, b in zip(first, torch.autograd.grad(copied.sum(), given)))
    (grad,) = torch.autograd.grad(model(x).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward"):
        grad.sum().backward()


def test_memory_of_a_tape():
    model = ct.Mamba(64)
    x = torch.randn(4, 256, 64)
    model(x).sum().backward()  # from here on scratch memory is there
    idle = coluber.memory_stats()["live_bytes"]
    out = model(x)
    held = coluber.memory_stats()["live_bytes"] - idle
    assert held > 4 * 256 * 128 * 4  # at least one activation of d_inner
    out.sum().backward()
    assert coluber.memory_stats()["live_bytes"] - idle < held / 4
    del out
    model(x)
    with torch.no_grad():
        kept = model(x)
    assert coluber.memory_stats()["live_bytes"] - idle <= kept.numel() * 4 + 4096


@pytest.mark.parametrize("use_reentrant", [True, False])
def test_checkpointing(use_reentrant):
    from torch.utils.checkpoint import checkpoint

    torch.manual_seed(5)
    model = ct.Mamba(16)
    x = torch.randn(2, 30, 16, requires_grad=True)
    given = [x, *model.parameters()]
    model(x).square().sum().backward()
    expected = [p.grad.clone() for p in given]
    for p in given:
        p.grad = None
    idle = coluber.memory_stats()["live_bytes"]
    out = checkpoint(model, x, use_reentrant=use_reentrant)
    assert coluber.memory_stats()["live_bytes"] - idle < 2 * out.numel() * 4 + 4096  # the tape is not kept
    out.square().sum().backward()
    assert all(torch.equal(p.grad, e) for p, e in zip(given, expected))


def test_autocast():
    torch.manual_seed(6)
    model = ct.Mamba(64)
    x = torch.randn(2, 40, 64)
    exact = model(x)
    for fast in (True, False):
        model.use_fast_path = fast
        model.zero_grad()
        with torch.autocast("cpu", dtype=torch.bfloat16):
            out = model(x)
        assert out.dtype == torch.bfloat16
        assert (out.float() - exact).abs().max() < 0.03 * exact.abs().max()
        out.float().sum().backward()
        assert all(p.grad.dtype == torch.float32 for p in model.parameters())
    half = copy.deepcopy(model).bfloat16()
    half.use_fast_path = True
    out = half(x.bfloat16())
    assert out.dtype == torch.bfloat16 and (out.float() - exact).abs().max() < 0.05 * exact.abs().max()
    out.float().sum().backward()
    assert half.in_proj.weight.grad.dtype == torch.bfloat16


def test_module_refusals():
    x = torch.randn(2, 5, 16)
    for arguments, kind, match in (
        (dict(d_model=0), ValueError, "d_model: expected a whole number of 1 or more, got 0"),
        (dict(d_model=16, n_layer=0), ValueError, "n_layer"),
        (dict(d_model=16, dt_init="zeros"), NotImplementedError, "dt_init: expected random or constant"),
        (dict(d_model=16, d_sate=8), TypeError, "d_sate"),
    ):
        with pytest.raises(kind, match=match):
            ct.Mamba(**arguments)
    model = ct.Mamba(16)
    for given, kind, match in (
        (x[..., 1:], ValueError, r"hidden_states: expected \(b, l, 16\), got \(2, 5, 15\)"),
        (x[0], ValueError, "hidden_states"),
        (x.long(), TypeError, "hidden_states: expected a floating dtype"),
        (x.double(), TypeError, "expected float64"),
    ):
        with pytest.raises(kind, match=match):
            model(given)
    with pytest.raises(ValueError, match="layer_idx: expected a number"):
        model(x, inference_params=ct.InferenceParams(5, 2))
    states = model.allocate_inference_cache(2, 5)
    with pytest.raises(ValueError, match="step: expected one token, got 5"):
        model.step(x, *states)
    with torch.no_grad(), pytest.raises(ValueError, match="conv_state"):
        model.step(x[:1, :1], *states)
    with pytest.raises(NotImplementedError, match="not built yet"):
        ct.MambaLMHeadModel(ct.MambaConfig(d_model=8, n_layer=1, vocab_size=8, ssm_cfg={"layer": "Mamba2"}))
    assert model(x[:0]).shape == (0, 5, 16) and model(x[:, :0]).shape == (2, 0, 16)


def test_initial_values():
    model = ct.Mamba(64, n_layer=4, dt_min=0.01, dt_max=0.02)
    mixer = model.layers[2].mixer
    assert torch.equal(mixer.A_log[5], torch.log(torch.arange(1.0, 17)))
    assert torch.equal(mixer.D, torch.ones(128)) and mixer.dt_rank == 4
    dt = torch.nn.functional.softplus(mixer.dt_proj.bias)
    assert 0.0099 < dt.min() and dt.max() < 0.0201
    assert mixer.dt_proj.weight.abs().max() <= 4**-0.5
    bound = 128**-0.5 / 4**0.5  # of a linear layer, over the root of the number of layers
    assert 0.9 * bound < mixer.out_proj.weight.abs().max() <= bound
    assert [b.mixer.layer_idx for b in model.layers] == [0, 1, 2, 3]
    constant = ct.Mamba(64, dt_init="constant", dt_scale=2.0)
    assert torch.equal(constant.dt_proj.weight, torch.ones(128, 4))
    assert list(constant.state_dict()) == [
        "A_log", "D", "in_proj.weight", "conv1d.weight", "conv1d.bias", "x_proj.weight", "dt_proj.weight",
        "dt_proj.bias", "out_proj.weight",
    ]
    assert ct.Mamba(8, dtype=torch.bfloat16).A_log.dtype == torch.float32


def test_threads_share_a_module():
    import threading

    model = ct.Mamba(16)
    x = torch.randn(2, 40, 16)
    expected = model(x).detach()
    (grad,) = torch.autograd.grad(model(x.requires_grad_()).sum(), x)
    same = []

    def work():
        own = x.detach().clone().requires_grad_()
        for _ in range(10):
            out = model(own)
            same.append(torch.equal(out, expected) and torch.equal(torch.autograd.grad(out.sum(), own)[0], grad))

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(same) == 80 and all(same)


WORKER = """
import os, sys, torch, torch.distributed as dist
from coluber.torch import Mamba
rank = int(sys.argv[1])
dist.init_process_group("gloo", init_method="file://" + sys.argv[2], rank=rank, world_size=2)
torch.manual_seed(0)
model = Mamba(16, n_layer=2)
x = torch.randn(4, 12, 16)
parallel = torch.nn.parallel.DistributedDataParallel(model)
parallel(x[2 * rank : 2 * rank + 2]).square().mean().backward()
got = [p.grad.clone() for p in model.parameters()]
model.zero_grad()
model(x).square().mean().backward()
assert all(torch.allclose(a, p.grad, rtol=1e-4, atol=1e-7) for a, p in zip(got, model.parameters()))
dist.destroy_process_group()
print("same")
"""


@pytest.mark.skipif(not torch.distributed.is_available(), reason="this torch has no torch.distributed")
def test_two_processes_give_the_gradients_of_one(tmp_path):
    if not torch.distributed.is_gloo_available() if hasattr(torch.distributed, "is_gloo_available") else False:
        pytest.skip("this torch has no gloo")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(rank), str(tmp_path / "meet")], env=environment, stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT, text=True,
        )
        for rank in range(2)
    ]
    for worker in workers:
        output, _ = worker.communicate(timeout=300)
        assert worker.returncode == 0 and "same" in output, output
