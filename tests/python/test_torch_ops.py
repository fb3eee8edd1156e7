"""coluber.torch's functions: against golden files, by central differences, and what they refuse."""

import gc
import pathlib

import pytest
from torch_support import Goldens, backward_of, error, in_places, leaves, torch

from coluber import torch as ct
from coluber.torch import reference

SCAN, CONV, NORM = Goldens("selective_scan"), Goldens("causal_conv1d"), Goldens("norm")


def normal(*shape, dtype=torch.float64):
    return torch.randn(*shape, dtype=dtype)


def as_complex(tensor):
    return torch.view_as_complex(tensor.contiguous())


@in_places
@pytest.mark.parametrize("case", SCAN.cases)
def test_scan_goldens(case, device, dtype, bound):
    options, inputs = SCAN.options(case), SCAN.tensors(case)
    if options["complex_A"]:
        for name in ("A", "initial_state"):
            if name in inputs:
                inputs[name] = as_complex(inputs[name])
        for name in ("B", "C"):
            if options[name + "_kind"].startswith("constant"):
                inputs[name] = as_complex(inputs[name])
    complex_dtype = torch.complex128 if dtype == torch.float64 else torch.complex64
    inputs = {name: t.to(device, complex_dtype if t.is_complex() else dtype) for name, t in inputs.items()}
    given = dict(zip(inputs, leaves(*inputs.values())))
    state = given.pop("initial_state", None)
    out, last = ct.selective_scan_fn(
        **given, delta_softplus=options["delta_softplus"], return_last_state=True, initial_state=state
    )
    expected, cot, grads = SCAN.tensors(case, "out"), SCAN.tensors(case, "cot"), SCAN.tensors(case, "grad")
    # The extreme case has delta up to 60 and A down to -60: its condition is far above that of the others.
    bound *= 50 if "extreme" in case else 1
    last_real = torch.view_as_real(last) if last.is_complex() else last
    assert error(out, expected["out"]) < bound
    assert error(last_real, expected["last_state"]) < bound
    backward_of([out, last_real], [cot.get("out"), cot.get("last_state")])
    if state is not None:
        given["initial_state"] = state
    for name, grad in grads.items():
        got = given[name].grad
        assert got.dtype == given[name].dtype
        assert error(torch.view_as_real(got) if got.is_complex() else got, grad) < 10 * bound, name


@in_places
@pytest.mark.parametrize("case", CONV.cases)
def test_conv_goldens(case, device, dtype, bound):
    options, inputs = CONV.options(case), CONV.tensors(case)
    seq_idx, cu_seqlens = inputs.pop("seq_idx", None), inputs.pop("cu_seqlens", None)
    seq_idx = None if seq_idx is None else seq_idx.to(device)
    inputs = {name: t.to(device, dtype) for name, t in inputs.items()}
    given = dict(zip(inputs, leaves(*inputs.values())))
    activation = "silu" if options["silu"] else None
    state = given.get("initial_state")
    out, last = ct.causal_conv1d_fn(
        given["x"], given["weight"], given.get("bias"), initial_states=state, return_final_states=True,
        activation=activation, cu_seqlens=cu_seqlens,
    )
    expected, cot, grads = CONV.tensors(case, "out"), CONV.tensors(case, "cot"), CONV.tensors(case, "grad")
    assert error(out, expected["out"]) < bound
    last_name = "varlen_states" if "varlen_states" in expected else "final_state"
    if last_name in expected:  # not for a kernel of width 1, which keeps nothing
        assert error(last, expected[last_name]) < bound
    if seq_idx is not None:
        same = ct.causal_conv1d_fn(given["x"], given["weight"], given.get("bias"), seq_idx, activation=activation)
        assert torch.equal(same, out)
    backward_of([out, last], [cot.get("out"), cot.get(last_name)])
    for name, grad in grads.items():
        assert error(given[name].grad, grad) < 10 * bound, name


