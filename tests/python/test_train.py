"""coluber.train and coluber.Trainer: what is learned, callbacks, stops, resumed trainings, pictures."""

import json
import signal
import subprocess
import sys
import textwrap

import numpy as np
import pytest

import coluber
from native_support import TEXT, run_program, small_model

SMALL = dict(d_model=16, n_layer=1, d_state=4, batch=2, seqlen=32)


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 40)
    return path


def values(model):
    return {name: np.asarray(p).copy() for name, p in model.parameters().items()}


def assert_same(a, b):
    a, b = values(a), values(b)
    assert a.keys() == b.keys()
    for name in a:
        np.testing.assert_array_equal(a[name], b[name], err_msg=name)


def test_learns_and_tells(text, tmp_path):
    out, steps, evals, samples, folders = tmp_path / "model", [], [], [], []
    run = coluber.train(
        text, out=out, max_steps=60, lr=1e-2, tokenizer="train:270", sample_prompt="In the", sample_tokens=5, **SMALL,
        on_step=steps.append, on_eval=evals.append, on_sample=lambda *a: samples.append(a),
        on_checkpoint=folders.append,
    )
    assert [s.step for s in steps] == list(range(1, 61)) and steps[-1].total_steps == 60
    assert [(s.step, s.loss) for s in steps] == run.losses
    assert [(e.step, e.heldout_loss) for e in evals] == run.heldout_losses and len(evals) == 10
    assert evals[-1].heldout_loss < 0.7 * evals[0].heldout_loss and evals[-1].bits_per_byte > 0
    assert [step for step, _ in samples] == [20, 40, 60]
    assert samples[0][1][0].prompt == "In the" and samples[0][1][0].text
    assert folders == [run.checkpoint] and run.checkpoint.endswith("step-60")
    assert not run.stopped and run.num_steps == 60 and run.seconds > 0
    assert run.tokenizer.kind == "bpe" and run.model.tokenizer == run.tokenizer
    loaded = coluber.Model.load(out)
    assert_same(loaded, run.model)
    assert loaded.tokenizer == run.tokenizer
    for file in ("README.md", "loss.svg", "metrics.jsonl", "tokenizer.json"):
        assert (out / file).exists()


def test_is_the_training_of_the_program(text, tmp_path):
    flags = [f"--{k.replace('_', '-')}={v}" for k, v in SMALL.items()]
    run_program("train", "--data", text, "--out", tmp_path / "a", "--max-steps", 6, "--seed", 4, "--quiet", *flags)
    run = coluber.train(text, out=tmp_path / "b", max_steps=6, seed=4, **SMALL)
    assert_same(coluber.Model.load(tmp_path / "a"), run.model)
    # And one goes on where the other stopped.
    run_program("train", "--resume", tmp_path / "b", "--max-steps", 8, "--schedule", "constant", "--quiet")
    other = coluber.train(out=tmp_path / "a", resume=True, max_steps=8, schedule="constant")
    assert_same(coluber.Model.load(tmp_path / "b"), other.model)
    assert other.num_steps == 8 and len(other.losses) == 8


def test_nothing_is_written_unless_asked(text, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    run = coluber.train(text, max_steps=3, **SMALL)
    assert run.out is None and run.checkpoint is None
    assert [p.name for p in tmp_path.iterdir()] == ["text.txt"]


def test_token_ids_and_models_of_ones_own(text):
    ids = np.frombuffer((TEXT * 40).encode(), np.uint8)
    model = small_model()
    before, loss = values(model), model.loss([list(TEXT.encode())])
    evals = []
    run = coluber.train(
        ids, model=model, max_steps=40, lr=1e-2, batch=2, seqlen=32, heldout=ids[:300], on_eval=evals.append
    )
    assert run.model is model and model.loss([list(TEXT.encode())]) < 0.8 * loss
    assert any((values(model)[name] != before[name]).any() for name in before)
    assert evals[-1].heldout_tokens > 250  # of those 300, not of a share of the others
    fresh = coluber.train(ids.tolist(), vocab_size=256, max_steps=2, heldout_share=0.2, **SMALL)
    assert fresh.model.config.d_model == 16 and fresh.heldout_losses
    with pytest.raises(TypeError, match="vocab_size"):
        coluber.train(ids, max_steps=1)
    with pytest.raises(ValueError):
        coluber.train(ids, model=small_model(vocab_size=40), vocab_size=256, max_steps=1)


def batches(n, seed=0):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, 256, (2, 16)) for _ in range(n)]


