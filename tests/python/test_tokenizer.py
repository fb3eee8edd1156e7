"""coluber.Tokenizer: there and back, streaming, learning a vocabulary."""

import copy
import json
import pickle

import numpy as np
import pytest

import coluber
from native_support import GOLDENS, TEXT, run_program

TEXTS = ["", "hello", "Grüße, 你好 🐍", TEXT, "\x00\n\t  end  "]


@pytest.fixture(scope="module")
def learned():
    return coluber.Tokenizer.train(texts=[TEXT * 20], vocab_size=300)


def test_bytes():
    tokenizer = coluber.Tokenizer.bytes()
    assert tokenizer == coluber.Tokenizer.load("bytes") and tokenizer.kind == "bytes" and len(tokenizer) == 256
    for text in TEXTS:
        assert tokenizer.encode(text) == list(text.encode())
        assert tokenizer.decode(tokenizer.encode(text)) == text
    assert tokenizer.encode(b"\xff\x00") == [255, 0] and tokenizer.decode([255]) == "\ufffd"
    assert tokenizer.decode_bytes(np.array([255, 65], np.int64)) == b"\xffA"
    assert tokenizer.bos_id is None and tokenizer.eos_id is None and tokenizer.lossless
    np.testing.assert_array_equal(tokenizer.encode_array("abc"), [97, 98, 99])


def test_learned(learned, tmp_path):
    assert learned.kind == "bpe" and 257 < learned.vocab_size <= 300 and learned.lossless
    for text in TEXTS:
        assert learned.decode(learned.encode(text)) == text
    assert len(learned.encode(TEXT)) < len(TEXT) / 2
    assert learned.token_id("<|endoftext|>") == learned.eos_id == 0 and learned.is_special(0)
    assert learned.token_id("nothing like it") is None
    assert learned.encode("<|endoftext|>") == [0] and len(learned.encode("<|endoftext|>", parse_special=False)) > 1
    assert learned.encode("a", add_eos=True)[-1] == 0 and learned.decode([0], skip_special=True) == ""
    path = tmp_path / "tokenizer.json"
    learned.save(path)
    assert coluber.Tokenizer.load(path) == learned == coluber.Tokenizer.load(tmp_path)
    assert coluber.Tokenizer.from_json(path.read_text()) == learned == coluber.Tokenizer.from_json(path.read_bytes())
    assert hash(learned) == hash(coluber.Tokenizer.load(path)) and learned != coluber.Tokenizer.bytes()


def test_training_is_that_of_the_program(tmp_path):
    text, out = tmp_path / "text.txt", tmp_path / "tokenizer.json"
    text.write_text(TEXT * 20)
    run_program("tokenizer", "train", text, "--vocab-size", 300, "--out", out, "--quiet")
    calls = []
    own = coluber.Tokenizer.train(text, 300, progress=lambda share, doing: calls.append(share))
    assert own == coluber.Tokenizer.load(out) and calls and 0 <= min(calls) <= max(calls) <= 1


def test_a_published_one_agrees_with_its_library():
    tokenizer = coluber.Tokenizer.load(GOLDENS / "tokenizers" / "tiny-falcon")
    cases = json.loads((GOLDENS / "tokenizer_tiny_falcon.json").read_text())["cases"]
    assert len(cases) > 10
    checked = 0
    for case in cases:
        if "text" in case and "ids" in case:
            assert tokenizer.encode(case["text"]) == case["ids"], case["text"]
            checked += 1
    assert checked > 10


def test_pickles(learned, tmp_path):
    with_bos = tmp_path / "bos"
    with_bos.mkdir()
    learned.save(with_bos)
    (with_bos / "tokenizer_config.json").write_text(json.dumps({"bos_token": "<|endoftext|>", "eos_token": "e"}))
    for tokenizer in (learned, coluber.Tokenizer.bytes(), coluber.Tokenizer.load(with_bos)):
        for again in (pickle.loads(pickle.dumps(tokenizer)), copy.deepcopy(tokenizer)):
            assert again == tokenizer and again.encode(TEXT) == tokenizer.encode(TEXT)
            assert (again.bos_id, again.eos_id) == (tokenizer.bos_id, tokenizer.eos_id)
    assert with_bos and coluber.Tokenizer.load(with_bos).eos_id != learned.eos_id


def test_streaming_is_decoding(learned):
    for tokenizer in (learned, coluber.Tokenizer.bytes()):
        for text in TEXTS:
            decoder = coluber.StreamDecoder(tokenizer)
            pieces = [decoder.feed(id) for id in tokenizer.encode(text)]
            assert "".join(pieces) + decoder.flush() == text
    decoder = coluber.Tokenizer.bytes().stream_decoder()
    assert [decoder.feed(b) for b in "é".encode()] == ["", "é"]
    assert decoder.feed(0xC3) == "" and decoder.flush() == "\ufffd"


def test_refusals(learned, tmp_path):
    for error, call in [
        (TypeError, lambda: learned.encode(3)),
        (TypeError, lambda: learned.encode("a", add_boss=True)),
        (TypeError, lambda: learned.decode("text")),
        (TypeError, lambda: learned.decode(np.ones(2, np.float32))),
        (ValueError, lambda: learned.decode([[1]])),
        (ValueError, lambda: learned.decode([100000])),
        (ValueError, lambda: coluber.Tokenizer.bytes().encode("a", add_bos=True)),
        (ValueError, lambda: learned.encode("\ud800")),
        (ValueError, lambda: learned.token_piece(-1)),
        (FileNotFoundError, lambda: coluber.Tokenizer.load(tmp_path / "gone.json")),
        (ValueError, lambda: coluber.Tokenizer.from_json("{")),
        (TypeError, lambda: coluber.Tokenizer.train()),
        (TypeError, lambda: coluber.Tokenizer.train("a", texts=["a"])),
        (ValueError, lambda: coluber.Tokenizer.train(texts=["a"], vocab_size=3)),
        (ValueError, lambda: coluber.Tokenizer.train(texts=["a"], kind="words")),
        (FileNotFoundError, lambda: coluber.Tokenizer.train(tmp_path / "gone.txt")),
        (TypeError, lambda: coluber.StreamDecoder("bytes")),
    ]:
        with pytest.raises(error):
            call()


def test_prints_itself(learned):
    assert "bpe" in repr(learned) and str(learned.vocab_size) in repr(learned) and "bpe" in learned._repr_html_()