@in_places
@pytest.mark.parametrize("case", NORM.cases)
def test_norm_goldens(case, device, dtype, bound):
    options, inputs = NORM.options(case), NORM.tensors(case)
    given = dict(zip(inputs, leaves(*(t.to(device, dtype) for t in inputs.values()))))
    function = ct.rms_norm_fn if options["kind"] == "rms" else ct.layer_norm_fn
    out, total = function(
        given["x"], given["weight"], given.get("bias"), given.get("residual"), eps=options["eps"], prenorm=True
    )
    expected, cot, grads = NORM.tensors(case, "out"), NORM.tensors(case, "cot"), NORM.tensors(case, "grad")
    assert error(out, expected["out"]) < bound
    if "residual_out" in expected:
        assert error(total, expected["residual_out"]) < bound
    backward_of([out, total], [cot.get("out"), cot.get("residual_out")])
    for name, grad in grads.items():
        assert error(given[name].grad, grad) < 10 * bound, name


def scan_inputs(b=2, d=4, l=6, n=3, groups=None, dtype=torch.float64, device="cpu"):
    shape = (b, n, l) if groups is None else (b, groups, n, l)
    inputs = [
        normal(b, d, l, dtype=dtype), normal(b, d, l, dtype=dtype), -torch.rand(d, n, dtype=dtype) - 0.1,
        normal(*shape, dtype=dtype), normal(*shape, dtype=dtype), normal(d, dtype=dtype), normal(b, d, l, dtype=dtype),
        normal(d, dtype=dtype),
    ]
    return [t.to(device) for t in inputs]


@pytest.mark.parametrize("groups", [None, 2])
def test_scan_gradcheck(groups):
    inputs = leaves(*scan_inputs(groups=groups), normal(2, 4, 3))

    def scan(*given):
        return ct.selective_scan_fn(*given[:8], delta_softplus=True, return_last_state=True, initial_state=given[8])

    assert torch.autograd.gradcheck(scan, inputs)


def test_complex_scan_gradcheck():
    b, d, l, n = 1, 2, 4, 2
    A = torch.complex(-torch.rand(d, n) - 0.1, torch.randn(d, n)).to(torch.complex128)
    C = torch.randn(d, n, dtype=torch.complex128)
    inputs = leaves(normal(b, d, l), normal(b, d, l), A, normal(b, n, 2 * l), C)
    assert torch.autograd.gradcheck(lambda *x: ct.selective_scan_fn(*x, delta_softplus=True), inputs)


def test_conv_gradcheck():
    inputs = leaves(normal(2, 3, 7), normal(3, 4), normal(3), normal(2, 3, 3))

    def conv(x, weight, bias, state):
        return ct.causal_conv1d_fn(
            x, weight, bias, initial_states=state, return_final_states=True, activation="silu"
        )

    assert torch.autograd.gradcheck(conv, inputs)


@pytest.mark.parametrize("rms", [False, True])
def test_norm_gradcheck(rms):
    def norm(x, weight, bias, residual, x1, weight1, rowscale):
        if rowscale is not None:
            x1 = None
        return ct.layer_norm_fn(
            x, weight, bias, residual, x1, weight1, rowscale=rowscale, prenorm=True, is_rms_norm=rms
        )

    x, weight, bias, residual, x1, weight1, scale = leaves(
        normal(2, 3, 5), normal(5), normal(5), normal(2, 3, 5), normal(2, 3, 5), normal(5), normal(2, 3)
    )
    assert torch.autograd.gradcheck(norm, (x, weight, bias, residual, x1, weight1, None))
    assert torch.autograd.gradcheck(norm, (x, weight, bias, residual, x1, weight1, scale))


