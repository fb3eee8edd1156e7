"""The operators over numpy arrays: against a plain recurrence, by central differences, and by what ties them together."""

import os
import signal
import threading

import numpy as np
import pytest

import coluber
from coluber import ops

RNG = np.random.default_rng(0)


def normal(*shape, dtype=np.float64):
    return RNG.standard_normal(shape).astype(dtype)


def scan_inputs(b=2, l=7, d=3, n=4, dtype=np.float64):
    return dict(
        u=normal(b, l, d, dtype=dtype),
        dt=normal(b, l, d, dtype=dtype),
        A=-np.exp(normal(d, n, dtype=dtype)),
        B=normal(b, l, n, dtype=dtype),
        C=normal(b, l, n, dtype=dtype),
        D=normal(d, dtype=dtype),
        z=normal(b, l, d, dtype=dtype),
        dt_bias=normal(d, dtype=dtype),
        state_in=normal(b, d, n, dtype=dtype),
    )


def plain_scan(u, dt, A, B, C, D, z, dt_bias, state_in):
    """Equation by equation (arXiv 2312.00752, section 3)."""
    dt = np.log1p(np.exp(dt + dt_bias))
    h, ys = state_in.copy(), []
    for t in range(u.shape[1]):
        h = np.exp(dt[:, t, :, None] * A) * h + (dt[:, t] * u[:, t])[..., None] * B[:, t, None, :]
        y = (h * C[:, t, None, :]).sum(-1) + D * u[:, t]
        ys.append(y * z[:, t] / (1 + np.exp(-z[:, t])))
    return np.stack(ys, 1), h


