"""coluber.State: a value that forks, compares, and survives in a file."""

import copy
import pickle

import numpy as np
import pytest

import coluber
from native_support import model, small_model  # noqa: F401

IDS = np.array([[3, 1, 4, 1, 5], [2, 7, 1, 8, 2]], dtype=np.int32)


def read(model, ids=IDS):
    state = model.make_state(len(ids))
    model.forward(ids, state)
    return state


def test_forks_go_their_own_way(model):
    state = read(model)
    for fork in (state.fork(), copy.copy(state), copy.deepcopy(state)):
        assert fork == state and fork.num_tokens == 5
        model.step([1, 2], fork)
        assert fork != state and state == read(model)
    assert (state == 3) is False
    with pytest.raises(TypeError):
        hash(state)


@pytest.mark.parametrize("changes", [{}, {"d_conv": 1}])
def test_pickles(changes):
    model = small_model(**changes)
    state = read(model)
    again = pickle.loads(pickle.dumps(state))
    assert again == state and again.num_tokens == 5
    model.step([1, 2], again)
    assert again != state  # memory of its own
    empty = model.make_state(0)
    assert pickle.loads(pickle.dumps(empty)) == empty


def test_rows(model):
    state = read(model)
    one, alone = state.row(1), read(model, IDS[1:])
    assert one.batch == 1 and one.num_tokens == 5
    for mine, other in zip(one.layers, alone.layers):  # sums of other sizes of batch round otherwise
        np.testing.assert_allclose(mine.ssm, other.ssm, atol=1e-6)
        np.testing.assert_allclose(mine.conv, other.conv, atol=1e-6)
    swapped = model.make_state(2)
    swapped.set_row(0, state.row(1))
    swapped.set_row(1, state.row(0))
    ids = np.array([1, 2])
    np.testing.assert_array_equal(model.step(ids, swapped), model.step(ids[::-1], state)[::-1])
    for call in (lambda: state.row(2), lambda: state.row(-1), lambda: state.set_row(2, state.row(0))):
        with pytest.raises(IndexError):
            call()
    with pytest.raises(ValueError):
        state.set_row(0, state)


def test_layers_are_its_memory(model):
    state = read(model)
    assert len(state.layers) == state.num_layers == 2
    conv, ssm = np.asarray(state.layers[0].conv), np.asarray(state.layers[0].ssm)
    assert conv.shape == (2, 32, 3) and ssm.shape == (2, 32, 4) and state.size_bytes == 2 * (conv.nbytes + ssm.nbytes)
    rebuilt = coluber.State.from_layers([(np.asarray(x.conv), np.asarray(x.ssm)) for x in state.layers], 5)
    assert rebuilt == state
    ssm[:] = 0
    assert state != rebuilt
    del state
    assert (ssm == 0).all()  # the array holds it


def test_reset(model):
    state = read(model)
    state.reset()
    assert state == model.make_state(2) and state.num_tokens == 0


def test_files(tmp_path, model):
    state = read(model)
    state.save(tmp_path / "a.state")
    assert coluber.State.load(tmp_path / "a.state") == state
    with pytest.raises(FileNotFoundError):
        coluber.State.load(tmp_path / "b.state")
    data = (tmp_path / "a.state").read_bytes()
    (tmp_path / "cut.state").write_bytes(data[:-5])
    with pytest.raises(ValueError):
        coluber.State.load(tmp_path / "cut.state")


def test_refusals(model):
    good = [(np.zeros((1, 32, 3), np.float32), np.zeros((1, 32, 4), np.float32))]
    with pytest.raises(ValueError, match="three axes"):
        coluber.State.from_layers([(good[0][0][0], good[0][1])])
    with pytest.raises(ValueError, match="layer 1"):
        coluber.State.from_layers(good + [(np.zeros((2, 32, 3), np.float32), np.zeros((2, 32, 4), np.float32))])
    with pytest.raises(TypeError, match="pair"):
        coluber.State.from_layers([3])
    with pytest.raises(ValueError, match="num_tokens"):
        coluber.State.from_layers(good, -1)


def test_prints_itself(model):
    state = read(model)
    assert "num_tokens=5" in repr(state) and "(2, 32, 4)" in repr(state)
    assert "<table>" in state._repr_html_()