@pytest.mark.parametrize("constant", [False, True])
def test_mamba_inner_gradcheck(constant, monkeypatch):
    b, d, l, n, u, m = 1, 3, 4, 2, 2, 2
    inputs = leaves(
        normal(b, 2 * d, l), normal(d, 1, 3), normal(d), normal(u + (0 if constant else 2 * n), d), normal(d, u),
        normal(m, d), normal(m), -torch.rand(d, n, dtype=torch.float64) - 0.1,
        *((normal(d, n), normal(d, n)) if constant else (None, None)), normal(d), normal(d),
        *((None, None) if constant else (normal(n), normal(n))),
    )
    assert torch.autograd.gradcheck(lambda *x: ct.mamba_inner_fn(*x), inputs)
    monkeypatch.setattr(reference, "causal_conv1d_fn", reference.causal_conv1d_ref)
    monkeypatch.setattr(reference, "selective_scan_fn", reference.selective_scan_ref)
    expected = reference.mamba_inner_ref(*inputs)
    assert error(ct.mamba_inner_fn(*inputs), expected) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_16_bits_are_computed_in_f32(dtype):
    u, delta, A, B, C, D, z, bias = (t.float() for t in scan_inputs(l=40))
    half = [t.to(dtype) for t in (u, delta, B, C, z)]
    given = leaves(half[0], half[1], A, half[2], half[3], D, half[4], bias)
    out = ct.selective_scan_fn(*given, delta_softplus=True)
    wide = leaves(*(t.float() for t in given))
    expected = ct.selective_scan_fn(*wide, delta_softplus=True)
    assert out.dtype == dtype and torch.equal(out, expected.to(dtype))
    out.sum().backward()
    expected.sum().backward()
    for got, want in zip(given, wide):
        assert got.grad.dtype == got.dtype and torch.equal(got.grad, want.grad.to(got.dtype))


def test_any_strides():
    u, delta, A, B, C, D, z, bias = scan_inputs(dtype=torch.float32)
    expected = ct.selective_scan_fn(u, delta, A, B, C, D, z, bias, True)
    wide = torch.randn(2, 6, 8)
    wide[..., ::2] = u.transpose(1, 2)
    for view in (wide[..., ::2].transpose(1, 2), u.transpose(1, 2).contiguous().transpose(1, 2)):
        assert torch.equal(ct.selective_scan_fn(view, delta, A, B, C, D, z, bias, True), expected)
    broadcast = B[:1].expand(2, -1, -1)
    assert torch.equal(
        ct.selective_scan_fn(u, delta, A, broadcast, C), ct.selective_scan_fn(u, delta, A, broadcast.contiguous(), C)
    )
    conjugate = torch.complex(A, A).conj()
    B2 = normal(2, 3, 12, dtype=torch.float32)
    resolved = conjugate.resolve_conj()
    assert torch.equal(
        ct.selective_scan_fn(u, delta, conjugate, B2, B2), ct.selective_scan_fn(u, delta, resolved, B2, B2)
    )


@in_places
def test_packed_rows_are_separate_rows(device, dtype, bound):
    u, delta, A, B, C, D, z, bias = scan_inputs(b=1, l=9, dtype=dtype, device=device)
    packed = torch.tensor([0, 4, 9], dtype=torch.int32, device=device)
    out, last = ct.selective_scan_fn(u, delta, A, B, C, D, z, bias, True, True, cu_seqlens=packed)
    by_idx = ct.selective_scan_fn(
        u, delta, A, B, C, D, z, bias, True, seq_idx=torch.tensor([[0, 0, 0, 0, 1, 1, 1, 1, 1]], device=device)
    )
    assert error(by_idx, out) < bound
    for i, (begin, end) in enumerate(((0, 4), (4, 9))):
        one = [t[..., begin:end] for t in (u, delta, B, C, z)]
        part, state = ct.selective_scan_fn(one[0], one[1], A, one[2], one[3], D, one[4], bias, True, True)
        assert error(out[..., begin:end], part) < bound
        assert error(last[i : i + 1], state) < bound


