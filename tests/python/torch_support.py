"""What the tests of the torch bridge share."""

import json
import os
import pathlib
import struct

import pytest

torch = pytest.importorskip("torch", minversion="1.13.0a0", reason="torch 1.13 or newer is not installed")

import coluber


def gpu_reason():
    """Why nothing runs on a GPU here; empty where it does."""
    if coluber.cuda_device_count() == 0:
        return coluber.cuda_unavailable_reason()
    return "" if torch.cuda.is_available() else "this torch has no CUDA"


needs_gpu = pytest.mark.skipif(bool(gpu_reason()), reason=gpu_reason())

# Where golden files are repeated: device, dtype and a bound in the units of error().
PLACES = [
    pytest.param("cpu", torch.float64, 1e-11, id="cpu-f64"),
    pytest.param("cpu", torch.float32, 2e-4, id="cpu-f32"),
    pytest.param("cuda", torch.float32, 2e-4, id="cuda-f32", marks=needs_gpu),
]
in_places = pytest.mark.parametrize("device, dtype, bound", PLACES)

GOLDENS = pathlib.Path(os.environ.get("COLUBER_GOLDENS", pathlib.Path(__file__).parents[1] / "goldens" / "data"))
DTYPES = {"F64": "float64", "F32": "float32", "I32": "int32", "I64": "int64", "U8": "uint8"}


class Goldens:
    """Cases of one golden file, as torch tensors: inputs in double, expected values as they are stored."""

    def __init__(self, name):
        path = GOLDENS / f"{name}.safetensors"
        data = path.read_bytes()
        size = struct.unpack("<Q", data[:8])[0]
        self.header = json.loads(data[8 : 8 + size])
        self.body = memoryview(data)[8 + size :]
        self.metadata = self.header.pop("__metadata__")
        self.cases = json.loads(self.metadata["cases"])

    def options(self, case):
        return json.loads(self.metadata[f"case/{case}"])

    def tensors(self, case, part=""):
        """{name: tensor} of the inputs, or of part "out", "cot" or "grad"."""
        prefix = f"{case}/{part}/" if part else f"{case}/"
        found = {}
        for key, facts in self.header.items():
            name = key[len(prefix) :]
            if not key.startswith(prefix) or (not part and name.split("/")[0] in ("out", "cot", "grad")):
                continue
            begin, end = facts["data_offsets"]
            dtype = getattr(torch, DTYPES[facts["dtype"]])
            tensor = torch.empty(facts["shape"], dtype=dtype)
            if end > begin:
                tensor = torch.frombuffer(bytearray(self.body[begin:end]), dtype=dtype).reshape(facts["shape"])
            found[name] = tensor.double() if tensor.is_floating_point() and part in ("", "cot") else tensor
        return found


def error(got, expected):
    """max |got - expected| / max(|expected|, 1), less what an expected value in float32 was rounded by"""
    assert got.shape == expected.shape
    got, expected = got.cpu(), expected.cpu()
    if got.numel() == 0:
        return 0.0
    if got.is_complex():
        got, expected = torch.view_as_real(got.resolve_conj()), torch.view_as_real(expected)
    rounding = 2**-24 if expected.dtype == torch.float32 and got.dtype == torch.float64 else 0
    got, expected = got.detach().double(), expected.double()
    return max(((got - expected).abs() / expected.abs().clamp(min=1)).max().item() - rounding, 0)


def leaves(*tensors):
    return [None if t is None else t.detach().clone().requires_grad_() for t in tensors]


def backward_of(outputs, cotangents):
    """Gradients into leaves of sum over outputs of sum(out cot)."""
    sum((out * cot.to(out)).sum() for out, cot in zip(outputs, cotangents) if cot is not None).backward()