def test_batches_of_ones_own():
    data = batches(7)
    shifted = [(b, np.concatenate([b[:, 1:], np.full((2, 1), -1)], 1), np.zeros(b.shape, np.uint8)) for b in data]
    runs = [
        coluber.train(source, model=small_model(), heldout=data[:2], max_steps=limit, max_seconds=seconds)
        for source, limit, seconds in (
            (data, 7, None), (shifted, 7, None), (lambda i: data[i], 7, None), ((b for b in data), 7, None),
            ([{"ids": b} for b in data], 7, None),
        )
    ]
    for run in runs[1:]:
        assert_same(runs[0].model, run.model)
    assert len(runs[0].losses) == 7 and len(runs[0].heldout_losses) == 7
    once = coluber.train(data, model=small_model())
    assert once.num_steps == 7 and not once.stopped
    again = coluber.train(data, model=small_model(), max_steps=10, grad_accum=2)  # begins anew after three and a half
    assert again.num_steps == 10
    short = coluber.train((b for b in data), model=small_model(), max_steps=100)
    assert short.num_steps == 7 and not short.stopped
    for bad, error in [
        ([np.ones((2, 3), np.float32)], TypeError), ([[[300, 1]]], ValueError), ([np.ones(3, int)], ValueError),
        ([{"input_ids": 1}], TypeError), ([(1, 2, 3, 4)], TypeError), (3, TypeError),
    ]:
        with pytest.raises(error):
            coluber.train(bad, model=small_model())
    with pytest.raises(TypeError, match="model"):
        coluber.train(data)


def test_an_iterable_goes_on_where_it_was(tmp_path):
    data, done = batches(9), []
    whole = coluber.train(data, model=small_model(), max_steps=8)
    coluber.train(
        data, model=small_model(), max_steps=8, out=tmp_path / "model", on_step=done.append,
        should_stop=lambda: len(done) == 3,
    )
    rest = coluber.train(data, out=tmp_path / "model", resume=True, max_steps=8)
    assert rest.losses == whole.losses
    assert_same(rest.model, whole.model)


def test_step_by_step(text):
    whole = coluber.train(text, max_steps=5, heldout_share=0.1, **SMALL)
    trainer = coluber.Trainer(text, max_steps=5, heldout_share=0.1, **SMALL)
    reports = [trainer.step() for _ in range(3)]
    assert [(r.step, r.loss) for r in reports] == whole.losses[:3] == trainer.losses
    assert trainer.evaluate().heldout_loss == pytest.approx(whole.heldout_losses[2][1])
    run = trainer.run()
    assert run.num_steps == 5 and run.losses == whole.losses
    assert_same(run.model, whole.model)
    with pytest.raises(ValueError, match="out"):
        trainer.save()
    with pytest.raises(ValueError, match="heldout"):
        coluber.Trainer(text, max_steps=5, heldout_share=0.0, **SMALL).evaluate()
    estimate = coluber.Trainer(text, max_steps=5, **SMALL).estimate()
    assert estimate["total_steps"] == 5 and estimate["peak_bytes"] > estimate["parameter_bytes"] > 0


def test_stops_when_asked_and_goes_on_to_the_same_bits(text, tmp_path):
    whole = coluber.train(text, out=tmp_path / "whole", max_steps=8, **SMALL)
    done = []
    part = coluber.train(
        text, out=tmp_path / "part", max_steps=8, **SMALL, on_step=done.append, should_stop=lambda: len(done) == 3
    )
    assert part.stopped and part.num_steps == 3 and part.checkpoint.endswith("step-3")
    rest = coluber.train(resume=tmp_path / "part")
    assert rest.num_steps == 8 and not rest.stopped
    assert_same(rest.model, whole.model)
    with pytest.raises(ValueError, match=r"\[train\] d_model: expected 16"):
        coluber.train(resume=tmp_path / "part", d_model=32)


def test_ctrl_c_saves_and_raises(text, tmp_path):
    def on_step(report):
        if report.step == 4:
            signal.raise_signal(signal.SIGINT)

    with pytest.raises(KeyboardInterrupt, match="step 4") as caught:
        coluber.train(text, out=tmp_path / "model", max_steps=1000, **SMALL, on_step=on_step)
    assert caught.value.run.num_steps == 4 and caught.value.run.stopped
    assert (tmp_path / "model" / "checkpoints" / "step-4").is_dir()
    run = coluber.train(out=tmp_path / "model", resume=True, max_steps=6)  # although `caught` keeps the trainer
    assert run.num_steps == 6


