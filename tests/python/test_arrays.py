"""What goes in as an array and what comes out."""

import array
import copy
import ctypes
import gc
import io
import pickle
import weakref

import numpy as np
import pytest

import coluber

DTYPES = {
    "f32": np.float32,
    "f64": np.float64,
    "f16": np.float16,
    "i32": np.int32,
    "i64": np.int64,
    "u8": np.uint8,
}


@pytest.mark.parametrize("name", DTYPES)
def test_round_trip_shares_memory(name):
    x = np.arange(24).astype(DTYPES[name]).reshape(2, 3, 4)
    a = coluber.array(x)
    assert (a.shape, a.dtype, a.ndim, a.size, a.nbytes) == (x.shape, name, 3, 24, x.nbytes)
    for back in (np.asarray(a), np.from_dlpack(a)):
        assert back.dtype == x.dtype and np.array_equal(back, x)
        assert np.shares_memory(back, x)


def test_strides_are_kept():
    x = np.arange(60, dtype=np.float32).reshape(3, 4, 5)
    for view in (x.transpose(2, 0, 1), x[::-1], x[:, ::2, 1:], x[1:2], np.broadcast_to(x[:1], x.shape)):
        assert np.array_equal(np.asarray(coluber.array(view)), view)


@pytest.mark.parametrize("name", [*DTYPES, "bf16"])
def test_pickles(name):
    x = np.arange(24).reshape(2, 3, 4)
    whole = coluber.array(x).to(name)
    for a in (whole, whole[:, ::-2], whole[0:0], whole[1, 2]):
        for again in (pickle.loads(pickle.dumps(a)), copy.deepcopy(a)):
            assert (again.shape, again.dtype, again.tolist()) == (a.shape, name, a.tolist())
    with pytest.raises(ValueError, match="data: expected 8 bytes for shape"):
        coluber._native._array_of_bytes(b"abcd", [2], "f32")


def test_shapes_at_the_border():
    for shape in ((), (0,), (1,), (2, 0, 3), (1, 1, 1, 1, 1, 1)):
        x = np.zeros(shape, np.float32)
        assert coluber.array(x).shape == shape
        assert np.asarray(coluber.array(x)).shape == shape
    with pytest.raises(ValueError, match="at most 6 axes, got 7"):
        coluber.array(np.zeros((1,) * 7, np.float32))


INDICES = [
    0, -1, slice(None), slice(1, None), slice(-2, None), slice(None, None, -1), slice(10, 0, -2), slice(5, 2), ..., None,
    (0, 1), (-1, -1, -1), (slice(None), 1), (..., 2), (0, ...), (..., slice(None, None, 3)), (None, 1, ..., None),
    (slice(None), None, slice(1, 3), slice(3, None, -2)), (1, slice(2, 2), 3), (), (1, 2, 3, ...), np.int64(1),
    (np.array(1), slice(None)),
]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_indexing_is_that_of_numpy(index):
    base = np.arange(4 * 8 * 4, dtype=np.float32).reshape(4, 8, 4)
    for x in (base, base.transpose(2, 0, 1), base[::-1, 1::2, ::-1]):
        ours, expected = coluber.array(x)[index], x[index]
        if isinstance(expected, np.ndarray):
            assert isinstance(ours, coluber.Array) and ours.shape == expected.shape
            assert np.array_equal(np.asarray(ours), expected)
            assert expected.size == 0 or np.shares_memory(np.asarray(ours), x)
        else:
            assert isinstance(ours, float) and ours == expected


def test_slices_of_every_begin_end_and_step():
    x = np.arange(5, dtype=np.int32)
    a, bounds = coluber.array(x), [None, *range(-7, 8)]
    for begin in bounds:
        for end in bounds:
            for step in (None, 1, 2, 7, -1, -2, -7):
                assert a[begin:end:step].tolist() == x[begin:end:step].tolist()


def test_iteration_and_numbers():
    x = np.arange(6, dtype=np.int64).reshape(2, 3)
    a = coluber.array(x)
    assert len(a) == 2 and [row.tolist() for row in a] == x.tolist()
    assert list(a[1]) == [3, 4, 5] and all(type(i) is int for i in a[1])
    assert coluber.array(np.array([2**60 + 1]))[0] == 2**60 + 1  # no double holds it
    assert coluber.array(np.array([2**60 + 1])).tolist() == [2**60 + 1]
    assert a.to("bf16")[1, 2] == 5.0 and coluber.array(np.array(7.0))[()] == 7.0
    assert float(coluber.array(np.array(7.0))[...]) == 7.0
    first, *rest = a
    del a, x
    gc.collect()
    assert first.tolist() == [0, 1, 2] and len(rest) == 1