@in_places
@pytest.mark.parametrize("heads", [False, True])
@pytest.mark.parametrize("indices", [False, True])
def test_state_update_is_a_token_of_the_scan(heads, indices, device, dtype, bound):
    def normal(*shape):
        return torch.randn(*shape, dtype=dtype, device=device)

    b, h, p, n, g, rows = 3, 4, 5, 6, 2, 7
    d = h * p
    x, dt, z = normal(b, d), normal(b, d), normal(b, d)
    A, D, bias = -normal(d, n).abs(), normal(d), normal(d)
    B, C = (normal(b, g, n), normal(b, g, n)) if heads else (normal(b, n), normal(b, n))
    pool = normal(rows if indices else b, d, n)
    chosen = torch.tensor([5, 0, 2], dtype=torch.int32, device=device) if indices else None
    before = pool[chosen.long()] if indices else pool.clone()
    scanned = [t.unsqueeze(-1) for t in (x, dt, B, C, z)]
    expected, last = ct.selective_scan_fn(
        scanned[0], scanned[1], A, scanned[2], scanned[3], D, scanned[4], bias, True, True, initial_state=before
    )
    split = (lambda t, axis: t.unflatten(axis, (h, p))) if heads else (lambda t, axis: t)
    state = split(pool, 1).clone()
    out = ct.selective_state_update(
        state, split(x, 1), split(dt, 1), split(A, 0), B, C, split(D, 0), split(z, 1), split(bias, 0), True, chosen
    )
    assert error(out.reshape(b, d), expected[..., 0]) < bound
    after = state.reshape(-1, d, n)
    assert error(after[chosen.long()] if indices else after, last) < bound
    if indices:
        untouched = [i for i in range(rows) if i not in chosen]
        assert torch.equal(after[untouched], pool[untouched])


@in_places
@pytest.mark.parametrize("length", [1, 3, 8])
@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("slots", [3, 6])
def test_conv_update(length, circular, slots, device, dtype, bound):
    def normal(*shape):
        return torch.randn(*shape, dtype=dtype, device=device)

    x, state, weight, bias = normal(2, 3, length), normal(2, 3, slots), normal(3, 4), normal(3)
    places = torch.tensor([7, 2], dtype=torch.int32, device=device) if circular else None
    want_state = state.clone()
    if circular and length > slots:
        pytest.skip("which of several tokens stays in one place of the reference's buffer is not defined")
    want = reference.causal_conv1d_update_ref(x, want_state, weight, bias, "silu", places)
    got = ct.causal_conv1d_update(x, state, weight, bias, "silu", places)
    assert error(got, want) < bound and torch.equal(state, want_state)
    if length == 1 and not circular:
        state2 = normal(2, 3, slots)
        same = state2.clone()
        token = ct.causal_conv1d_update(x[..., 0], state2, weight, bias)
        assert token.shape == (2, 3) and torch.equal(token, ct.causal_conv1d_update(x, same, weight, bias)[..., 0])


def test_conv_padding_and_varlen_states():
    x, weight = normal(1, 3, 8), normal(3, 4)
    seq_idx = torch.tensor([[0, 0, 0, 1, 1, -1, -1, -1]], dtype=torch.int32)
    out = ct.causal_conv1d_fn(x, weight, seq_idx=seq_idx)
    assert torch.equal(out[..., 5:], torch.zeros(1, 3, 3, dtype=torch.float64))
    assert error(out[..., 3:5], ct.causal_conv1d_fn(x[..., 3:5], weight)) < 1e-12
    states = ct.causal_conv1d_varlen_states(x[0].t(), torch.tensor([0, 2, 8]), 4)
    assert torch.equal(states[0], torch.cat([torch.zeros(3, 2, dtype=torch.float64), x[0, :, :2]], 1))
    assert torch.equal(states[1], x[0, :, 4:])


def test_dropout_of_norm():
    torch.manual_seed(0)
    x, weight = torch.ones(400, 50), torch.ones(50)
    y, total, mask, none = ct.layer_norm_fn(
        x, weight, None, torch.zeros(400, 50), dropout_p=0.25, prenorm=True, return_dropout_mask=True
    )
    assert none is None and torch.equal(total, mask / 0.75)
    assert abs(mask.float().mean().item() - 0.75) < 0.02  # 6 standard deviations of 20,000 draws


def test_rms_norm_module():
    norm = ct.RMSNorm(8, eps=1e-4).double()
    x, residual = normal(3, 8), normal(3, 8)
    y, total = norm(x, residual, prenorm=True)
    assert torch.equal(total, x + residual)
    assert error(y, total / (total.square().mean(-1, keepdim=True) + 1e-4).sqrt()) < 1e-12
    assert list(norm.state_dict()) == ["weight"]


