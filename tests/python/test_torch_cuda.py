"""The torch bridge on a GPU: streams, torch's allocator, CUDA graphs, 16 bits, torch.compile, and mixed devices."""

import numpy as np
import pytest
from torch_support import error, gpu_reason, leaves, torch

import coluber
from coluber import ops
from coluber import torch as ct

if gpu_reason():
    pytest.skip(gpu_reason(), allow_module_level=True)

LATE = 200_000_000  # clock cycles, about 0.1 s: far longer than starting any work takes


def normal(*shape, dtype=torch.float32):
    return torch.randn(*shape, device="cuda").to(dtype)


def scan_inputs(b=2, d=64, l=100, n=16, dtype=torch.float32):
    torch.manual_seed(0)
    return [
        normal(b, d, l, dtype=dtype), normal(b, d, l, dtype=dtype), -normal(d, n).abs() - 0.1,
        normal(b, n, l, dtype=dtype), normal(b, n, l, dtype=dtype), normal(d), normal(b, d, l, dtype=dtype), normal(d),
    ]


def scan(*inputs, **options):
    return ct.selective_scan_fn(*inputs, delta_softplus=True, **options)


def test_results_are_torchs_own_tensors():
    inputs = leaves(*scan_inputs(l=4096))
    held, ours = torch.cuda.memory_allocated(), coluber.memory_stats("cuda")["live_bytes"]
    out = scan(*inputs)
    assert out.device == inputs[0].device and not out._is_view()
    assert torch.cuda.memory_allocated() - held >= out.numel() * 4
    assert coluber.memory_stats("cuda")["live_bytes"] == ours
    out += 1  # in place on a result, as on any of torch's
    out.sum().backward()
    assert all(t.grad.device == t.device and t.grad.dtype == t.dtype for t in inputs)
    del out
    torch.cuda.synchronize()
    given = [t.detach() for t in inputs]
    before = torch.cuda.memory_allocated()
    for _ in range(3):
        scan(*given)
    assert torch.cuda.memory_allocated() == before


@pytest.mark.parametrize("b, d, l, n", [(1, 4, 8, 4), (2, 8, 16, 16), (2, 8, 40, 16)])
def test_a_tiny_scan_reads_its_inputs_as_they_lie(b, d, l, n):
    def allocated(function):
        before = torch.cuda.memory_stats()["allocation.all.allocated"]
        results = function()
        return torch.cuda.memory_stats()["allocation.all.allocated"] - before, results

    inputs = leaves(*scan_inputs(b, d, l, n))
    scan(*inputs)
    with torch.no_grad():
        count, out = allocated(lambda: scan(*inputs))
    assert count == 1  # out
    count, with_grad = allocated(lambda: scan(*inputs))
    assert count == (1 if l <= 16 else 2)  # and the states at every 16th token
    assert torch.equal(out, with_grad)
    grads = torch.autograd.grad(with_grad.square().sum(), inputs)
    on_cpu = leaves(*(t.detach().cpu() for t in inputs))
    want = scan(*on_cpu)
    assert error(out.cpu(), want) <= 1e-5
    for grad, wanted in zip(grads, torch.autograd.grad(want.square().sum(), on_cpu)):
        assert error(grad.cpu(), wanted) <= 1e-4


def test_current_stream_is_honoured():
    inputs = scan_inputs()
    want = scan(2 * inputs[0], *inputs[1:])
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(LATE)
        late = 2 * inputs[0]
        out = scan(late, *inputs[1:])
        again = ops.selective_scan_forward(
            late.transpose(1, 2), inputs[1].transpose(1, 2), inputs[2], inputs[3].transpose(1, 2),
            inputs[4].transpose(1, 2), inputs[5], inputs[6].transpose(1, 2), inputs[7], dt_softplus=True,
        )
        assert not side.query()  # nothing waited
    side.synchronize()
    assert torch.equal(out, want) and torch.equal(again.transpose(1, 2), want)


