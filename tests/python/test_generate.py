"""Model.generate and coluber.Session: the same texts as the program's, streams, batches, forks, threads."""

import gc
import json
import signal
import threading
import time
import weakref

import numpy as np
import pytest

import coluber
from native_support import GOLDENS, model, read_safetensors, run_program, small_model  # noqa: F401

OPTIONS = [
    {},
    {"seed": 7, "temperature": 0.8},
    {"seed": 7, "top_k": 5},
    {"seed": 7, "top_p": 0.3},
    {"seed": 7, "min_p": 0.5, "repetition_penalty": 1.5},
    {"greedy": True},
    {"temperature": 0.0},
]


@pytest.fixture
def folder(tmp_path, model):
    model.save(tmp_path)
    return tmp_path


@pytest.mark.parametrize("options", OPTIONS)
def test_writes_what_the_program_writes(folder, model, options):
    flags = [f"--{k.replace('_', '-')}" if v is True else f"--{k.replace('_', '-')}={v}" for k, v in options.items()]
    rows = run_program("generate", "--model", folder, "--tokenizer", "bytes", "--json", "-n", 20, "-p", "hello", "-p",
                       "you", *flags)
    expected = [json.loads(line) for line in rows.splitlines()]
    got = model.generate(["hello", "you"], max_tokens=20, **options).results
    assert [(r["ids"], r["finish"]) for r in expected] == [(g.ids, g.finish) for g in got]
    assert [r["text"] for r in expected] == [g.text for g in got]
    one = model.generate("hello", max_tokens=20, **options)
    assert one.text == got[0].text and one.result.ids == got[0].ids


@pytest.mark.parametrize(
    "file, case",
    [("lm_state_spaces", "ss_mamba1_layernorm_untied"), ("lm_transformers", "hf_mamba"),
     ("lm_transformers", "hf_falcon_mamba")],
)
def test_greedy_ids_are_those_of_another_implementation(file, case):
    golden = read_safetensors(GOLDENS / f"{file}.safetensors")
    loaded = coluber.Model.load(GOLDENS / "checkpoints" / case)
    expected = golden[f"{case}/out/generated"]
    prompts = golden[f"{case}/input_ids"][:, :5]
    written = model_ids(loaded, prompts, greedy=True, max_tokens=expected.shape[1] - 5, ignore_eos=True)
    np.testing.assert_array_equal(written, expected[:, 5:])


def model_ids(loaded, prompts, **options):
    return [r.ids for r in loaded.generate(prompts, stream="ids", **options).results]


def test_streams_as_it_goes(model):
    stream = model.generate("hello", max_tokens=30, seed=1)
    pieces = [next(stream)]
    assert len(stream.partial()[0].ids) < 30 and stream.partial()[0].finish is None
    pieces += list(stream)
    result = stream.result
    assert "".join(pieces) == result.text and result.finish == "length" and len(result.ids) == 30
    assert result.prompt_ids == list(b"hello")
    assert list(model.generate("hello", max_tokens=30, seed=1, stream="ids")) == result.ids
    with pytest.raises(StopIteration):
        next(stream)
    texts = ["", ""]
    for i, piece in model.generate(["hello", "you"], max_tokens=30, seed=1):
        texts[i] += piece
    assert texts == [r.text for r in model.generate(["hello", "you"], max_tokens=30, seed=1).results]
    assert texts[0] == result.text


def test_prompts_of_every_kind(model):
    ids = list(b"hello")
    expected = model.generate("hello", max_tokens=8, seed=1).text
    for prompt in (b"hello", ids, tuple(ids), np.array(ids), np.array(ids, np.uint8), coluber.array(np.array(ids))):
        assert model.generate(prompt, max_tokens=8, seed=1).text == expected
    for batch in (["hello"], [ids], np.array([ids]), [np.array(ids)]):
        assert model.generate(batch, max_tokens=8, seed=1).results[0].text == expected
    assert model.generate(["hello", ids], max_tokens=0).results[1].ids == []
    many = model.generate(["hello"] * 11, max_tokens=4, seed=1, batch=3).results
    one_by_one = [model.generate("hello", max_tokens=4, seed=1, first_stream=i).result for i in range(11)]
    assert [m.ids for m in many] == [o.ids for o in one_by_one]