def test_double_backward_is_refused():
    u, delta, A, B, C, D, z, bias = leaves(*scan_inputs())
    out = ct.selective_scan_fn(u, delta, A, B, C, D, z, bias, True)
    (grad,) = torch.autograd.grad(out.sum(), u, create_graph=True)
    with pytest.raises(RuntimeError, match="double backward: expected first derivatives only"):
        grad.square().sum().backward()


@pytest.mark.skipif(not hasattr(torch, "func"), reason="torch 2.0 or newer has torch.func")
def test_transforms_are_refused_by_torch():
    u, *others = scan_inputs()
    rows = torch.stack([u, u])
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.vmap(lambda row: ct.selective_scan_fn(row, *others))(rows)
    with pytest.raises(RuntimeError, match="functorch transforms"):
        torch.func.grad(lambda row: ct.selective_scan_fn(row, *others).sum())(u)
    assert ct.selective_scan_fn(u, *others).shape == u.shape


def test_retain_graph_and_versions():
    inputs = leaves(*scan_inputs())
    out = ct.selective_scan_fn(*inputs, delta_softplus=True)
    first = torch.autograd.grad(out.sum(), inputs, retain_graph=True)
    second = torch.autograd.grad(out.sum(), inputs)
    assert all(torch.equal(a, b) for a, b in zip(first, second))
    out = ct.selective_scan_fn(*inputs, delta_softplus=True)
    with torch.no_grad():
        inputs[0].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        out.sum().backward()


def refused(kind, match, function, *args, **kwargs):
    with pytest.raises(kind, match=match):
        function(*args, **kwargs)


def test_refusals():
    u, delta, A, B, C, D, z, bias = scan_inputs(dtype=torch.float32)
    scan, conv = ct.selective_scan_fn, ct.causal_conv1d_fn
    refused(TypeError, "u: expected a floating dtype, got int32", scan, u.int(), delta, A, B, C)
    refused(TypeError, "delta: expected float32 or 16 bits, got float64", scan, u, delta.double(), A, B, C)
    refused(TypeError, "A: expected float64 as the first input, got float32", scan, u.double(), delta.double(), A, B, C)
    refused(ValueError, r"u: expected \(b,d,l\)", scan, u[0], delta, A, B, C)
    refused(ValueError, "expected", scan, u, delta[..., 1:], A, B, C)
    refused(ValueError, "expected", scan, u, delta, A[1:], B, C)
    refused(ValueError, "expected", scan, u, delta, A, B[..., 1:], C)
    refused(ValueError, "expected", scan, u, delta, A, B, C[:, 1:])
    refused(ValueError, "expected", scan, u, delta, A, B, C, D[1:])
    refused(ValueError, "expected", scan, u, delta, A, B, C, z=z[:, 1:])
    refused(ValueError, "expected", scan, u, delta, A, B, C, delta_bias=bias[1:])
    refused(TypeError, "delta_sofplus", scan, u, delta, A, B, C, delta_sofplus=True)
    refused(TypeError, "expected a tensor, got None", scan, None, delta, A, B, C)
    dense = "expected a dense torch tensor in main memory, got"
    refused(TypeError, f"delta: {dense} torch.Tensor, meta", scan, u, delta.to("meta"), A, B, C)
    refused(TypeError, f"u: {dense} list", scan, [1.0], delta, A, B, C)
    refused(TypeError, "sparse", scan, u.to_sparse(), delta, A, B, C)
    refused(ValueError, "expected", conv, u, torch.randn(5, 4))
    match = "activation: expected None, silu or swish, got gelu"
    refused(NotImplementedError, match, conv, u, torch.randn(4, 4), activation="gelu")
    refused(ValueError, "expected", ct.rms_norm_fn, u, torch.ones(3), None)
    refused(ValueError, "rowscale", ct.rms_norm_fn, u, torch.ones(6), None, x1=u, rowscale=u[..., 0])
    match = "dropout_p: expected 0 or more, below 1, got 2"
    refused(ValueError, match, ct.rms_norm_fn, u, torch.ones(6), None, dropout_p=2)
    refused(TypeError, r"seq_idx\] expected a torch tensor \(b,l\), got list", scan, u, delta, A, B, C, seq_idx=[[0]])
    for module in (ct.Mamba(4), ct.Mamba(4, n_layer=1), ct.MixerModel(4, 1, 0, 8)):
        refused(TypeError, "unexpected keyword argument 'dtpye'", module.allocate_inference_cache, 1, 1, dtpye=None)
    refused(TypeError, "state: expected a torch tensor, got None", ct.selective_state_update, None, u, delta, A, B, C)
    refused(ValueError, "conv_state: expected", ct.causal_conv1d_update, u, torch.zeros(2, 4, 2), torch.randn(4, 4))
    state = torch.zeros(2, 4, 3)
    token = [u[..., 0], delta[..., 0], A, B[..., 0], C[..., 0]]
    wanting = [token[0].clone().requires_grad_(), *token[1:]]
    refused(RuntimeError, "x: expected a tensor without gradient", ct.selective_state_update, state, *wanting)
    overlapping = torch.zeros(1, 4, 3).expand(2, 4, 3)
    refused(RuntimeError, "single memory location", ct.selective_state_update, overlapping, *token)


