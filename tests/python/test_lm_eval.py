"""The model "coluber" of lm-evaluation-harness: scores against whole forwards, its requests, its program."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest

import coluber
from native_support import TEXT, small_model

pytest.importorskip("lm_eval", reason="lm_eval is not installed (pip install lm_eval, Python 3.10 or later)")

import lm_eval  # noqa: E402
from lm_eval.api.instance import Instance  # noqa: E402
from lm_eval.api.registry import get_model  # noqa: E402

from coluber.lm_eval import ColuberLM  # noqa: E402
from coluber.lm_eval.scoring import score  # noqa: E402

RNG = np.random.default_rng(0)


def whole(model, context, continuation):
    """By one forward over everything, in float64."""
    ids = np.array([[*context, *continuation]])
    logits = np.asarray(model.forward(ids), np.float64)[0, len(context) - 1 : -1]
    nats = logits - logits.max(-1, keepdims=True)
    nats -= np.log(np.exp(nats).sum(-1, keepdims=True))
    picked = nats[np.arange(len(continuation)), list(continuation)]
    return picked.sum(), bool((logits.argmax(-1) == continuation).all())


def random_ids(count, vocab=256):
    return RNG.integers(0, vocab, count).tolist()


def greedy_ids(model, context, count):
    return model.generate(context, max_tokens=count, greedy=True, ignore_eos=True).result.ids


def requests(kind, *arguments):
    return [Instance(request_type=kind, doc={}, arguments=one, idx=i) for i, one in enumerate(arguments)]


def make_lm(model=None, **options):
    return ColuberLM(model or small_model(), prefix_token_id=10, **options)


@pytest.mark.parametrize("sequences", [1, 3, 16])
def test_scores_are_those_of_whole_forwards(sequences):
    model = small_model()
    contexts = [random_ids(n) for n in (1, 1, 2, 9, 9, 40, 700, 2300)]
    pairs = []
    for context in contexts:
        best = greedy_ids(model, context, 3)
        pairs += [(context, best), (context, best[:1]), (context, [*best[:2], best[2] ^ 1])]
        pairs += [(context, random_ids(n)) for n in (1, 1, 5)]
        pairs += [(context, [best[0] ^ 1, *greedy_ids(model, [*context, best[0] ^ 1], 2)])]
    pairs += [(contexts[0], random_ids(600)), (contexts[5], greedy_ids(model, contexts[5], 520)), pairs[0]]
    order = RNG.permutation(len(pairs))
    counted = []
    found = score(model, [pairs[i] for i in order], sequences=sequences, advance=counted.append)
    assert sum(counted) == len(pairs)
    for place, i in enumerate(order):
        nats, greedy = whole(model, *pairs[i])
        assert found[place].nats == pytest.approx(nats, abs=1e-5 * max(1, len(pairs[i][1]))), i
        assert found[place].greedy == greedy, i
    assert 10 < sum(one.greedy for one in found) < len(pairs) - 10  # both were asked


def test_each_context_is_read_once():
    class Counting:
        def __init__(self, model):
            self.model, self.tokens, self.make_state = model, 0, model.make_state

        def forward(self, ids, *arguments, **options):
            self.tokens += ids.size
            return self.model.forward(ids, *arguments, **options)

    model = Counting(small_model())
    context = random_ids(400)
    score(model, [(context, [i]) for i in range(50)] + [(context, [i, i]) for i in range(10)])
    assert model.tokens == 399 + 1 + 10 * 2


def test_empty_pairs_are_refused():
    with pytest.raises(ValueError, match="pair 1: expected a context"):
        score(small_model(), [([1], [2]), ([], [3])])


def test_loglikelihood():
    lm = make_lm()
    cases = [("In the", " beginning"), ("", "In"), ("In the ", "word"), ("\n", "x"), ("", "\nIn")]
    found = lm.loglikelihood(requests("loglikelihood", *cases), disable_tqdm=True)
    bytes_of = [(b"In the", b" beginning"), (b"\n", b"In"), (b"In the", b" word"), (b"\n", b"\nx"), (b"\n", b"In")]
    for answer, (context, continuation) in zip(found, bytes_of):
        nats, greedy = whole(lm.model, list(context), list(continuation))
        assert answer[0] == pytest.approx(nats, abs=1e-4) and answer[1] == greedy


def test_old_tokens_are_cut_off():
    lm = make_lm(max_length=8)
    found = lm.loglikelihood(requests("loglikelihood", ("abcdefghijkl", "xyz"), ("ab", "x" * 8)), disable_tqdm=True)
    assert found[0][0] == pytest.approx(whole(lm.model, list(b"ghijkl"), list(b"xyz"))[0], abs=1e-4)
    assert found[1][0] == pytest.approx(whole(lm.model, list(b"b"), list(b"x" * 8))[0], abs=1e-4)
    with pytest.raises(ValueError, match="max_length: expected at least the 9 tokens"):
        lm.loglikelihood(requests("loglikelihood", ("ab", "x" * 9)), disable_tqdm=True)


def test_documents_are_read_in_windows_or_whole():
    text = TEXT[:21]
    ids = list(text.encode())
    lm = make_lm(max_length=8)
    found = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (text,), ("",), (text[:3],)), disable_tqdm=True)
    windows = [([10], ids[:8]), (ids[7:8], ids[8:16]), (ids[12:16], ids[16:21])]
    expected = sum(whole(lm.model, *window)[0] for window in windows)
    assert found[0] == pytest.approx(expected, abs=1e-4) and found[1] == 0
    assert found[2] == pytest.approx(whole(lm.model, [10], ids[:3])[0], abs=1e-4)
    long = TEXT * 60  # more than one piece of SCORED_TOKENS
    lm = make_lm(max_length=0)
    found = lm.loglikelihood_rolling(requests("loglikelihood_rolling", (long,)), disable_tqdm=True)
    assert found[0] == pytest.approx(whole(lm.model, [10], list(long.encode()))[0], rel=1e-6)


def test_begin_of_text_is_added_once(tmp_path):
    tokenizer = coluber.Tokenizer.train(texts=[TEXT], vocab_size=300)
    tokenizer.save(tmp_path / "tokenizer.json")
    root = json.loads((tmp_path / "tokenizer.json").read_text())
    first = len(root["model"]["vocab"])
    for i, piece in enumerate(("<s>", "</s>")):
        root["added_tokens"].append({
            "id": first + i, "content": piece, "special": True, "normalized": False, "lstrip": False, "rstrip": False,
            "single_word": False,
        })
    (tmp_path / "two.json").write_text(json.dumps(root))
    two = coluber.Tokenizer.load(tmp_path / "two.json")
    assert (two.bos_id, two.eos_id) == (first, first + 1)
    model = small_model(vocab_size=first + 8)
    model.tokenizer = two
    lm = ColuberLM(model)
    plain = two.encode("In the")
    assert lm.tok_encode("In the") == [first, *plain] == lm.tok_encode("<s>In the")
    assert lm.tok_encode("In the", add_special_tokens=False) == plain
    assert lm.prefix_token_id == first and lm.eot_token_id == first + 1
    assert ColuberLM(model, add_bos_token=False).tok_encode("In the") == plain
    answer = lm.loglikelihood(requests("loglikelihood", ("", "In"), ("In", " the")), disable_tqdm=True)
    assert answer[0][0] == pytest.approx(whole(model, [first], two.encode("In"))[0], abs=1e-4)
    head = two.encode("In")
    assert answer[1][0] == pytest.approx(whole(model, [first, *head], two.encode("In the")[len(head) :])[0], abs=1e-4)
    model.tokenizer = tokenizer  # one id that opens and ends texts is not put in front of any
    assert ColuberLM(model).tok_encode("In the") == tokenizer.encode("In the")
    assert ColuberLM(model).prefix_token_id == tokenizer.eos_id


def test_generate_until():
    model = small_model(seed=5)
    lm = make_lm(model, max_gen_toks=20, max_length=27)
    long = TEXT[:60]  # of which 27 - 20 tokens are looked at
    alone = {"In the": model.generate("In the", max_tokens=20, greedy=True).text}
    alone[long] = model.generate(long[-7:], max_tokens=20, greedy=True).text
    assert lm._prompt(long, 20) == list(long[-7:].encode())
    stop = alone["In the"][3:5]
    cases = [
        ("In the", {"until": [], "do_sample": False}), (long, {"until": [], "do_sample": False}),
        ("In the", {"until": [stop, ""], "temperature": 0.0}), ("In the", {"max_gen_toks": 4}),
        ("In the", {"until": "never", "do_sample": True, "temperature": 0.9, "top_k": 5, "num_beams": 1}),
    ]
    texts = lm.generate_until(requests("generate_until", *cases), disable_tqdm=True)
    assert texts[:2] == [alone["In the"], alone[long]]
    assert texts[2] == alone["In the"].split(stop)[0] and len(texts[2]) <= 3
    assert texts[3] == model.generate("In the", max_tokens=4, greedy=True).text
    drawn = model.generate("In the", max_tokens=20, temperature=0.9, top_k=5, seed=0, first_stream=4).text
    assert texts[4] == drawn
    for asked, error, sentence in (
        ({"num_beams": 4}, NotImplementedError, "num_beams=4"), ({"max_gen_toks": 27}, ValueError, "max_gen_toks"),
    ):
        with pytest.raises(error, match=sentence):
            lm.generate_until(requests("generate_until", ("a", asked)), disable_tqdm=True)


@pytest.mark.parametrize(
    "options, error, sentence",
    [
        ({"device": "gpu"}, ValueError, "expected cpu, cuda, cuda:N or auto, got gpu"),
        ({"batch_size": "many"}, ValueError, "batch_size: expected auto"),
        ({"batch_size": 0}, ValueError, "batch_size"),
        ({"max_length": -1}, ValueError, "max_length"),
        ({"max_lenght": 3}, TypeError, "max_lenght"),
        ({"pretrained": "/nowhere"}, FileNotFoundError, None),
        ({"pretrained": small_model(vocab_size=64)}, ValueError, "tokenizer"),
        ({"pretrained": small_model(bidirectional=True)}, NotImplementedError, "both ways"),
    ],
    ids=str,
)
def test_arguments_that_are_refused(options, error, sentence):
    with pytest.raises(error, match=sentence):
        ColuberLM(**{"pretrained": small_model(), **options})


def test_a_text_without_context_needs_a_begin():
    lm = ColuberLM(small_model())
    with pytest.raises(ValueError, match="prefix_token_id: expected the id"):
        lm.loglikelihood(requests("loglikelihood", ("", "In")), disable_tqdm=True)


def write_task(folder):
    """A task of two choices a question, its data beside it."""
    lines = [{"q": f"question {i}: ", "choices": ["yes", "no way"], "gold": i % 2} for i in range(6)]
    (folder / "data.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (folder / "task.yaml").write_text(f"""