def test_stops(model):
    text = model.generate("hello", max_tokens=30, seed=1).text
    stop = text[8:11]
    stopped = model.generate("hello", max_tokens=30, seed=1, stop=stop).result
    assert stopped.finish == "stop" and stopped.text == text[: text.index(stop)]
    assert model.generate("hello", max_tokens=30, seed=1, stop=["never there", stop]).text == stopped.text
    first = model.generate("hello", max_tokens=1, seed=1, stream="ids").result.ids[0]
    ending = small_model(eos_token_id=first)
    assert ending.generate("hello", max_tokens=5, seed=1).result.finish == "eos"
    assert list(ending.generate("hello", max_tokens=5, seed=1, stream="ids")) == []
    assert len(ending.generate("hello", max_tokens=5, seed=1, ignore_eos=True).result.ids) == 5
    assert len(ending.generate(max_tokens=5, ignore_eos=True).result.ids) == 5  # from the end-of-text id


def test_ids_need_no_tokenizer():
    bare = small_model(vocab_size=40)
    assert bare.tokenizer is None
    ids = list(bare.generate([3, 1, 4], max_tokens=9, stream="ids"))
    assert len(ids) == 9 and all(0 <= i < 40 for i in ids)
    for options in ({}, {"stream": "ids", "stop": "x"}):
        with pytest.raises(ValueError, match="tokenizer"):
            bare.generate([3], **options)
    with pytest.raises(ValueError, match="tokenizer"):
        bare.generate("text", stream="ids")


def test_sessions(model, tmp_path):
    session = coluber.Session(model, seed=5, temperature=0.9)
    assert session.logits is None and session.num_tokens == 0
    session.append("hello")
    assert session.logits.shape == (256,)
    fork, twin = session.fork(), model.session(seed=5, temperature=0.9)
    twin.append(list(b"hello"))
    ids = [session.next() for _ in range(12)]
    assert ids == [fork.next() for _ in range(12)] == [twin.next() for _ in range(12)]
    assert ids == list(model.generate("hello", max_tokens=12, seed=5, temperature=0.9, stream="ids"))
    assert session.num_tokens == 17 and session.state.num_tokens == 17
    other, same = session.fork(stream=1), session.fork()
    assert other.options.seed == 5 and other.options.temperature == 0.9
    assert [other.next() for _ in range(5)] != [same.next() for _ in range(5)]
    session.save(tmp_path / "text.state")
    again = coluber.Session.load(tmp_path / "text.state", model, seed=5, temperature=0.9)
    assert [again.next() for _ in range(5)] == [session.next() for _ in range(5)]
    assert coluber.State.load(tmp_path / "text.state").num_tokens == 17


def test_goes_on_from_a_session(model):
    start = model.session(greedy=True)
    start.append("hello")
    whole = model.generate("hello you", greedy=True, max_tokens=10).result
    rest = model.generate(" you", greedy=True, max_tokens=10, start=start, keep_sessions=True).result
    assert rest.ids == whole.ids and start.num_tokens == 5
    assert rest.session.num_tokens == 19
    more = model.generate(start=rest.session, greedy=True, max_tokens=5).result
    assert whole.ids + more.ids == model.generate("hello you", greedy=True, max_tokens=15).result.ids
    state = model.make_state(1)
    model.forward([list(b"hello")], state)
    other = coluber.Session(model, state=state, greedy=True)
    other.append(" you")
    assert [other.next() for _ in range(10)] == whole.ids


def test_objects_hold_what_they_need():
    model = small_model()
    expected = model.generate("hello", max_tokens=10, seed=2).text
    stream, session = model.generate("hello", max_tokens=10, seed=2), coluber.Session(model, seed=2)
    native = weakref.ref(model)
    del model
    gc.collect()
    assert stream.text == expected
    session.append("hello")
    assert native() is not None  # the session has it
    assert bytes(session.next() for _ in range(10)).decode(errors="replace") == expected


