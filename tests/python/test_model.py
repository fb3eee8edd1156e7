"""coluber.Model: logits against golden files and against itself, files, refusals, threads, memory."""

import copy
import pickle
import signal
import threading
import time

import numpy as np
import pytest

import coluber
from native_support import GOLDENS, model, read_safetensors, resident_bytes, small_model  # noqa: F401

IDS = np.array([[3, 1, 4, 1, 5, 9, 2, 6], [2, 7, 1, 8, 2, 8, 1, 8]], dtype=np.int64)


@pytest.mark.parametrize(
    "file, case",
    [("lm_state_spaces", "ss_mamba1"), ("lm_state_spaces", "ss_mamba1_layernorm_untied"),
     ("lm_transformers", "hf_mamba"), ("lm_transformers", "hf_mamba_sharded"), ("lm_transformers", "hf_falcon_mamba")],
)
def test_logits_are_those_of_other_implementations(file, case):
    golden = read_safetensors(GOLDENS / f"{file}.safetensors")
    ids, expected = golden[f"{case}/input_ids"], golden[f"{case}/out/logits"]
    for dtype, bound in ((None, 2e-5), ("f64", 1e-9)):
        loaded = coluber.Model.load(GOLDENS / "checkpoints" / case, dtype=dtype)
        logits = loaded.forward(ids)
        scale = np.abs(expected).max()
        assert np.abs(logits - expected).max() <= bound * scale
        assert loaded.loss(ids) == pytest.approx(float(golden[f"{case}/out/loss"]), rel=bound)


def test_the_answer_is_of_the_kind_that_was_given(model):
    assert isinstance(model.forward(IDS), np.ndarray)
    own = model.forward(IDS.tolist())
    assert isinstance(own, coluber.Array) and own.shape == (2, 8, 256) and own.dtype == "f32"
    np.testing.assert_array_equal(np.asarray(own), model(IDS.astype(np.int32)))


def test_state_goes_on_where_it_was(model):
    whole, state = model.forward(IDS), model.make_state(2)
    first = model.forward(IDS[:, :3], state)
    steps = [model.step(IDS[:, t], state) for t in range(3, 8)]
    np.testing.assert_allclose(np.concatenate([first, np.stack(steps, 1)], 1), whole, atol=2e-6)
    assert state.num_tokens == 8
    np.testing.assert_allclose(model.forward(IDS, last_token_only=True), whole[:, -1:], atol=2e-6)


def test_packed_rows_and_resets_are_sequences_alone(model):
    alone = [model.forward(IDS[:1, :3]), model.forward(IDS[:1, 3:])]
    packed = model.forward(IDS[:1], cu_seqlens=[0, 3, 8])
    np.testing.assert_allclose(packed, np.concatenate(alone, 1), atol=2e-6)
    resets = np.zeros((1, 8), bool)
    resets[0, 3] = True
    np.testing.assert_allclose(model.forward(IDS[:1], resets=resets), packed, atol=2e-6)


def test_long_inputs_in_pieces_are_the_same(model):
    ids = np.random.default_rng(0).integers(0, 256, (2, 2500))
    resets = np.zeros(ids.shape, np.uint8)
    resets[0, 1500] = resets[1, 1024] = 1
    state, halves = model.make_state(2), model.make_state(2)
    whole = model.forward(ids, state, resets=resets)
    cuts = ((0, 1000), (1000, 2000), (2000, 2500))
    parts = [model.forward(ids[:, a:b], halves, resets=resets[:, a:b]) for a, b in cuts]
    np.testing.assert_allclose(whole, np.concatenate(parts, 1), atol=5e-6)
    assert state.num_tokens == 2500
    np.testing.assert_allclose(model.forward(ids, resets=resets, last_token_only=True), whole[:, -1:], atol=5e-6)
    logits = np.asarray(model.forward(ids)).astype(np.float64)
    norm = np.log(np.exp(logits).sum(-1))
    nats = (norm - np.take_along_axis(logits, np.roll(ids, -1, 1)[..., None], 2)[..., 0])[:, :-1].sum()
    sum_ = model.evaluate(ids)
    assert sum_.num_tokens == 2 * 2499 and sum_.nats == pytest.approx(nats, rel=1e-6)
    assert sum_.mean == model.loss(ids)


def test_evaluate_counts_what_it_is_told(model):
    targets = IDS.copy()
    targets[0] = -1
    assert model.evaluate(IDS, targets).num_tokens == 8
    assert model.evaluate(IDS, np.full_like(IDS, -1)) == (0, 0)
    assert model.loss(IDS, np.full_like(IDS, -1)) == 0


