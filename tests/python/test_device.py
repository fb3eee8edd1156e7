"""Models, states, sessions, training and arrays by device: what is refused without a GPU, and what runs on one."""

import os
import signal

import numpy as np
import pytest
from native_support import TEXT, small_model

import coluber
from coluber import ops

REASON = coluber.cuda_unavailable_reason()
needs_gpu = pytest.mark.skipif(coluber.cuda_device_count() == 0, reason=REASON)
IDS = np.arange(40)[None] * 5 % 256


def on_gpu(array):
    return coluber.array(np.ascontiguousarray(array)).to("cuda")


def test_names_of_devices():
    model = small_model()
    assert model.device == "cpu" and model.make_state().device == "cpu" and model.session().device == "cpu"
    assert (coluber.cuda_device_count() == 0) == bool(REASON)
    assert model.to("auto").device == ("cpu" if REASON else "cuda:0")
    for name in ("gpu", "cuda:", "cuda:x", "cpu:0", ""):
        with pytest.raises(ValueError, match="expected cpu, cuda, cuda:N or auto"):
            coluber.Model.create(d_model=16, n_layer=1, vocab_size=256, device=name)
    with pytest.raises(NotImplementedError, match="cuda:63"):
        model.to("cuda:63")
    with pytest.raises(ValueError, match="dtype: expected f32, bf16, f16 or f64, got gpu"):
        model.to("gpu")
    with pytest.raises(ValueError, match="device: expected cpu, where the model is, got cuda"):
        coluber.Trainer(IDS[0], model=model, seqlen=8, device="cuda")
    with pytest.raises(ValueError, match="device: expected a GPU, got cpu"):
        coluber.StreamScope("cpu", 0)
    coluber.synchronize("cpu")
    coluber.release_cached_memory("cpu")


@pytest.mark.skipif(coluber.cuda_device_count() > 0, reason="there is a GPU")
def test_without_a_gpu_one_sentence_says_why():
    for call in (
        lambda: small_model().to("cuda"),
        lambda: coluber.array(np.zeros(3, np.float32)).to("cuda"),
        lambda: small_model().make_state().to("cuda"),
        lambda: coluber.cuda_device_info(0),
        lambda: coluber.memory_stats("cuda"),
        lambda: coluber.StreamScope("cuda", 0),
    ):
        with pytest.raises(NotImplementedError, match=r"^\[device\] cuda:0: "):
            call()


@needs_gpu
def test_a_forked_child_has_the_cpu():
    held = on_gpu(np.ones((3, 4), np.float32))
    child = os.fork()
    if child == 0:
        signal.alarm(20)
        try:
            assert coluber.cuda_device_count() == 0 and "forked off" in coluber.cuda_unavailable_reason()
            assert small_model().to("auto").device == "cpu"
            with pytest.raises(NotImplementedError, match=r"^\[device\] cuda:0: this process was forked off .*spawn"):
                small_model().to("cuda")
            with pytest.raises(RuntimeError, match=r"^\[cuda\] "):
                held.to("cpu")
            del held
            os._exit(0)
        finally:
            os._exit(1)
    assert os.waitpid(child, 0)[1] == 0
    assert held.to("cpu").tolist() == np.ones((3, 4)).tolist()


@needs_gpu
def test_device_info():
    info = coluber.cuda_device_info(0)
    assert info.compute_capability >= 80 and info.multiprocessors > 0 and 0 < info.free_bytes <= info.total_bytes
    assert info.name in repr(info)


@needs_gpu
def test_arrays_stay_where_they_are():
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    a = on_gpu(x)
    assert a.device == "cuda:0" and "cuda:0" in repr(a) and a.__dlpack_device__() == (2, 0)
    assert a.to("cpu").tolist() == a.tolist() == x.tolist() and a[1, 2] == 8.0 and float(a[0, :1]) == 0.0
    with pytest.raises(BufferError, match="expected memory of the cpu, got cuda:0"):
        memoryview(a)
    weight = on_gpu(np.ones((3, 6), np.float32))
    y = ops.linear(a, weight)
    assert isinstance(y, coluber.Array) and y.device == "cuda:0"
    assert y.to("cpu").tolist() == (x @ np.ones((6, 3))).tolist()
    with pytest.raises(ValueError, match=r"device of weight: expected cuda:0, got cpu \(move it"):
        ops.linear(a, np.ones((3, 6), np.float32))
    table = ops.embedding_forward(np.array([1, 0]), a)
    assert table.device == "cuda:0" and table.tolist() == x[[1, 0]].tolist()