@pytest.mark.parametrize(
    "index, error, sentence",
    [
        (2, IndexError, r"expected -2 to 1 for axis 0 of \(2, 3\), got 2"),
        ((0, -4), IndexError, r"expected -3 to 2 for axis 1 of \(2, 3\), got -4"),
        ((0, 0, 0), IndexError, r"at most 2 indices for shape \(2, 3\), got 3"),
        ((..., ...), IndexError, r"at most one \.\.\., got 2"),
        ((None,) * 5, IndexError, "at most 6 axes"),
        (10**30, IndexError, "fit"),
        (True, TypeError, "got bool"),
        (1.0, TypeError, "ints, slices, ... or None, got float"),
        ([0], TypeError, "got list"),
        ("0", TypeError, "got str"),
        (np.arange(2), TypeError, "got .*ndarray .*numpy.asarray"),
        (((0,),), TypeError, "got tuple"),
        (slice("a", None), TypeError, None),
        (slice(None, None, 0), ValueError, "zero"),
    ],
    ids=str,
)
def test_indices_that_are_refused(index, error, sentence):
    with pytest.raises(error, match=sentence):
        coluber.array(np.zeros((2, 3), np.float32))[index]


def test_there_is_nothing_in_an_empty_axis_or_a_scalar():
    with pytest.raises(IndexError, match="is empty, got 0"):
        coluber.array(np.zeros((0, 3), np.float32))[0]
    with pytest.raises(IndexError, match="at most 0 indices"):
        coluber.array(np.array(1.0))[0]
    for use in (len, iter):
        with pytest.raises(TypeError, match="expected an axis, got a scalar"):
            use(coluber.array(np.array(1.0)))
    with pytest.raises(TypeError):
        coluber.array(np.zeros(3, np.float32))[0] = 1.0


def test_complex_numbers_are_pairs():
    x = (np.arange(6) + 1j * np.arange(6)[::-1]).astype(np.complex64).reshape(2, 3)
    a = np.asarray(coluber.array(x))
    assert a.shape == (2, 3, 2)
    assert np.array_equal(a[..., 0] + 1j * a[..., 1], x)


def test_buffer_protocol_without_numpy():
    a = coluber.array(array.array("f", [1, 2, 3]))
    assert a.tolist() == [1.0, 2.0, 3.0] and len(a) == 3
    view = memoryview(a)
    assert view.format == "f" and view.shape == (3,) and view.tolist() == [1.0, 2.0, 3.0]
    assert coluber.array(b"ab").tolist() == [97, 98]


def test_memory_lives_as_long_as_the_last_view():
    x = np.arange(1000, dtype=np.float32)
    gone = weakref.ref(x)
    a = coluber.array(x)
    back = np.asarray(a)
    del x, a
    gc.collect()
    assert gone() is not None and back[999] == 999
    del back
    gc.collect()
    assert gone() is None


def test_an_untaken_capsule_frees_its_array():
    ones = coluber.array(np.ones((512, 512), np.float32))
    coluber.ops.linear(ones, ones)  # takes the scratch memory that stays
    before = coluber.memory_stats()["live_bytes"]
    a = coluber.ops.linear(ones, ones)
    capsules = [a.__dlpack__(), a.__dlpack__(max_version=(1, 0))]
    del a
    assert coluber.memory_stats()["live_bytes"] - before >= 512 * 512 * 4
    del capsules
    gc.collect()
    assert coluber.memory_stats()["live_bytes"] == before


def test_what_is_refused():
    x = np.ones((2, 3), np.float32)
    cases = [
        ("three", TypeError, "expected an array"),
        (3, TypeError, "expected an array .* got int"),
        (np.array(["a"]), TypeError, "array of numbers"),
        (x.astype(np.int16), TypeError, "got int16"),
        (x.astype(np.float32).view("V4"), TypeError, "array of numbers"),
        (x.astype(">f4"), TypeError, "array of numbers"),
        (np.zeros(3, dtype=[("a", "f4"), ("b", "u1")])["a"], ValueError, "strides of whole elements"),
    ]
    for value, error, sentence in cases:
        with pytest.raises(error, match=sentence):
            coluber.array(value)