def test_a_closed_stream_is_at_its_end(model):
    with model.generate(["hello", "you"], max_tokens=1000) as stream:
        next(stream)
    assert list(stream) == [] and [g.finish for g in stream.results] == [None, None]
    assert all(len(g.ids) < 5 for g in stream.partial())
    stream.close()


def test_eight_threads_write_what_one_writes(model):
    expected = [model.generate(f"prompt {i}", max_tokens=60, seed=i).text for i in range(8)]
    got = [None] * 8

    def work(i):
        got[i] = "".join(model.generate(f"prompt {i}", max_tokens=60, seed=i))

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert got == expected


def test_one_session_in_two_threads_is_refused_not_mixed_up():
    session = coluber.Session(small_model(d_model=128, n_layer=4))
    errors, long = [], np.ones(60_000, np.int32)

    def work():
        try:
            session.append(long)
        except ValueError as error:
            errors.append(str(error))

    threads = [threading.Thread(target=work) for _ in range(3)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert errors and all("one call at a time" in error for error in errors)
    assert session.num_tokens == (3 - len(errors)) * len(long)


@pytest.mark.parametrize("what", ["prompt", "text", "session"])
def test_ctrl_c(what):
    model = small_model(d_model=64, n_layer=4)
    threading.Timer(0.3, signal.raise_signal, (signal.SIGINT,)).start()
    began = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        if what == "prompt":
            list(model.generate([1] * 3_000_000, max_tokens=1, stream="ids"))
        elif what == "text":
            for _ in model.generate("x", max_tokens=10_000_000):
                pass
        else:
            model.session().append(np.ones(3_000_000, np.int32))
    assert time.monotonic() - began < 10


@pytest.mark.parametrize(
    "error, options",
    [
        (TypeError, {"prompt": "a", "temprature": 1}),
        (TypeError, {"prompt": 3.5}),
        (TypeError, {"prompt": [1.5]}),
        (TypeError, {"prompt": np.ones(3)}),
        (TypeError, {"prompt": "a", "top_k": 1.5}),
        (ValueError, {"prompt": []}),
        (ValueError, {"prompt": [300]}),
        (ValueError, {"prompt": [-1]}),
        (ValueError, {"prompt": None}),  # nothing to start from
        (ValueError, {"prompt": "a", "temperature": -1.0}),
        (ValueError, {"prompt": "a", "top_p": 0.0}),
        (ValueError, {"prompt": "a", "min_p": 2.0}),
        (ValueError, {"prompt": "a", "repetition_penalty": 0.0}),
        (ValueError, {"prompt": "a", "max_tokens": -1}),
        (ValueError, {"prompt": "a", "batch": 9}),
        (ValueError, {"prompt": "a", "stop": ""}),
        (ValueError, {"prompt": "a", "stream": "bytes"}),
        (ValueError, {"prompt": "a", "bos": True}),
        (ValueError, {"prompt": "a", "algorithm": "fast"}),
    ],
)
def test_refusals(model, error, options):
    with pytest.raises(error):
        model.generate(**options).results


def test_refusals_of_sessions(model, tmp_path):
    session = coluber.Session(model)
    for error, call in [
        (ValueError, session.next),
        (ValueError, lambda: session.append([256])),
        (TypeError, lambda: session.append(3.5)),
        (TypeError, lambda: coluber.Session(model, sed=3)),
        (TypeError, lambda: session.fork(sed=3)),
        (ValueError, lambda: coluber.Session(model, state=model.make_state(2))),
        (ValueError, lambda: coluber.Session(small_model(d_model=32), state=model.make_state(1))),
        (FileNotFoundError, lambda: coluber.Session.load(tmp_path / "gone", model)),
        (NotImplementedError, lambda: coluber.Session(small_model(bidirectional=True))),
    ]:
        with pytest.raises(error):
            call()
    assert session.num_tokens == 0


def test_distribution():
    from coluber import SamplingOptions
    from coluber._native import sampling_distribution

    logits = np.log(np.array([0.5, 0.3, 0.2], np.float32))
    assert sampling_distribution(logits, SamplingOptions(top_k=2)) == [
        (0, pytest.approx(0.625)), (1, pytest.approx(0.375))
    ]