def test_ctrl_c_while_a_batch_is_made(tmp_path):
    def source(index):
        if index == 3:
            signal.raise_signal(signal.SIGINT)
        return data[index]

    data = batches(9)
    model = small_model()
    with pytest.raises(KeyboardInterrupt, match="step 3") as caught:
        coluber.train(source, model=model, out=tmp_path / "model", max_steps=9)
    assert caught.value.run.num_steps == 3 and caught.value.run.checkpoint.endswith("step-3")
    rest = coluber.train(lambda i: data[i], out=tmp_path / "model", resume=True, max_steps=9)
    assert_same(rest.model, coluber.train(lambda i: data[i], model=small_model(), max_steps=9).model)
    assert rest.num_steps == 9 and coluber.Model.load(tmp_path / "model").config.d_model == 16


def test_ctrl_c_from_outside(text, tmp_path):
    program = textwrap.dedent(
        f"""
        import coluber
        coluber.train({str(text)!r}, out={str(tmp_path / "model")!r}, max_steps=10**6, d_model=64, n_layer=2,
                      on_step=lambda r: print(r.step, flush=True))
        """
    )
    command, pipe = [sys.executable, "-c", program], subprocess.PIPE
    process = subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True)
    assert process.stdout.readline() == "1\n"
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode != 0 and "KeyboardInterrupt: [train] stopped at step" in err
    assert list((tmp_path / "model" / "checkpoints").iterdir())


def test_what_a_callback_raises_ends_it(text):
    def on_step(report):
        raise LookupError("enough")

    with pytest.raises(LookupError, match="enough"):
        coluber.train(text, max_steps=5, **SMALL, on_step=on_step)


def test_a_bar_and_pictures(text, capsys):
    run = coluber.train(text, max_steps=3, name="book", **SMALL)
    assert run._repr_html_().startswith("<svg") or "<svg" in run._repr_html_()
    assert "3 steps" in repr(run)
    assert capsys.readouterr().err == ""
    png = run._repr_png_()
    try:
        import matplotlib  # noqa: F401
    except ImportError:
        assert png is None
        with pytest.raises(ImportError):
            run.plot()
    else:
        assert png.startswith(b"\x89PNG")
        axes = run.plot()
        assert len(axes.lines) == 2 and list(axes.lines[0].get_xdata()) == [1, 2, 3]
    coluber.train(text, max_steps=3, **SMALL, progress=True)
    try:
        import tqdm  # noqa: F401
    except ImportError:
        assert capsys.readouterr().err == ""
    else:
        assert "3/3" in capsys.readouterr().err


@pytest.mark.parametrize(
    "error, message, options",
    [
        (TypeError, "max_stpes", {"max_stpes": 3}),
        (TypeError, "data", {"data": None}),
        (FileNotFoundError, None, {"data": "/nowhere/text"}),
        (ValueError, "batch", {"batch": 0}),
        (ValueError, r"\[train\] batch: expected a whole number, 1 to \d+, got '?1.5'?$", {"batch": 1.5}),
        (ValueError, "schedule", {"schedule": "sine"}),
        (ValueError, "dtype", {"dtype": "f16"}),
        (ValueError, "lr", {"lr": -1.0}),
        (ValueError, "dropout", {"dropout": 2.0}),
        (ValueError, "f32", {"model": small_model().to("bf16")}),
        (ValueError, "separator", {"separator": "comma"}),
        (FileNotFoundError, None, {"resume": "/nowhere"}),
        (FloatingPointError, "step", {"lr": 1e30, "clip": 0.0, "warmup": 0, "max_steps": 30}),
    ],
)
def test_refusals(text, error, message, options):
    with pytest.raises(error, match=message):
        coluber.train(**{"data": text, "max_steps": 3, **SMALL, **options})


def test_settings_are_those_of_the_program(text, tmp_path):
    coluber.train(text, out=tmp_path / "model", max_steps=2, untied=True, **SMALL)
    state = json.loads((tmp_path / "model" / "checkpoints" / "step-2" / "trainer.json").read_text())
    settings = state["settings"] if isinstance(state["settings"], dict) else json.loads(state["settings"])
    assert settings["d-model"] == 16 and settings["untied"] is True and settings["data"] == [str(text)]
    with pytest.raises(ValueError, match="overwrite"):
        coluber.train(text, out=tmp_path / "model", max_steps=2, **SMALL)
    assert coluber.train(text, out=tmp_path / "model", max_steps=1, overwrite=True, **SMALL).num_steps == 1