def test_scan_is_the_recurrence():
    args = scan_inputs()
    y, state = ops.selective_scan_forward(**args, dt_softplus=True, return_state=True)
    want_y, want_state = plain_scan(**args)
    assert isinstance(y, np.ndarray) and y.dtype == np.float64
    np.testing.assert_allclose(y, want_y, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(state, want_state, rtol=1e-12, atol=1e-12)
    single = {k: v.astype(np.float32) for k, v in args.items()}
    np.testing.assert_allclose(ops.selective_scan(**single, dt_softplus=True), want_y, rtol=0, atol=2e-5)


def central_difference(f, x, step=1e-5):
    grad = np.zeros_like(x)
    for i in np.ndindex(*x.shape):
        keep = x[i]
        x[i] = keep + step
        above = f()
        x[i] = keep - step
        grad[i] = (above - f()) / (2 * step)
        x[i] = keep
    return grad


def test_scan_backward_by_central_differences():
    args = scan_inputs(b=1, l=3, d=2, n=2)
    gy, gs = normal(1, 3, 2), normal(1, 2, 2)

    def loss():
        y, state = ops.selective_scan_forward(**args, dt_softplus=True, return_state=True)
        return (y * gy).sum() + (state * gs).sum()

    grads = ops.selective_scan_backward(gy, **args, dt_softplus=True, grad_state_out=gs)
    for name, x in args.items():
        np.testing.assert_allclose(getattr(grads, name), central_difference(loss, x), rtol=1e-6, atol=1e-8, err_msg=name)


def test_a_state_lies_apart_from_what_a_step_reads():
    one = {name: x[:, :1] for name, x in scan_inputs(b=1, n=3).items() if name in ("u", "dt", "B", "C")}
    A, memory = -np.ones((3, 3)), np.zeros((2, 3, 3))
    ops.selective_scan_step(memory[1:], **{**one, "B": memory[:1, 2:]}, A=A)  # neighbours
    with pytest.raises(ValueError, match="state: expected memory of its own"):
        ops.selective_scan_step(memory[:1], **{**one, "B": memory[:1, ::-1][:, :1]}, A=A)
    with pytest.raises(ValueError, match="state: expected memory of its own"):
        ops.causal_conv1d_step(memory[:1], memory[:1, 1:2], np.ones((3, 4)))


def test_borders_of_sequences_are_any_integers():
    inputs = scan_inputs(b=1)
    del inputs["state_in"]
    expected = ops.selective_scan(**inputs, cu_seqlens=np.array([0, 3, 7], np.int32))
    for borders in ([0, 3, 7], (0, np.int64(3), 7), np.array([0, 3, 7]), np.array([0, 3, 7], np.uint16)):
        assert np.array_equal(ops.selective_scan(**inputs, cu_seqlens=borders), expected)
    with pytest.raises(TypeError, match="cu_seqlens: expected an integer dtype, got f64"):
        ops.selective_scan(**inputs, cu_seqlens=np.array([0.0, 7.0]))


def test_scan_steps_are_the_scan():
    args = scan_inputs(dtype=np.float32)
    whole, last = ops.selective_scan_forward(**args, dt_softplus=True, return_state=True)
    state = args.pop("state_in").copy()
    for t in range(whole.shape[1]):
        now = {k: np.ascontiguousarray(v[:, t : t + 1]) if v.ndim == 3 else v for k, v in args.items()}
        y = ops.selective_scan_step(state, **now, dt_softplus=True)
        np.testing.assert_allclose(y[:, 0], whole[:, t], rtol=0, atol=1e-5)
    np.testing.assert_allclose(state, last, rtol=0, atol=1e-5)


def test_packed_rows_are_separate_sequences():
    args = scan_inputs(b=1, l=9, dtype=np.float32)
    args["state_in"] = normal(3, 3, 4, dtype=np.float32)
    borders = np.array([0, 2, 3, 9], np.int32)
    y, states = ops.selective_scan_forward(**args, dt_softplus=True, cu_seqlens=borders, return_state=True)
    for i in range(3):
        part = slice(borders[i], borders[i + 1])
        one = {k: v[:, part] if v.ndim == 3 else v for k, v in args.items()}
        one["state_in"] = args["state_in"][i : i + 1]
        want, state = ops.selective_scan_forward(**one, dt_softplus=True, return_state=True)
        np.testing.assert_allclose(y[:, part], want, rtol=0, atol=1e-5)
        np.testing.assert_allclose(states[i], state[0], rtol=0, atol=1e-5)


def test_complex_A_as_complex_numbers():
    args = scan_inputs()
    args.pop("state_in")
    args["A"] = args["A"] + 1j * normal(3, 4)
    args["B"] = args["B"] + 1j * normal(*args["B"].shape)
    args["C"] = args["C"] + 1j * normal(*args["C"].shape)
    y = ops.selective_scan(**args, dt_softplus=True)
    dt = np.log1p(np.exp(args["dt"] + args["dt_bias"]))
    h = np.zeros((2, 3, 4), complex)
    for t in range(7):
        u = args["u"][:, t]
        h = np.exp(dt[:, t, :, None] * args["A"]) * h + (dt[:, t] * u)[..., None] * args["B"][:, t, None, :]
        want = 2 * (h * args["C"][:, t, None, :]).sum(-1).real + args["D"] * u
        z = args["z"][:, t]
        np.testing.assert_allclose(y[:, t], want * z / (1 + np.exp(-z)), rtol=1e-11, atol=1e-11)


def test_conv_is_numpys_and_its_gradients():
    x, weight, bias = normal(2, 6, 3), normal(3, 4), normal(3)
    y, state = ops.causal_conv1d_forward(x, weight, bias, return_state=True)
    for b in range(2):
        for d in range(3):
            want = np.convolve(x[b, :, d], weight[d, ::-1])[:6] + bias[d]
            np.testing.assert_allclose(y[b, :, d], want, rtol=1e-12, atol=1e-12)
    np.testing.assert_array_equal(state, x[:, -3:].transpose(0, 2, 1))
    gy = normal(*y.shape)
    grads = ops.causal_conv1d_backward(gy, x, weight, bias, silu=True)
    f = lambda: (ops.causal_conv1d(x, weight, bias, silu=True) * gy).sum()  # noqa: E731
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        np.testing.assert_allclose(getattr(grads, name), central_difference(f, value), rtol=1e-6, atol=1e-8)


def test_norms():
    x, weight, bias, residual = normal(4, 8), normal(8), normal(8), normal(4, 8)
    r = x + residual
    y, total = ops.rms_norm(x, weight, residual=residual, eps=1e-6, return_residual=True)
    np.testing.assert_allclose(y, r / np.sqrt((r * r).mean(-1, keepdims=True) + 1e-6) * weight, rtol=1e-12)
    np.testing.assert_array_equal(total, r)
    centred = r - r.mean(-1, keepdims=True)
    want = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * weight + bias
    np.testing.assert_allclose(ops.layer_norm(x, weight, bias, residual=residual), want, rtol=1e-11, atol=1e-12)
    gy = normal(4, 8)
    grads = ops.norm_backward(gy, x, weight, bias, residual=residual, kind="layer")
    f = lambda: (ops.layer_norm(x, weight, bias, residual=residual) * gy).sum()  # noqa: E731
    for name, value in (("x", x), ("weight", weight), ("bias", bias)):
        np.testing.assert_allclose(getattr(grads, name), central_difference(f, value), rtol=1e-5, atol=1e-8)


def test_linear_embedding_and_loss():
    x, weight, bias = normal(5, 3), normal(4, 3), normal(4)
    np.testing.assert_allclose(ops.linear(x, weight, bias), x @ weight.T + bias, rtol=1e-13)
    gy = normal(5, 4)
    grads = ops.linear_backward(gy, x, weight, bias)
    np.testing.assert_allclose(grads.x, gy @ weight, rtol=1e-12)
    np.testing.assert_allclose(grads.weight, gy.T @ x, rtol=1e-12)
    np.testing.assert_allclose(grads.bias, gy.sum(0), rtol=1e-12)

    ids = np.array([3, 0, 3])
    np.testing.assert_array_equal(ops.embedding_forward(ids, weight), weight[ids])
    grad_table = ops.embedding_backward(gy[:3], ids, 5)
    assert grad_table.shape == (5, 4)
    np.testing.assert_allclose(grad_table[3], gy[0] + gy[2])

    targets = np.array([0, 3, -1, 2, 2])
    logits = x @ weight.T + bias
    nats = np.log(np.exp(logits).sum(-1)) - logits[np.arange(5), targets]
    out = ops.linear_cross_entropy(x, weight, targets, bias, return_grads=True)
    assert out.num_tokens == 4 and abs(out.loss - nats[targets >= 0].mean()) < 1e-12
    f = lambda: ops.linear_cross_entropy(x, weight, targets, bias).loss  # noqa: E731
    np.testing.assert_allclose(out.grad_weight, central_difference(f, weight), rtol=1e-6, atol=1e-9)


def test_the_kind_of_array_is_the_callers():
    x, weight = normal(2, 3, dtype=np.float32), normal(4, 3, dtype=np.float32)
    assert isinstance(ops.linear(x, weight), np.ndarray)
    native = ops.linear(coluber.array(x), weight)
    assert isinstance(native, coluber.Array)
    np.testing.assert_array_equal(np.asarray(native), ops.linear(x, weight))


def test_results_do_not_depend_on_threads():
    args = scan_inputs(b=1, l=3000, d=64, n=16, dtype=np.float32)
    before = coluber.get_num_threads()
    try:
        results = []
        for num_threads in (1, 2, 3):
            coluber.set_num_threads(num_threads)
            assert coluber.get_num_threads() == num_threads
            results.append(ops.selective_scan(**args, dt_softplus=True).tobytes())
        assert len(set(results)) == 1
    finally:
        coluber.set_num_threads(before)
    with pytest.raises(ValueError, match="got -1"):
        coluber.set_num_threads(-1)


def test_eight_threads_at_once():
    args = scan_inputs(b=1, l=500, d=32, n=16, dtype=np.float32)
    want = ops.selective_scan(**args, dt_softplus=True).tobytes()
    wrong = []

    def work():
        for _ in range(20):
            if ops.selective_scan(**args, dt_softplus=True).tobytes() != want:
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    assert not wrong


@pytest.mark.parametrize("others", [0, 3])
def test_a_forked_child_computes(others):
    x, weight = normal(256, 256, dtype=np.float32), normal(256, 256, dtype=np.float32)
    want, stop = ops.linear(x, weight), threading.Event()

    def work():
        while not stop.is_set():
            ops.linear(x, weight)

    threads = [threading.Thread(target=work) for _ in range(others)]
    for t in threads:
        t.start()
    statuses = []
    for _ in range(1 + 10 * others):
        child = os.fork()
        if child == 0:
            signal.alarm(10)
            os._exit(0 if np.array_equal(ops.linear(x, weight), want) else 1)
        statuses.append(os.waitpid(child, 0)[1])
        if statuses[-1] != 0:
            break
    stop.set()
    for t in threads:
        t.join()
    assert not any(statuses)


@pytest.mark.parametrize(
    "change, error, sentence",
    [
        (dict(u=None), ValueError, "selective_scan"),
        (dict(dt=np.zeros((2, 8, 3))), ValueError, r"dt: expected shape \(2, 7, 3\), got \(2, 8, 3\)"),
        (dict(A=np.zeros((4, 4))), ValueError, "A"),
        (dict(u=np.zeros((2, 7, 3), np.float32)), ValueError, "f32"),
        (dict(u=[[1.0]]), TypeError, "expected an array"),
        (dict(cu_seqlens=np.array([0, 3, 7], np.int32)), ValueError, "rows of a packed input .*expected 1, got 2"),
        (dict(algorithm="fast"), ValueError, "expected auto, reference or cpu, got fast"),
        (dict(delta=1), TypeError, "delta"),
    ],
)
def test_what_the_scan_refuses(change, error, sentence):
    with pytest.raises(error, match=sentence):
        ops.selective_scan(**{**scan_inputs(), **change})


def test_nothing_leaks():
    args = scan_inputs(b=1, l=4, d=4, n=4, dtype=np.float32)
    gy = np.ones((1, 4, 4), np.float32)
    x, weight = normal(4, 8, dtype=np.float32), normal(8, 8, dtype=np.float32)

    def some(n):
        for _ in range(n):
            ops.selective_scan_forward(**args, return_state=True)
            ops.selective_scan_backward(gy, **args)
            ops.causal_conv1d(args["u"], normal(4, 4, dtype=np.float32))
            ops.norm_backward(x, x, weight[0])
            ops.linear_backward(x, x, weight)

    def resident():
        with open("/proc/self/statm") as f:
            return int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")

    some(500)
    before, live = resident(), coluber.memory_stats()["live_bytes"]
    some(10000)
    assert coluber.memory_stats()["live_bytes"] == live
    assert resident() - before < 1 << 20