def test_products_in_bf16_are_near(model):
    exact, rounded = model.forward(IDS), model.forward(IDS, compute="bf16")
    assert 0 < np.abs(exact - rounded).max() < 0.05
    reference = model.forward(IDS, algorithm="reference")
    np.testing.assert_allclose(reference, exact, atol=2e-6)


def test_packed_weights_change_little():
    plain = small_model(d_model=128).to("bf16")  # wide enough for tiles
    packed = plain.to("f32").to("bf16")
    before = coluber.memory_stats()["live_bytes"]
    assert packed.pack_weights() is packed
    kept = coluber.memory_stats()["live_bytes"] - before
    assert kept == 0 or 0.8 * packed.size_bytes < kept < 1.1 * packed.size_bytes  # 0 where there are no tiles
    np.testing.assert_allclose(packed.forward(IDS), plain.forward(IDS), atol=1e-5)  # sums in another order
    np.testing.assert_array_equal(packed.forward(IDS, compute="bf16"), plain.forward(IDS, compute="bf16"))
    states = [m.make_state(2) for m in (packed, plain)]
    logits = [m.step(IDS[:, 0], state) for m, state in zip((packed, plain), states)]
    np.testing.assert_allclose(*logits, atol=1e-5)
    assert packed.to("f32").pack_weights().forward(IDS).shape == (2, 8, 256)  # f32: nothing to pack


def test_parameters_are_the_memory_of_the_model(model):
    parameters = model.parameters()
    assert sum(p.size for p in parameters.values()) == model.num_parameters
    assert sum(p.nbytes for p in parameters.values()) == model.size_bytes
    before = model.forward(IDS)
    table = np.asarray(parameters["backbone.embedding.weight"])
    table *= 2
    assert np.abs(model.forward(IDS) - before).max() > 0.01
    del model
    assert np.isfinite(table).all()  # the array holds its memory


@pytest.mark.parametrize("layout", ["state_spaces", "mamba"])
@pytest.mark.parametrize("safetensors", [True, False])
def test_saves_and_loads(tmp_path, model, layout, safetensors):
    model.save(tmp_path, layout, safetensors=safetensors)
    again = coluber.Model.load(tmp_path)
    np.testing.assert_array_equal(again.forward(IDS), model.forward(IDS))
    assert again.config.d_model == 16 and again.config.layout == layout
    model.save(tmp_path / "small", dtype="bf16")
    small = coluber.Model.load(tmp_path / "small")
    assert small.dtype == "bf16" and model.to("bf16").dtype == "bf16"
    name = "backbone.layers.0.mixer.in_proj.weight"  # what is no matrix is rounded in the file too, but f32 in memory
    in_file, in_memory = (np.asarray(m.parameters()[name].to("f32")) for m in (small, model.to("bf16")))
    np.testing.assert_array_equal(in_file, in_memory)
    assert 0 < np.abs(small.forward(IDS) - model.forward(IDS)).max() < 0.01


def test_the_tokenizer_beside_it_is_read_when_it_is_wanted(tmp_path):
    own = coluber.Tokenizer.train(texts=["In the beginning was the word. " * 9], vocab_size=280)
    made = coluber.Model.create("tiny", d_model=16, vocab_size=288, tokenizer=own)
    made.save(tmp_path / "a")
    loaded = coluber.Model.load(tmp_path / "a")
    assert "beside the weights" in repr(loaded)
    loaded.save(tmp_path / "b")
    assert coluber.Model.load(tmp_path / "b").tokenizer == loaded.tokenizer == own and "bpe" in repr(loaded)
    (tmp_path / "a" / "tokenizer.json").write_text("{")
    broken = coluber.Model.load(tmp_path / "a")
    assert np.isfinite(broken.forward(IDS)).all()
    with pytest.raises(ValueError, match="tokenizer"):
        broken.generate("text")
    broken.tokenizer = "bytes"
    assert broken.generate("text", max_tokens=2).result.ids
    with pytest.raises(ValueError, match="another model"):
        small_model(vocab_size=40).tokenizer = "bytes"


def test_config():
    config = coluber.ModelConfig(d_model=64, n_layer=2, vocab_size=100)
    assert (config.d_inner, config.dt_rank, config.padded_vocab_size) == (128, 4, 104)
    assert coluber.ModelConfig.from_json(config.to_json()) == config
    assert coluber.ModelConfig.preset("mamba-130m").d_model == 768
    assert coluber.Model.create("tiny", d_model=32).config.d_inner == 64  # derived anew
    with pytest.raises(ValueError, match="d_state"):
        coluber.ModelConfig(d_model=64, n_layer=2, vocab_size=100, d_state=0)
    with pytest.raises(TypeError, match="d_model: expected an integer"):
        coluber.ModelConfig(d_model="64", n_layer=2, vocab_size=100)
    with pytest.raises(AttributeError):
        config.d_model = 3
    with pytest.raises(TypeError, match="d_modle"):
        coluber.Model.create("tiny", d_modle=3)
    with pytest.raises(TypeError, match="vocab_size"):
        coluber.Model.create(d_model=3, n_layer=1)
    with pytest.raises(ValueError, match="mamba-130m"):
        coluber.Model.create("giant")


