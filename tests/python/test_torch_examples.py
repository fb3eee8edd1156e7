"""The examples with torch learn, and leave what they say."""

import re
import struct
import zlib

import pytest

from torch_support import torch  # skips this file without it

import coluber
from examples import check_help, run_example


@pytest.mark.parametrize("name", ["train_loop", "video"])
def test_help(name):
    check_help(name)


def read_png(path):
    """rows of an 8-bit grey PNG without filters"""
    data, place, parts = path.read_bytes(), 8, {}
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    while place < len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        body = data[place + 8 : place + 8 + size]
        assert struct.unpack(">I", data[place + 8 + size : place + 12 + size])[0] == zlib.crc32(kind + body)
        parts[kind], place = body, place + 12 + size
    width, height, *form = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    assert form == [8, 0, 0, 0, 0] and list(parts) == [b"IHDR", b"IDAT", b"IEND"]
    rows = torch.tensor(list(zlib.decompress(parts[b"IDAT"]))).view(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:]


def test_video(tmp_path):
    learned, still, _ = run_example("video", tmp_path / "shapes.png")
    assert learned < 0.5 * still
    image = read_png(tmp_path / "shapes.png")
    assert image.shape == (3 * 66, 24 * 66)
    truth, predicted, dreamt = image.view(3, 66, -1)
    assert torch.equal(truth[:, :66], predicted[:, :66]) and not torch.equal(truth, predicted)
    given = 13 * 66  # frames that the dream predicts from the truth, or has as they are
    assert (predicted[:, :given] - dreamt[:, :given]).abs().max() <= 1  # of 255: lengths round differently
    assert not torch.equal(predicted[:, given:], dreamt[:, given:])
    frames = [row[1:-1].view(64, 24, 66)[..., 1:-1].transpose(0, 1) / 255 for row in (truth, dreamt)]
    away = [(guess - frames[0][13:17]).square().mean() for guess in (frames[1][13:17], frames[0][12:13])]
    assert away[0] < 0.5 * away[1], away  # four frames of its own are nearer to the truth than a picture that stands


@pytest.mark.parametrize("flags", [(), ("--bf16", "--checkpointing")], ids=["plain", "bf16-checkpointing"])
def test_train_loop(tmp_path, flags):
    learned, chance, text = run_example("train_loop", tmp_path / "copier", *flags)
    assert learned > 0.9 > 5 * chance
    model = coluber.Model.load(tmp_path / "copier")
    read = next(line for line in text.splitlines() if line.startswith("read "))[5:]
    ids = [0 if c == "." else ord(c) - ord("a") + 2 for c in read]
    logits = model.forward(torch.tensor([ids + [1, 1]], dtype=torch.int32))
    said = "".join(chr(ord("a") + i - 2) for i in logits[0, -2:].argmax(-1).tolist())
    assert f"said {said}" in text.splitlines()  # the same without torch


def test_checkpointing_changes_nothing(tmp_path):
    losses = [
        re.findall(r"([\d.]+) nats a letter", run_example("train_loop", tmp_path / "m", "--steps", 30, *flags)[2])
        for flags in ((), ("--checkpointing",), ("--bf16",))
    ]
    assert len(losses[0]) == 10 and losses[0] == losses[1] != losses[2]
