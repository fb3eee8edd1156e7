"""Arguments of a wrong type: one sentence that names the argument, what was expected and what came."""

import numpy as np
import pytest

import coluber
from coluber import ops
from coluber.arguments import names_wrong_types

X = np.ones((2, 4), np.float32)


@pytest.fixture(scope="module")
def model():
    return coluber.Model.create(d_model=16, n_layer=1, vocab_size=50)


@pytest.mark.parametrize("options, sentence", [
    (dict(eps="x"), "[norm_forward] eps: expected a number, got str"),
    (dict(group_size=1.5), "[norm_forward] group_size: expected a whole number, got float"),
    (dict(norm_before_gate=1), "[norm_forward] norm_before_gate: expected True or False, got int"),
    (dict(algorithm=None), "[norm_forward] algorithm: expected a str, got NoneType"),
])
def test_operators(options, sentence):
    with pytest.raises(TypeError) as error:
        ops.norm_forward(X, **options)
    assert str(error.value) == sentence and error.value.__suppress_context__


@pytest.mark.parametrize("options, sentence", [
    (dict(temperature="hot"), "[SamplingOptions] temperature: expected a number, got str"),
    (dict(max_tokens=2.5), "[Model.generate] max_tokens: expected a whole number, got float"),
    (dict(stop=3), "[generate] stop: expected a str or several, got int"),
    (dict(stop=[b"x"]), "[generate] stop: expected a str or several, got bytes"),
    (dict(start=3), "[generate] start: expected a Session or None, got int"),
])
def test_generate(model, options, sentence):
    with pytest.raises(TypeError) as error:
        list(model.generate([1], stream="ids", **options))
    assert str(error.value) == sentence


def test_model_session_and_training(model):
    ids = np.zeros((1, 3), np.int32)
    with pytest.raises(TypeError, match=r"^\[Model.forward\] state: expected State or None, got int$"):
        model.forward(ids, state=5)
    with pytest.raises(TypeError, match=r"^\[session\] model: expected a Model, got int$"):
        coluber.Session(5)
    for make in (lambda **options: coluber.Session(model, **options), coluber.Session(model).fork):
        with pytest.raises(TypeError, match=r"^\[SamplingOptions\] top_k: expected a whole number, got str$"):
            make(top_k="x")
    with pytest.raises(TypeError, match="unexpected keyword argument 'temp'$"):
        coluber.Session(model).fork(temp=1)
    with pytest.raises(TypeError, match=r"^\[Trainer\] vocab_size: expected a whole number or None, got str$"):
        coluber.train(np.arange(900) % 50, vocab_size="x", max_steps=1)
    with pytest.raises(TypeError, match=r"^\[train\] on_step: expected a function, got int$"):
        coluber.train(np.arange(900) % 50, vocab_size=50, d_model=16, n_layer=1, seqlen=16, max_steps=1, on_step=5)


@pytest.mark.parametrize("call, kind, sentence", [
    (lambda array, state: array.to(3), TypeError, "[Array.to] dtype_or_device: expected a str, got int"),
    (lambda array, state: array.to("f32", "cpu"), TypeError, "[Array.to] too many positional arguments"),
    (lambda array, state: state.row("x"), TypeError, "[State.row] i: expected a whole number, got str"),
    (lambda array, state: state.row(), TypeError, "[State.row] missing a required argument: 'i'"),
    (lambda array, state: state.row(10**30), ValueError,
     f"[State.row] i: expected a whole number of 64 bits, got {10**30}"),
    (lambda array, state: state.set_row(0, array), TypeError, "[State.set_row] one: expected State, got Array"),
    (lambda array, state: state.save(3), TypeError, "[State.save] path: expected a str or a path, got int"),
    (lambda array, state: coluber.State.load(3), TypeError, "[State.load] path: expected a str or a path, got int"),
    (lambda array, state: coluber.State.from_layers([], num_tokens="x"), TypeError,
     "[State.from_layers] num_tokens: expected a whole number, got str"),
    (lambda array, state: coluber.array(), TypeError, "[array] missing a required argument: 'object'"),
    (lambda array, state: coluber.memory_stats(3), TypeError, "[memory_stats] device: expected a str, got int"),
    (lambda array, state: coluber.set_num_threads(num_threads="x"), TypeError,
     "[set_num_threads] num_threads: expected a whole number, got str"),
])
def test_natives(model, call, kind, sentence):
    with pytest.raises(kind) as error:
        call(coluber.array(X), model.make_state(2))
    assert str(error.value) == sentence and error.value.__suppress_context__
    assert "shape" in coluber.Array.__dict__ and "copy in another dtype" in coluber.Array.to.__doc__


