"""Pickle and copy.deepcopy of what is a value: arrays, states, tokenizers, options of sampling."""

import copyreg
import os
import tempfile

from . import _native
from ._native import Array, SamplingOptions, State, Tokenizer

__all__ = []

_OPTIONS = ("temperature", "top_k", "top_p", "min_p", "repetition_penalty", "greedy", "seed")


def _reduce_array(array):
    plain = array.to("f32") if array.dtype == "bf16" else array  # the buffer protocol has no letter for bf16
    return _make_array, (memoryview(plain).tobytes(), array.shape, plain.dtype, array.dtype)


def _make_array(data, shape, dtype, own_dtype):
    return _native._array_of_bytes(data, shape, dtype).to(own_dtype)


def _reduce_state(state):
    return _make_state, ([(layer.conv, layer.ssm) for layer in state.layers], state.num_tokens)


def _make_state(layers, num_tokens):
    return State.from_layers(layers, num_tokens)


def _reduce_tokenizer(tokenizer):
    if tokenizer.kind == "bytes":
        return _make_tokenizer, ({},)
    with tempfile.TemporaryDirectory(prefix="coluber-") as folder:
        tokenizer.save(folder)
        files = {}
        for name in os.listdir(folder):
            with open(os.path.join(folder, name), "rb") as file:
                files[name] = file.read()
    return _make_tokenizer, (files,)


def _make_tokenizer(files):
    if not files:
        return Tokenizer.bytes()
    with tempfile.TemporaryDirectory(prefix="coluber-") as folder:
        for name, data in files.items():
            with open(os.path.join(folder, os.path.basename(name)), "wb") as file:
                file.write(data)
        return Tokenizer.load(folder)


def _reduce_options(options):
    return _make_options, ({name: getattr(options, name) for name in _OPTIONS},)


def _make_options(values):
    return SamplingOptions(**values)


copyreg.pickle(Array, _reduce_array)
copyreg.pickle(State, _reduce_state)
copyreg.pickle(Tokenizer, _reduce_tokenizer)
copyreg.pickle(SamplingOptions, _reduce_options)
