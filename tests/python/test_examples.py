"""The examples without torch learn, and leave what they say."""

import re
import wave
import xml.etree.ElementTree

import numpy as np
import pytest

from examples import check_help, run_example


@pytest.mark.parametrize("name", ["audio", "numpy_only"])
def test_help(name):
    check_help(name)


def test_numpy_only(tmp_path):
    learned, fixed, text = run_example("numpy_only", tmp_path / "filter.svg")
    assert learned < 0.1 * fixed
    kept, at_mark = map(float, re.findall(r"keeps ([\d.]+) of its state a step, ([\d.]+) at a mark", text)[-1])
    assert kept > 0.95 and at_mark < 0.2  # it has become a gate
    lines = xml.etree.ElementTree.parse(tmp_path / "filter.svg").getroot().findall("{*}polyline")
    assert [len(line.get("points").split()) for line in lines] == [128] * 4  # stream, wanted, two filters


def test_audio(tmp_path):
    learned, levels, text = run_example("audio", tmp_path / "speech.wav", "--voice", "formants")
    pairs = float(re.search(r"of pairs of levels ([\d.]+)", text)[1])
    assert learned < levels - 1 and learned < pairs - 0.5
    with wave.open(str(tmp_path / "speech.wav")) as file:
        assert (file.getframerate(), file.getnchannels(), file.getsampwidth()) == (8000, 1, 2)
        samples = np.frombuffer(file.readframes(file.getnframes()), "<i2")
    assert len(samples) == 10000  # 8000 of speech, 2000 written
    assert samples[8000:].std() > 100  # it did not fall silent


def test_audio_is_the_same_again(tmp_path):
    for name in ("a.wav", "b.wav"):
        run_example("audio", tmp_path / name, "--voice", "formants", "--steps", 5)
    assert (tmp_path / "a.wav").read_bytes() == (tmp_path / "b.wav").read_bytes()
