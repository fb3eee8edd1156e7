"""What Coluber saves, others load: transformers its own layout, torch.load the published one; and streamers."""

import pytest
import torch

import coluber
from coluber.torch import MambaConfig, MambaLMHeadModel

IDS = [[3, 1, 4, 1, 5, 9, 2, 6]]


def tiny():
    return coluber.Model.create({"d_model": 32, "n_layer": 2, "vocab_size": 40}, seed=3)


def logits_of(model):
    return torch.from_dlpack(model.forward(coluber.array(torch.tensor(IDS))))


@pytest.mark.parametrize("safetensors", [True, False])
def test_transformers_loads_its_layout(tmp_path, safetensors):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    model = tiny()
    model.save(str(tmp_path), layout="mamba", safetensors=safetensors)
    theirs = transformers.MambaForCausalLM.from_pretrained(str(tmp_path)).eval()
    with torch.no_grad():
        want = theirs(torch.tensor(IDS)).logits
    torch.testing.assert_close(logits_of(model)[..., : want.shape[-1]], want, rtol=0, atol=1e-4)


def test_torch_loads_the_published_layout(tmp_path):
    model = tiny()
    model.save(str(tmp_path), layout="state_spaces", safetensors=False)
    weights = torch.load(str(tmp_path / "pytorch_model.bin"))
    module = MambaLMHeadModel(MambaConfig(d_model=32, n_layer=2, vocab_size=40))
    module.load_state_dict(weights)
    torch.testing.assert_close(module(torch.tensor(IDS)).logits, logits_of(model), rtol=0, atol=1e-4)


class Recorder:
    def __init__(self):
        self.pieces, self.ends = [], 0

    def put(self, value):
        self.pieces.append(value.reshape(-1))

    def end(self):
        self.ends += 1


def test_a_streamer_gets_the_prompt_and_every_token():
    torch.manual_seed(0)
    module = MambaLMHeadModel(MambaConfig(d_model=32, n_layer=2, vocab_size=40))
    streamer = Recorder()
    out = module.generate(torch.tensor(IDS), max_length=20, streamer=streamer)
    assert out.shape == (1, 20) and streamer.ends == 1
    assert torch.equal(torch.cat(streamer.pieces), out[0])