# Classes and protocols of the native module, which arguments.py cannot stand in front of.
@pytest.mark.parametrize("call, kind, sentence", [
    (lambda a: coluber.SamplingOptions(temperature="x"), TypeError,
     "[SamplingOptions] temperature: expected a number, got str"),
    (lambda a: coluber.SamplingOptions(top_k=2.5), TypeError,
     "[SamplingOptions] top_k: expected a whole number, got float"),
    (lambda a: coluber.SamplingOptions(greedy=1), TypeError,
     "[SamplingOptions] greedy: expected True or False, got int"),
    (lambda a: coluber.SamplingOptions(top_k=10**30), ValueError,
     f"[SamplingOptions] top_k: expected a whole number of 64 bits, got {10**30}"),
    (lambda a: coluber.SamplingOptions(seed=-1), ValueError, "[SamplingOptions] seed: expected 0 or more, got -1"),
    (lambda a: coluber.SamplingOptions(temp=1), TypeError, "[SamplingOptions] unexpected keyword argument 'temp'"),
    (lambda a: coluber.SamplingOptions(1.0), TypeError,
     "[SamplingOptions] arguments: expected each under its name, got 1 without"),
    (lambda a: coluber.StreamScope(3, 0), TypeError, "[StreamScope] device: expected a str, got int"),
    (lambda a: coluber.StreamScope("cpu", 0), ValueError, "[StreamScope] device: expected a GPU, got cpu"),
    (lambda a: a.__dlpack__(stream="x"), TypeError, "[Array.__dlpack__] stream: expected a whole number, got str"),
    (lambda a: a.__dlpack__(stream=2**70), ValueError,
     f"[Array.__dlpack__] stream: expected a whole number of 64 bits, got {2**70}"),
    (lambda a: a.__dlpack__(max_version=1), TypeError,
     "[Array.__dlpack__] max_version: expected a tuple of two whole numbers or None, got int"),
    (lambda a: a.__dlpack__(max_version=(1, "x")), TypeError,
     "[Array.__dlpack__] max_version: expected a whole number, got str"),
    (lambda a: a.__dlpack__(dl_device=(1, 0, 0)), TypeError,
     "[Array.__dlpack__] dl_device: expected a tuple of two whole numbers or None, got a tuple of 3"),
    (lambda a: a.__dlpack__(copy=1), TypeError, "[Array.__dlpack__] copy: expected True or False, got int"),
])
def test_native_classes_and_protocols(call, kind, sentence):
    with pytest.raises(kind) as error:
        call(coluber.array(X))
    assert str(error.value) == sentence


def test_torch_parts_before_torch():
    native = coluber._native.torch  # no test of this file imports coluber.torch
    for call in (native.give, lambda array: native.TorchScope(array).__enter__()):
        with pytest.raises(RuntimeError, match=r"^\[torch\] functions of torch: .* \(import coluber.torch\)$"):
            call(coluber.array(X))


@pytest.mark.parametrize("options, sentence", [
    (dict(seed=-1), "[SamplingOptions] seed: expected 0 or more, got -1"),
    (dict(first_stream=-2), "[Model.generate] first_stream: expected 0 or more, got -2"),
    (dict(max_tokens=10**30), f"[Model.generate] max_tokens: expected a whole number of 64 bits, got {10**30}"),
    (dict(max_tokens=-1), "[generate] max_tokens: expected 0 or more, got -1"),
    (dict(batch=9), "[generate] batch: expected 1 to 8, got 9 (more prompts wait for a place)"),
])
def test_numbers_out_of_range_are_values(model, options, sentence):
    with pytest.raises(ValueError) as error:
        list(model.generate([1], stream="ids", **options))
    assert str(error.value) == sentence


@pytest.mark.parametrize("prompt", [{1: 2}, {1}, (i for i in range(3)), 3])
def test_prompts_that_are_no_sequence(model, prompt):
    with pytest.raises(TypeError, match="prompt: expected text, token ids or a list of them"):
        model.generate(prompt, stream="ids")


def test_sessions_belong_to_a_model(model):
    other = coluber.Model.create(d_model=16, n_layer=1, vocab_size=50, seed=1)
    with pytest.raises(ValueError, match="start: expected a session of this model"):
        model.generate([1], stream="ids", start=coluber.Session(other))
    for call in (coluber.Session, lambda model: coluber.Session.load("none", model)):
        with pytest.raises(TypeError, match="model: expected a Model, got NoneType"):
            call(None)


@pytest.mark.parametrize("dtype", ["i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"])
def test_ids_of_any_integer_dtype(model, dtype):
    ids = np.array([[1, 0, 1, 1], [0, 1, 1, 0]])
    expected = model.forward(ids.astype(np.int32)[:, ::-2])
    assert np.array_equal(model.forward(ids.astype(dtype)[:, ::-2]), expected)
    assert np.array_equal(model.forward([list(row.astype(dtype)) for row in ids[:, ::-2]]) if dtype != "?" else expected,
                          expected)


def test_integers_that_are_no_ids(model):
    endless = []
    endless.append(endless)
    with pytest.raises(ValueError, match="ids: expected at most 6 axes, got more"):
        model.forward(endless)
    for ids in (np.array([[2**31]], np.uint32), np.array([[2**63]], np.uint64), [[2**31]], [[2**80]],
                np.array([[2**31]])):
        with pytest.raises(ValueError, match="ids: expected integers that 32 bits hold, got "):
            model.forward(ids)
    for ids in (None, "abc", [[True]], [[1.0]], np.ones((1, 2)), {1}):
        with pytest.raises(TypeError, match="ids: expected (integers|an integer dtype)"):
            model.forward(ids)
    with pytest.raises(ValueError, match="data: expected token ids of 0 or more, got -3"):
        coluber.train(np.arange(900) % 50 - 3, vocab_size=50, d_model=16, n_layer=1, seqlen=16, max_steps=1)


def test_threads():
    for number in (-1, 1025, 2**40):
        with pytest.raises(ValueError, match=f"num_threads: expected 0 .* to 1024, got {number}"):
            coluber.set_num_threads(number)
    assert coluber.get_num_threads() >= 1


def test_other_type_errors_stay_as_they_are():
    @names_wrong_types
    def function(count: int):
        raise TypeError(f"of its own: {count}")

    with pytest.raises(TypeError, match="^of its own: x$"):
        function("x")
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        ops.rms_norm(X, foo=1)
