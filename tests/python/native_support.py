"""What the tests of models, states, tokenizers, generation and training share."""

import json
import os
import pathlib
import struct
import subprocess
import sys

import numpy as np
import pytest

import coluber

GOLDENS = pathlib.Path(os.environ.get("COLUBER_GOLDENS", pathlib.Path(__file__).parents[1] / "goldens" / "data"))
DTYPES = {"F64": np.float64, "F32": np.float32, "I32": np.int32, "I64": np.int64, "U8": np.uint8}
TEXT = "In the beginning was the word, and the word was with the reader. "


def read_safetensors(path):
    data = pathlib.Path(path).read_bytes()
    size = struct.unpack("<Q", data[:8])[0]
    header, body = json.loads(data[8 : 8 + size]), data[8 + size :]
    return {
        name: np.frombuffer(body[slice(*facts["data_offsets"])], DTYPES[facts["dtype"]]).reshape(facts["shape"])
        for name, facts in header.items()
        if name != "__metadata__" and facts["dtype"] in DTYPES
    }


def small_model(seed=3, **changes):
    """Bytes, two layers of width 16."""
    config = {"d_model": 16, "n_layer": 2, "vocab_size": 256, "d_state": 4, **changes}
    return coluber.Model.create(config, seed=seed, tokenizer="bytes" if config["vocab_size"] >= 256 else None)


def run_program(*arguments):
    """stdout of the command line program as the package has it, with the same kernels: as bytes."""
    done = subprocess.run([sys.executable, "-m", "coluber", *map(str, arguments)], capture_output=True, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return done.stdout


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def model():
    return small_model()