@needs_gpu
@pytest.mark.parametrize("dtype, bound", [("f32", 1e-4), ("bf16", 0.1)])
def test_a_model_reads_the_same(dtype, bound, tmp_path):
    cpu = small_model(d_model=64).to(dtype)
    gpu = cpu.to("cuda")
    assert gpu.device == "cuda:0" and gpu.dtype == dtype and gpu.make_state(2).device == "cuda:0"
    want, got = cpu.forward(IDS), gpu.forward(IDS)
    assert isinstance(got, np.ndarray) and np.abs(got - want).max() < bound
    listed = gpu.forward(IDS.tolist())
    assert isinstance(listed, coluber.Array) and listed.device == "cuda:0"
    assert gpu.forward(on_gpu(IDS.astype(np.int32))).to("cpu").tolist() == listed.to("cpu").tolist()
    assert abs(gpu.loss(IDS) - cpu.loss(IDS)) < bound

    state = gpu.make_state()
    gpu.forward(IDS[:, :-1], state)
    last = gpu.step(IDS[:, -1], state)
    assert np.abs(last[0] - want[0, -1]).max() < bound and state.num_tokens == IDS.size
    there = state.to("cpu")
    assert there.device == "cpu" and there.to("cuda") == state
    with pytest.raises(ValueError, match="device of"):
        gpu.step(IDS[:, -1], there)
    state.save(tmp_path / "state")
    assert coluber.State.load(tmp_path / "state").to("cuda") == state

    cpu.save(tmp_path / "model")
    loaded = coluber.Model.load(tmp_path / "model", device="cuda", tokenizer="bytes")
    assert loaded.device == "cuda:0" and np.abs(loaded.forward(IDS) - got).max() < 1e-6


@needs_gpu
def test_generation_writes_the_same_text():
    cpu = small_model(d_model=64)
    gpu = cpu.to("cuda")
    options = dict(max_tokens=60, temperature=0.9, top_k=20, seed=5)
    texts = [one.text for one in cpu.generate(["In the", "word"], **options).results]
    assert [one.text for one in gpu.generate(["In the", "word"], **options).results] == texts
    session = gpu.session(seed=3)
    session.append("In the beginning")
    assert session.device == "cuda:0" and session.state.device == "cuda:0"
    first = [session.next() for _ in range(10)]
    again = cpu.session(seed=3)
    again.append("In the beginning")
    assert [again.next() for _ in range(10)] == first


@needs_gpu
def test_training_goes_the_same_way(tmp_path):
    losses = {}
    text = tmp_path / "book.txt"
    text.write_text(TEXT * 400)
    for device in ("cpu", "cuda"):
        run = coluber.train(
            text, device=device, tokenizer="bytes", d_model=32, n_layer=2, batch=2, seqlen=64, max_steps=20, seed=1,
            progress=False, out=tmp_path / device, sample_every=0,
        )
        assert run.model.device.startswith(device)
        losses[device] = [loss for _, loss in run.losses]
    assert losses["cpu"][-1] < losses["cpu"][0] - 1
    assert np.abs(np.subtract(losses["cpu"], losses["cuda"])).max() < 2e-3
    model = small_model(d_model=32).to("cuda")
    trainer = coluber.Trainer(IDS[0], model=model, seqlen=8, batch=2, max_steps=2, device="cuda")
    before = model.parameters()["backbone.norm_f.weight"].to("cpu").tolist()
    trainer.step()
    assert model.parameters()["backbone.norm_f.weight"].to("cpu").tolist() != before  # in place