def test_a_capsule_is_taken_once():
    capsule = np.ones(3, np.float32).__dlpack__()
    assert coluber.array(capsule).tolist() == [1, 1, 1]
    with pytest.raises(TypeError, match="nobody has taken"):
        coluber.array(capsule)


def test_state_must_be_writable_and_its_own_memory():
    b, d, k = 2, 3, 4
    x, weight = np.ones((b, 1, d), np.float32), np.ones((d, k), np.float32)
    read_only = np.zeros((b, d, k - 1), np.float32)
    read_only.flags.writeable = False
    overlapping = np.lib.stride_tricks.as_strided(np.zeros(16, np.float32), (b, d, k - 1), (4, 8, 4))
    for state, sentence in (
        (read_only, "read-only"), (coluber.array(read_only), "read-only"), (overlapping, "overlaps itself")
    ):
        with pytest.raises(ValueError, match=sentence):
            coluber.ops.causal_conv1d_step(state, x, weight)


PyBUF_WRITABLE = 1  # of C's PyObject_GetBuffer
NUMPY_KNOWS_READ_ONLY = tuple(map(int, np.__version__.split(".")[:2])) >= (2, 1)  # DLPack 1


@pytest.fixture(params=["flag", "memmap", "bytes"])
def read_only(request, tmp_path):
    """Numbers in memory that may not be written."""
    x = np.arange(12, dtype=np.float32).reshape(3, 4)
    if request.param == "memmap":
        x.tofile(tmp_path / "x")
        return np.memmap(tmp_path / "x", np.float32, "r", shape=(3, 4))
    if request.param == "bytes":
        return np.frombuffer(x.tobytes(), np.float32).reshape(3, 4)
    x.flags.writeable = False
    return x


def test_read_only_memory_stays_read_only(read_only):
    whole = coluber.array(read_only)
    for a, want in ((whole, read_only), (whole[1:, ::2], read_only[1:, ::2]), (coluber.array(whole), read_only)):
        assert not a.writable
        views = [np.asarray(a), np.asarray(memoryview(a))]
        if NUMPY_KNOWS_READ_ONLY:
            views.append(np.from_dlpack(a))
        else:
            with pytest.raises(BufferError, match="numpy.asarray gives a read-only view"):
                np.from_dlpack(a)
        for view in views:
            assert not view.flags.writeable and np.shares_memory(view, read_only) and np.array_equal(view, want)
        with pytest.raises(ValueError, match="read-only"):
            np.asarray(a)[...] = 1
        assert memoryview(a).readonly
        for again in (*views, a.__dlpack__(max_version=(1, 0))):
            assert not coluber.array(again).writable
        with pytest.raises(BufferError, match=r"may be written, got a view of read-only .*copy\(\)"):
            ctypes.pythonapi.PyObject_GetBuffer(ctypes.py_object(a), ctypes.create_string_buffer(256), PyBUF_WRITABLE)
        with pytest.raises(TypeError, match="read-write"):
            io.BytesIO(bytes(64)).readinto(whole)
        with pytest.raises(BufferError, match=r"consumer of DLPack 1, .* got one of version 0 \(share copy\(\)"):
            a.__dlpack__()
        with pytest.raises(BufferError, match="consumer of DLPack 1"):
            a.__dlpack__(max_version=(0, 8))
    for own in (whole.copy(), whole.to("f64"), coluber.array(whole.__dlpack__(copy=True)), copy.deepcopy(whole)):
        assert own.writable
        np.asarray(own)[0, 0] = 7
        assert own.tolist()[0] == [7, 1, 2, 3] and whole.tolist()[0] == [0, 1, 2, 3]


def test_copies_are_rows():
    x = np.arange(6, dtype=np.int64).reshape(2, 3)
    a = coluber.array(x.T)
    assert a.writable and a.copy().strides == (2, 1) and a.copy().tolist() == x.T.tolist()
    np.asarray(a)[0, 0] = 9
    assert x[0, 0] == 9


def test_conversions():
    a = coluber.array(np.array([1.0, 2.5], np.float32))
    assert a.to("bf16").dtype == "bf16" and a.to("bf16").to("f32").tolist() == [1.0, 2.5]
    with pytest.raises(BufferError, match="bf16"):
        memoryview(a.to("bf16"))
    with pytest.raises(ValueError, match="expected f32, f64"):
        a.to("float99")
    assert float(coluber.array(np.array([[2.5]], np.float32))) == 2.5
    with pytest.raises(TypeError, match="one element, got 2"):
        float(a)
    assert repr(a) == "coluber.Array(shape=(2), dtype='f32')"