task: coluber_choice
dataset_path: json
dataset_kwargs: {{data_files: {{test: {folder}/data.jsonl}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{q}}}}"
doc_to_target: gold
doc_to_choice: "{{{{choices}}}}"
metric_list: [{{metric: acc}}]
metadata: {{version: 1}}
""")
    return lines


def expected_accuracy(model, lines):
    right = 0
    for line in lines:
        question = line["q"].rstrip()
        nats = [whole(model, list(question.encode()), list((" " + c).encode()))[0] for c in line["choices"]]
        # the harness puts a space between, and moves what ends the question to the answer
        right += int(np.argmax(nats)) == line["gold"]
    return right / len(lines)


def test_the_program_evaluates_a_task(tmp_path, monkeypatch):
    pytest.importorskip("datasets", reason="datasets is not installed")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hf"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    model = small_model(seed=11)
    model.save(tmp_path / "model")
    task = tmp_path / "task"
    task.mkdir()
    lines = write_task(task)
    done = subprocess.run(
        [sys.executable, "-m", "coluber.lm_eval", "--model", "coluber", "--model_args",
         f"pretrained={tmp_path}/model,tokenizer=bytes,prefix_token_id=10", "--tasks", "coluber_choice",
         "--include_path", str(task), "--batch_size", "auto", "--output_path", str(tmp_path / "out.json")],
        capture_output=True, text=True, timeout=300, cwd=tmp_path,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = next(tmp_path.rglob("out*.json"))
    results = json.loads(found.read_text())
    accuracy = results["results"]["coluber_choice"]["acc,none"]
    assert math.isclose(accuracy, expected_accuracy(model, lines))
    assert results["config"]["model_num_parameters"] == model.num_parameters


def test_the_harness_knows_it_and_its_own():
    assert get_model("coluber") is ColuberLM
    assert get_model("dummy").__module__.startswith("lm_eval.")
    assert lm_eval.simple_evaluate


def test_answers_are_those_of_the_harness_with_transformers(tmp_path):
    pytest.importorskip("torch", reason="torch is not installed")
    pytest.importorskip("transformers", reason="transformers is not installed")
    pytest.importorskip("accelerate", reason="accelerate is not installed")
    tokenizer = coluber.Tokenizer.train(texts=[TEXT], vocab_size=300)
    model = small_model(vocab_size=304, eos_token_id=tokenizer.eos_id, bos_token_id=tokenizer.eos_id)
    model.tokenizer = tokenizer
    model.save(tmp_path, layout="mamba")
    kind = {"tokenizer_class": "PreTrainedTokenizerFast", "bos_token": "<|endoftext|>", "eos_token": "<|endoftext|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(kind))
    theirs = get_model("hf")(str(tmp_path), device="cpu", dtype="float32", max_length=64, batch_size=2)
    ours = ColuberLM(str(tmp_path), max_length=64)
    assert (ours.prefix_token_id, ours.eot_token_id) == (theirs.prefix_token_id, theirs.eot_token_id)
    best = ours.model.generate("In the", max_tokens=4, greedy=True, ignore_eos=True).text
    asked = [("In the", " word"), ("In the", best), ("", "In"), ("was ", "the word"), ("", "<|endoftext|>In"),
             (TEXT * 9, " In the"), ("In the", "\n")]
    for (nats, greedy), (their_nats, their_greedy) in zip(
        ours.loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True),
        theirs.loglikelihood(requests("loglikelihood", *asked), disable_tqdm=True),
    ):
        assert nats == pytest.approx(their_nats, abs=1e-3) and greedy == their_greedy
    documents = requests("loglikelihood_rolling", (TEXT * 5,), (TEXT[:9],))
    assert ours.loglikelihood_rolling(documents, disable_tqdm=True) == pytest.approx(
        theirs.loglikelihood_rolling(documents, disable_tqdm=True), rel=1e-5
    )
    written = [(TEXT, {"until": [" w"], "max_gen_toks": 12}), ("In the", {"until": ["\n"], "max_gen_toks": 9})]
    wanted = requests("generate_until", *written)
    assert ours.generate_until(wanted, disable_tqdm=True) == theirs.generate_until(wanted, disable_tqdm=True)