def test_backward_runs_on_the_stream_of_forward():
    inputs = leaves(*scan_inputs())
    want = torch.autograd.grad(scan(*inputs).square().sum(), inputs)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side):
        torch.cuda._sleep(LATE)
        out = scan(*inputs)
        loss = out.square().sum()
    torch.cuda.current_stream().wait_stream(side)
    got = torch.autograd.grad(loss, inputs)
    torch.cuda.synchronize()
    assert all(torch.equal(a, b) for a, b in zip(got, want))


def test_record_stream_keeps_memory():
    side, x, weight = torch.cuda.Stream(), normal(1, 64, 4096), normal(64, 4)
    out = ct.causal_conv1d_fn(x, weight)
    want = out.clone()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        torch.cuda._sleep(LATE)
        copy = out.clone()
    out.record_stream(side)
    del out
    overwriting = [torch.zeros_like(x).transpose(1, 2).contiguous() for _ in range(20)]
    torch.cuda.synchronize()
    assert torch.equal(copy, want) and len(overwriting) == 20


def captured(function):
    """function() recorded after a warm-up on a side stream, as torch asks: (graph, what it gives)."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            function()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        out = function()
    return graph, out


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_updates_in_a_graph(dtype):
    b, d, n, k = 3, 64, 16, 4
    x, dt, z, B, C = (normal(b, size, dtype=dtype) for size in (d, d, d, n, n))
    A, D, bias, weight = -normal(d, n).abs(), normal(d), normal(d), normal(d, k, dtype=dtype)
    conv_state, ssm_state = normal(b, d, k, dtype=dtype), normal(b, d, n)
    start = conv_state.clone(), ssm_state.clone()

    def token():
        y = ct.causal_conv1d_update(x, conv_state, weight, None, "silu")
        return ct.selective_state_update(ssm_state, y, dt, A, B, C, D, z, bias, True)

    def restore():
        conv_state.copy_(start[0])
        ssm_state.copy_(start[1])

    graph, out = captured(token)
    restore()
    want = [token().clone() for _ in range(3)]
    ends = conv_state.clone(), ssm_state.clone()
    restore()
    for expected in want:
        graph.replay()
        assert torch.equal(out, expected)
    assert torch.equal(conv_state, ends[0]) and torch.equal(ssm_state, ends[1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_decoded_token_in_a_graph(dtype):
    torch.manual_seed(0)
    model = ct.MambaLMHeadModel(ct.MambaConfig(d_model=64, n_layer=2, vocab_size=96), device="cuda", dtype=dtype)
    ids = torch.randint(0, 96, (2, 12), device="cuda")
    with torch.inference_mode():
        params = ct.InferenceParams(max_seqlen=64, max_batch_size=2)
        model(ids, inference_params=params)
        params.seqlen_offset = ids.shape[1]
        start = {i: [t.clone() for t in pair] for i, pair in params.key_value_memory_dict.items()}
        token = ids[:, -1:].clone()

        def restore():
            for i, pair in params.key_value_memory_dict.items():
                for state, first in zip(pair, start[i]):
                    state.copy_(first)

        def drawn(step):
            restore()
            token.copy_(ids[:, -1:])
            taken = []
            for _ in range(8):
                token.copy_(step().argmax(-1))
                taken.append(token.clone())
            return torch.cat(taken, 1)

        def eager():
            return model(token, inference_params=params).logits

        graph, logits = captured(eager)

        def replayed():
            graph.replay()
            return logits

        assert torch.equal(drawn(replayed), drawn(eager))


def test_generation_with_a_graph():
    torch.manual_seed(1)
    model = ct.MambaLMHeadModel(ct.MambaConfig(d_model=64, n_layer=2, vocab_size=96), device="cuda")
    ids = torch.randint(0, 96, (3, 7), device="cuda")
    plain = model.generate(ids, max_length=40)
    assert torch.equal(model.generate(ids, max_length=40, cg=True), plain)
    assert torch.equal(model.cpu().generate(ids.cpu(), max_length=40), plain.cpu())


@pytest.mark.parametrize("dtype, unit", [(torch.bfloat16, 2.0**-8), (torch.float16, 2.0**-11)])
def test_16_bits_stay_16_bits(dtype, unit):
    """Inputs are the rounded ones on both sides: what differs is the rounding of the result, and of gradients."""
    inputs = leaves(*scan_inputs(dtype=dtype))
    wide = leaves(*(t.float() for t in inputs))
    out, expected = scan(*inputs), scan(*wide)
    assert out.dtype == dtype
    assert (out.float() - expected).abs().max() <= unit * expected.abs().max()
    cot = normal(*out.shape, dtype=dtype)
    out.backward(cot)
    expected.backward(cot.float())
    for got, want in zip(inputs, wide):
        assert got.grad.dtype == got.dtype
        assert (got.grad.float() - want.grad).abs().max() <= 2 * unit * want.grad.abs().max()
    mixed = scan(inputs[0], inputs[1].float(), *inputs[2:])  # one in f32: all are brought there
    assert mixed.dtype == dtype and torch.equal(mixed, expected.to(dtype))


def grads_of(model):
    return [p.grad.float().cpu() for p in model.parameters()]


@pytest.mark.parametrize("n_layer", [None, 2])
def test_modules_in_bf16_and_under_autocast(n_layer):
    torch.manual_seed(0)
    model = ct.Mamba(64, n_layer=n_layer, device="cuda")
    x = normal(2, 80, 64)
    expected = model(x)
    cot = normal(*expected.shape)
    expected.backward(cot)
    want = grads_of(model)
    model.zero_grad()
    with torch.autocast("cuda", dtype=torch.bfloat16):
        out = model(x)
    assert out.dtype == torch.bfloat16 or n_layer is not None
    out.backward(cot.to(out.dtype))
    assert (out.float() - expected).abs().max() < 0.03 * expected.abs().max()
    for p, got, grad in zip(model.parameters(), grads_of(model), want):
        assert p.grad.dtype == torch.float32 and (got - grad).abs().max() < 0.05 * grad.abs().max() + 1e-4
    model.zero_grad()
    model.bfloat16()
    out = model(x.bfloat16())
    out.backward(cot.bfloat16())
    assert out.dtype == torch.bfloat16 and (out.float() - expected).abs().max() < 0.03 * expected.abs().max()
    assert all(p.grad.dtype == torch.bfloat16 for p in model.parameters())


def test_a_module_is_the_same_on_both_devices():
    torch.manual_seed(2)
    model = ct.Mamba(48, n_layer=2)
    x = torch.randn(2, 30, 48)
    cot = torch.randn(2, 30, 48)
    out, state = model(x, return_state=True)
    out.backward(cot)
    want = grads_of(model)
    model.zero_grad()
    model.cuda()
    there, after = model(x.cuda(), return_state=True)
    there.backward(cot.cuda())
    assert error(there, out) < 1e-4
    for got, grad in zip(grads_of(model), want):
        assert error(got, grad) < 1e-3
    first, half = model(x[:, :13].cuda(), return_state=True)
    second = model(x[:, 13:].cuda(), state=half)
    assert error(torch.cat([first, second], 1), out) < 1e-4
    for a, b in zip(after, state):
        assert error(a[0], b[0]) < 1e-4 and error(a[1], b[1]) < 1e-4


def test_compiled():
    torch.manual_seed(0)
    inputs = scan_inputs(l=20)
    a, b = leaves(*inputs), leaves(*inputs)
    torch._dynamo.reset()
    out = torch.compile(scan, fullgraph=True, backend="aot_eager")(*a)
    want = scan(*b)
    assert out.is_cuda and error(out, want) < 1e-5
    out.square().sum().backward()
    want.square().sum().backward()
    assert all(error(x.grad, y.grad) < 1e-3 for x, y in zip(a, b))
    model, x = ct.Mamba(32, n_layer=2, device="cuda"), normal(2, 12, 32)
    torch._dynamo.reset()
    assert error(torch.compile(model, fullgraph=True, backend="aot_eager")(x), model(x)) < 1e-5


def test_mixed_devices_are_refused():
    inputs = scan_inputs(b=1, d=4, l=5, n=4)
    names = ("delta", "A", "B", "C", "D", "z", "delta_bias")
    for place, name in enumerate(names, 1):
        mixed = [t.cpu() if i == place else t for i, t in enumerate(inputs)]
        with pytest.raises(ValueError, match=r"device of \w+: expected cuda:0, got cpu \(move it with to"):
            scan(*mixed)
        with pytest.raises(ValueError, match=r"device of \w+: expected cpu, got cuda:0"):
            scan(*(t if i == place else t.cpu() for i, t in enumerate(inputs)))
    with pytest.raises(ValueError, match="device of weight: expected cuda:0, got cpu"):
        ct.causal_conv1d_fn(inputs[0], torch.randn(4, 4))
    with pytest.raises(ValueError, match="device of"):
        ct.Mamba(16)(normal(1, 3, 16))
    with pytest.raises(ValueError, match="expected f32, bf16 or f16 on a GPU, got f64"):
        scan(*(t.double() for t in inputs))


def test_page_locked_memory_may_change_once_it_is_copied():
    x = torch.ones(1 << 26, pin_memory=True)
    a = coluber.array(x)
    there = a.to("cuda")
    x.fill_(2)
    coluber.synchronize("cuda")
    assert bool((torch.from_dlpack(there) == 1).all())


def test_no_sequences():
    b, l = 0, 5
    inputs = leaves(*scan_inputs(b=b, l=l))
    out = scan(*inputs)
    out.sum().backward()
    assert out.shape == (b, 64, l) and all(bool((t.grad == 0).all()) for t in inputs)
    model = ct.Mamba(64, n_layer=2, device="cuda")
    out = model(normal(b, l, 64))
    out.sum().backward()
    assert out.shape == (b, l, 64) and all(bool((p.grad == 0).all()) for p in model.parameters())


def test_dlpack_orders_the_streams():
    x, weight = normal(64, 256), normal(32, 256)
    want = torch.nn.functional.linear(3 * x, weight)
    torch.cuda.synchronize()
    torch.cuda._sleep(LATE)
    late = 3 * x  # on torch's stream, which is not ours
    a = coluber.array(late)
    assert a.device == "cuda:0" and torch.from_dlpack(a).data_ptr() == late.data_ptr()
    y = ops.linear(a, coluber.array(weight))
    assert isinstance(y, coluber.Array)
    assert error(torch.from_dlpack(y), want) < 1e-2  # on torch's stream again
    seen = torch.from_dlpack(y)
    torch.cuda._sleep(LATE)
    copy = seen.clone()
    del seen, y, a  # memory goes back to us while torch still reads it
    for _ in range(4):
        ops.linear(coluber.array(0 * x), coluber.array(0 * weight))
    torch.cuda.synchronize()
    assert error(copy, want) < 1e-2


def test_stream_scope():
    x, weight = normal(64, 256), normal(32, 256)
    want = ops.linear(x, weight)
    torch.cuda.synchronize()
    side = torch.cuda.Stream()
    with torch.cuda.stream(side), coluber.StreamScope("cuda:0", side.cuda_stream):
        torch.cuda._sleep(LATE)
        y = ops.linear(coluber.array(x), coluber.array(weight))
        assert not side.query()
        got = torch.from_dlpack(y)
    side.synchronize()
    assert torch.equal(got, want)


def test_a_native_model_takes_torchs_ids():
    model = coluber.Model.create(d_model=32, n_layer=2, vocab_size=64, seed=1)
    ids = torch.randint(0, 64, (2, 9))
    want = model.forward(ids)
    gpu = model.to("cuda")
    for given in (ids, ids.cuda(), ids.int().cuda()):
        logits = gpu.forward(given)
        assert torch.is_tensor(logits) and logits.is_cuda and error(logits, want) < 1e-4
    assert isinstance(gpu.forward(ids.numpy()), np.ndarray)
