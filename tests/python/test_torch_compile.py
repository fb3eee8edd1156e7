"""torch.compile: whole graphs, without breaks, that give what eager gives."""

import pytest
from torch_support import error, leaves, torch

from coluber import torch as ct

if not hasattr(torch, "compile") or not hasattr(torch.library, "custom_op"):
    pytest.skip("torch.compile through custom operators wants torch 2.4 or newer", allow_module_level=True)


def compiled(function):
    torch._dynamo.reset()
    # aot_eager traces forward and backward as inductor does, and needs no compiler at run time.
    return torch.compile(function, fullgraph=True, backend="aot_eager")


def same(function, inputs, bound=1e-12):
    a, b = leaves(*inputs), leaves(*inputs)
    outputs, expected = compiled(function)(*a), function(*b)
    outputs, expected = ([o] if torch.is_tensor(o) else list(o) for o in (outputs, expected))
    for got, want in zip(outputs, expected):
        assert got.dtype == want.dtype and error(got, want) < bound
    sum(o.abs().square().sum() for o in outputs).backward()
    sum(o.abs().square().sum() for o in expected).backward()
    for x, y in zip(a, b):
        if x is not None:
            assert error(x.grad, y.grad) < 100 * bound


def normal(*shape):
    return torch.randn(*shape, dtype=torch.float64)


@pytest.mark.parametrize("form", ["variable", "grouped", "constant"])
def test_scan(form):
    b, d, l, n = 2, 4, 7, 3
    shape = {"variable": (b, n, l), "grouped": (b, 2, n, l), "constant": (d, n)}[form]
    inputs = [normal(b, d, l), normal(b, d, l), -normal(d, n).abs(), normal(*shape), normal(*shape)]
    same(lambda *x: ct.selective_scan_fn(*x[:5], delta_softplus=True), inputs)
    inputs += [normal(d), normal(b, d, l), normal(d), normal(b, d, n)]

    def all_of_it(*x):
        return ct.selective_scan_fn(*x[:8], delta_softplus=True, return_last_state=True, initial_state=x[8])

    same(all_of_it, inputs)


def test_complex_scan():
    A = torch.complex(-torch.rand(2, 3), torch.randn(2, 3)).to(torch.complex128)
    same(lambda *x: ct.selective_scan_fn(*x), [normal(1, 2, 5), normal(1, 2, 5), A, normal(1, 3, 10), normal(1, 3, 10)])


def test_conv_and_norm():
    def both(x, weight, bias, state, norm_weight, residual):
        y, last = ct.causal_conv1d_fn(
            x, weight, bias, initial_states=state, return_final_states=True, activation="silu"
        )
        y, total = ct.layer_norm_fn(y, norm_weight, None, residual, prenorm=True, is_rms_norm=True)
        return ct.layer_norm_fn(y, norm_weight, norm_weight), total, last

    same(both, [normal(2, 3, 8), normal(3, 4), normal(3), normal(2, 3, 3), normal(8), normal(2, 3, 8)])


@pytest.mark.parametrize("n_layer", [None, 2])
def test_module(n_layer):
    torch.manual_seed(0)
    model = ct.Mamba(16, n_layer=n_layer, bias=True)
    x = torch.randn(2, 20, 16)
    expected = model(x)
    expected.square().sum().backward()
    grads = [p.grad.clone() for p in model.parameters()]
    model.zero_grad()
    out = compiled(model)(x)
    assert error(out, expected) < 1e-5
    out.square().sum().backward()
    for p, grad in zip(model.parameters(), grads):
        assert error(p.grad, grad) < 1e-3
    packed = torch.tensor([[0] * 8 + [1] * 12] * 2)
    assert error(compiled(lambda x: model(x, seq_idx=packed))(x), model(x, seq_idx=packed)) < 1e-5


def test_language_model_and_autocast():
    torch.manual_seed(0)
    model = ct.MambaLMHeadModel(ct.MambaConfig(d_model=16, n_layer=2, vocab_size=24))
    ids = torch.randint(0, 24, (2, 9))
    step = compiled(lambda ids: model(ids).logits)
    assert error(step(ids), model(ids).logits) < 1e-5
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out, expected = compiled(lambda ids: model(ids).logits)(ids), model(ids).logits
    assert out.dtype == torch.bfloat16
    assert (out.float() - expected.float()).abs().max() < 0.05 * expected.float().abs().max()


def test_operators_are_registered_properly():
    b, d, l, n = 1, 2, 5, 3
    scan = leaves(normal(b, d, l), normal(b, d, l), -normal(d, n).abs(), normal(b, n, l), normal(b, n, l))
    torch.library.opcheck(
        torch.ops.coluber.selective_scan.default, (*scan, None, None, None, True, None, None, None)
    )
    x, weight = leaves(normal(b, d, l), normal(d, 4))
    torch.library.opcheck(torch.ops.coluber.causal_conv1d.default, (x, weight, None, True, None, None, None))
    x, weight, residual = leaves(normal(2, 5), normal(5), normal(2, 5))
    torch.library.opcheck(torch.ops.coluber.norm.default, (x, weight, None, residual, True, 1e-5))


def test_inductor():
    import shutil

    if shutil.which("g++") is None and shutil.which("clang++") is None:
        pytest.skip("inductor wants a C++ compiler")
    torch._dynamo.reset()
    torch.manual_seed(0)
    model = ct.Mamba(16)
    x = torch.randn(2, 12, 16)
    out = torch.compile(model, fullgraph=True)(x)
    assert error(out, model(x)) < 1e-5
    out.sum().backward()
    assert all(p.grad is not None for p in model.parameters())