@pytest.mark.parametrize(
    "error, message, call",
    [
        (ValueError, "rank of ids", lambda m: m.forward([1, 2])),
        (ValueError, "256", lambda m: m.forward([[300]])),
        (ValueError, None, lambda m: m.forward([[-1]])),
        (TypeError, "integer dtype", lambda m: m.forward(np.ones((1, 2), np.float32))),
        (TypeError, "expected integers", lambda m: m.forward("text")),
        (TypeError, "keyword", lambda m: m.forward([[1]], stat=None)),
        (TypeError, None, lambda m: m.forward([[1]], state=3)),
        (ValueError, "sequences of the state", lambda m: m.forward([[1]], m.make_state(2))),
        (ValueError, "compute", lambda m: m.forward([[1]], compute="f16")),
        (ValueError, "algorithm", lambda m: m.forward([[1]], algorithm="fast")),
        (ValueError, "shape of targets", lambda m: m.loss([[1, 2]], [[1]])),
        (ValueError, "targets", lambda m: m.loss([[1, 2]], cu_seqlens=[0, 2])),
        (ValueError, None, lambda m: m.forward([[1, 2]], resets=np.zeros((1, 3), np.uint8))),
        (ValueError, "resets", lambda m: m.forward(np.ones((1, 3000), int), resets=np.zeros((1, 3), np.uint8))),
        (ValueError, "layout", lambda m: m.save("x", "gguf")),
        (ValueError, "dtype", lambda m: m.to("i32")),
        (FileNotFoundError, None, lambda m: coluber.Model.load("/nowhere")),
        (ValueError, "batch", lambda m: m.make_state(-1)),
        (TypeError, "Model.load", lambda m: coluber.Model()),
    ],
)
def test_refusals(model, error, message, call):
    with pytest.raises(error, match=message):
        call(model)
    assert np.isfinite(model.forward(IDS)).all()  # nothing is left behind


def test_a_state_of_another_model_is_refused(model):
    with pytest.raises(ValueError):
        model.forward(IDS, small_model(d_model=32).make_state(2))
    with pytest.raises(ValueError):
        model.step([1], small_model(n_layer=3).make_state(1))


def test_models_are_saved_not_pickled(model):
    for copied in (pickle.dumps, copy.deepcopy):
        with pytest.raises(TypeError, match=r"^\[model\] pickle: expected save\(\) into a folder"):
            copied(model)
    options = pickle.loads(pickle.dumps(coluber.SamplingOptions(temperature=0.5, top_k=3, seed=2**63)))
    assert (options.temperature, options.top_k, options.seed) == (0.5, 3, 2**63)


def test_empty_batches(model):
    assert model.forward(np.zeros((0, 4), np.int32)).shape == (0, 4, 256)
    assert model.forward(np.zeros((2, 0), np.int32)).shape == (2, 0, 256)
    assert model.evaluate(np.zeros((0, 4), np.int32)) == (0, 0)


def test_prints_itself(model):
    text = repr(model)
    for part in ("d_model 16", "bytes", f"{model.num_parameters:,}", f"{model.size_bytes:,}"):
        assert part in text
    page = model._repr_html_()
    assert page.count("<table>") == 2 and "in_proj" in page


def test_eight_threads_at_once(model):
    ids = np.random.default_rng(1).integers(0, 256, (1, 200))
    expected, got = model.forward(ids), [None] * 8

    def work(i):
        for _ in range(5):
            got[i] = model.forward(ids)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    for one in got:
        np.testing.assert_array_equal(one, expected)


def test_ctrl_c_ends_a_long_forward():
    model = small_model(d_model=64, n_layer=4)
    ids = np.ones((1, 3_000_000), np.int32)
    timer = threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,))
    timer.start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        model.forward(ids, last_token_only=True)
    assert time.monotonic() - began < 10


def test_loading_leaves_nothing_behind(tmp_path):
    big = small_model(d_model=128, vocab_size=2048)
    big.save(tmp_path)
    for _ in range(10):
        coluber.Model.load(tmp_path).forward(IDS)
    before = resident_bytes()
    for _ in range(200):
        coluber.Model.load(tmp_path).forward(IDS)
    assert resident_bytes() - before < 2 * big.size_bytes  # 200 of them would be a hundred times that