def test_negation_that_torch_puts_off():
    """The imaginary part of a conjugate is memory with the other sign, of which DLPack does not tell."""
    inputs = scan_inputs(dtype=torch.float32)
    u = torch.complex(inputs[0], inputs[0]).conj().imag
    assert u.is_neg() and torch.equal(u, -inputs[0])
    assert torch.equal(ct.selective_scan_fn(u, *inputs[1:]), ct.selective_scan_fn(-inputs[0], *inputs[1:]))
    token = [x[..., 0] for x in inputs[:2]] + [inputs[2]] + [x[..., 0] for x in inputs[3:5]]
    state = torch.zeros(2, 4, 3)
    negated = torch.complex(state, state).conj().imag
    assert torch.equal(ct.selective_state_update(negated, *token), ct.selective_state_update(state, *token))
    assert torch.equal(negated, state) and state.any()
    negated = torch._neg_view(state)
    with pytest.raises(ValueError, match="expected memory that holds the values, got a negation"):
        ct.selective_state_update(negated, *token)


def test_update_of_no_tokens():
    state = torch.randn(2, 4, 3)
    kept = state.clone()
    assert ct.causal_conv1d_update(torch.randn(2, 4, 0), state, torch.randn(4, 4)).shape == (2, 4, 0)
    assert torch.equal(state, kept)


def test_no_elements():
    for b, l in ((0, 5), (2, 0)):
        u, delta, A, B, C, D, z, bias = leaves(*scan_inputs(b=b, l=l, dtype=torch.float32))
        out, last = ct.selective_scan_fn(u, delta, A, B, C, D, z, bias, True, True)
        assert out.shape == (b, 4, l) and torch.equal(last, torch.zeros(b, 4, 3))
        (out.sum() + last.sum()).backward()
        assert u.grad.shape == u.shape and torch.equal(A.grad, torch.zeros_like(A))
        conv = ct.causal_conv1d_fn(u, torch.randn(4, 4), activation="silu")
        assert conv.shape == (b, 4, l)


@pytest.mark.skipif(not pathlib.Path("/proc/self/statm").exists(), reason="no /proc to read memory from")
def test_10000_calls_leave_no_memory():
    inputs = leaves(*scan_inputs(dtype=torch.float32))
    weight = torch.randn(4, 4, requires_grad=True)
    norm_weight = torch.ones(6, requires_grad=True)
    module = ct.Mamba(4, d_state=2)

    def rss_pages():
        gc.collect()
        return int(pathlib.Path("/proc/self/statm").read_text().split()[1])

    def calls(count):
        for _ in range(count):
            x = ct.causal_conv1d_fn(inputs[0], weight, activation="silu")
            x = ct.rms_norm_fn(x, norm_weight, None)
            x = ct.selective_scan_fn(x, *inputs[1:], delta_softplus=True)
            module(x.transpose(1, 2)).sum().backward()

    calls(500)
    before = rss_pages()
    calls(10000)
    assert rss_pages() - before < 512  # 2 MiB, 200 bytes a call
