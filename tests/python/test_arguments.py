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
    (dict(group_size=10**30), f"[norm_forward] group_size: expected a whole number of 64 bits, got {10**30}"),
    (dict(norm_before_gate=1), "[norm_forward] norm_before_gate: expected True or False, got int"),
    (dict(algorithm=None), "[norm_forward] algorithm: expected a str, got NoneType"),
])
def test_operators(options, sentence):
    with pytest.raises(TypeError) as error:
        ops.norm_forward(X, **options)
    assert str(error.value) == sentence and error.value.__suppress_context__


@pytest.mark.parametrize("options, sentence", [
    (dict(temperature="hot"), "[Model.generate] temperature: expected a number, got str"),
    (dict(max_tokens=2.5), "[Model.generate] max_tokens: expected a whole number, got float"),
    (dict(seed=-1), "[Model.generate] seed: expected 0 or more, got -1"),
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
        with pytest.raises(TypeError, match=r"^\[sampling_options\] top_k: expected a whole number, got str$"):
            make(top_k="x")
    with pytest.raises(TypeError, match="unexpected keyword argument 'temp'$"):
        coluber.Session(model).fork(temp=1)
    with pytest.raises(TypeError, match=r"^\[Trainer\] vocab_size: expected a whole number or None, got str$"):
        coluber.train(np.arange(900) % 50, vocab_size="x", max_steps=1)
    with pytest.raises(TypeError, match=r"^\[train\] on_step: expected a function, got int$"):
        coluber.train(np.arange(900) % 50, vocab_size=50, d_model=16, n_layer=1, seqlen=16, max_steps=1, on_step=5)


def test_other_type_errors_stay_as_they_are():
    @names_wrong_types
    def function(count: int):
        raise TypeError(f"of its own: {count}")

    with pytest.raises(TypeError, match="^of its own: x$"):
        function("x")
    with pytest.raises(TypeError, match="unexpected keyword argument 'foo'"):
        ops.rms_norm(X, foo=1)
