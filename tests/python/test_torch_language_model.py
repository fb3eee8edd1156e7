"""coluber.torch's language model: checkpoints, golden files, generation."""

import json
import shutil

import pytest
from torch_support import GOLDENS, Goldens, error, torch

from coluber import torch as ct

LM = Goldens("lm_state_spaces")
MAMBA1 = ["ss_mamba1", "ss_mamba1_layernorm_untied"]


@pytest.mark.parametrize("case", MAMBA1)
def test_language_model_goldens(case, tmp_path):
    folder = GOLDENS / LM.options(case)["checkpoint"]
    model = ct.MambaLMHeadModel.from_pretrained(folder)
    inputs, expected, grads = LM.tensors(case), LM.tensors(case, "out"), LM.tensors(case, "grad")
    ids = inputs["input_ids"].long()
    logits = model(ids).logits
    assert error(logits, expected["logits"]) < 1e-4
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    assert error(loss, expected["loss"].reshape(())) < 1e-5
    loss.backward()
    parameters = dict(model.named_parameters())
    assert grads.keys() == parameters.keys()
    for name, grad in grads.items():
        assert error(parameters[name].grad, grad) < 1e-4, name
    generated = expected["generated"].long()
    prompt = LM.options(case)["generate_prompt_tokens"]
    assert torch.equal(model.generate(ids[:, :prompt], max_length=generated.shape[1]), generated)
    model.save_pretrained(tmp_path)
    again = ct.MambaLMHeadModel.from_pretrained(tmp_path)
    assert torch.equal(again(ids).logits, logits)


@pytest.mark.parametrize("folder", ["hf_mamba", "hf_mamba_sharded"])
def test_hugging_face_layout(folder):
    goldens = Goldens("lm_transformers")
    path = GOLDENS / "checkpoints" / folder
    if not path.exists():
        pytest.skip("checkpoint not among the goldens here")
    model = ct.MambaLMHeadModel.from_pretrained(path, dtype=torch.float64)
    ids, expected = goldens.tensors(folder)["input_ids"].long(), goldens.tensors(folder, "out")
    assert error(model.double()(ids).logits, expected["logits"]) < 1e-9


@pytest.mark.parametrize("fast", [True, False])
def test_falcon_mamba(fast, tmp_path):
    goldens, case = Goldens("lm_transformers"), "hf_falcon_mamba"
    path = GOLDENS / "checkpoints" / case
    if not path.exists():
        pytest.skip("checkpoint not among the goldens here")
    expected, grads = goldens.tensors(case, "out"), goldens.tensors(case, "grad")
    ids = goldens.tensors(case)["input_ids"].long()
    model = ct.MambaLMHeadModel.from_pretrained(path, dtype=torch.float64)
    model.double()
    for layer in model.backbone.layers:
        assert layer.mixer.norm_dt_B_C_eps == json.loads((path / "config.json").read_text())["mixer_rms_eps"]
        layer.mixer.use_fast_path = fast
    logits = model(ids).logits
    assert error(logits, expected["logits"]) < 1e-9
    loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), ids[:, 1:].flatten())
    loss.backward(retain_graph=True)
    once = model.backbone.layers[0].mixer.x_proj.weight.grad.clone()
    parameters = dict(model.named_parameters())
    assert len(grads) > 10
    for name, grad in grads.items():
        name = name.replace("embeddings", "embedding")
        assert error(parameters[name].grad.reshape(grad.shape), grad) < 1e-8, name
    loss.backward()  # the tape was played: forward is run again for this one
    assert error(model.backbone.layers[0].mixer.x_proj.weight.grad, 2 * once) < 1e-12
    generated = model.generate(ids[:, :5], max_length=29)  # a step a token, from the state
    assert torch.equal(generated, _generated_by_whole_forwards(model, ids[:, :5], 29))
    with pytest.raises(NotImplementedError, match="state-spaces layout cannot say"):
        model.save_pretrained(tmp_path)
    assert not list(tmp_path.iterdir())


def _generated_by_whole_forwards(model, ids, length):
    with torch.no_grad():
        while ids.shape[1] < length:
            ids = torch.cat([ids, model(ids).logits[:, -1:].argmax(-1)], 1)
    return ids


def test_epsilon_of_dt_B_C_must_be_positive():
    with pytest.raises(ValueError, match="norm_dt_B_C_eps: expected more than 0"):
        ct.Mamba(8, norm_dt_B_C_eps=0.0)
    assert ct.Mamba(8, n_layer=2, norm_dt_B_C_eps=0.1).layers[1].mixer.norm_dt_B_C_eps == 0.1


def test_epsilon_of_the_file(tmp_path):
    folder = GOLDENS / "checkpoints" / "hf_mamba"
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "layer_norm_epsilon": 0.5}))
    model, usual = (ct.MambaLMHeadModel.from_pretrained(p) for p in (tmp_path / "model", folder))
    assert model.backbone.norm_f.eps == model.backbone.layers[0].norm.eps == 0.5
    ids = torch.arange(5).unsqueeze(0)
    assert not torch.allclose(model(ids).logits, usual(ids).logits, rtol=0.1)


def test_generate():
    torch.manual_seed(7)
    config = ct.MambaConfig(d_model=32, n_layer=2, vocab_size=30)
    model = ct.MambaLMHeadModel(config).eval()
    ids = torch.randint(0, 30, (3, 20))
    expected = model(ids).logits
    out = model.generate(
        ids[:, :10], max_length=20, output_scores=True, return_dict_in_generate=True, teacher_outputs=ids, cg=True
    )
    assert error(torch.stack(out.scores, 1), expected[:, 9:-1]) < 1e-4
    assert torch.equal(out.sequences, ids)
    torch.manual_seed(0)
    drawn = model.generate(ids[:, :3], max_length=12, top_k=5, top_p=0.9, temperature=0.8, vocab_size=30)
    assert drawn.shape == (3, 12) and int(drawn.max()) < 30
    sure = model.generate(ids[:, :3], max_length=12, top_k=0, min_p=1.0)
    assert torch.equal(sure, model.generate(ids[:, :3], max_length=12))
    plain = model.generate(ids[:1, :3], max_length=30)
    penalised = model.generate(ids[:1, :3], max_length=30, repetition_penalty=5.0)
    assert penalised.unique().numel() > plain.unique().numel()
    stopped = model.generate(ids[:1, :3], max_length=30, eos_token_id=int(plain[0, 5]))
    assert stopped.shape[1] <= 6


@pytest.mark.parametrize("rms_norm", [True, False])
def test_fused_norms_and_mlp(rms_norm):
    torch.manual_seed(9)
    make = lambda fused: ct.MambaLMHeadModel(  # noqa: E731
        ct.MambaConfig(
            d_model=16, d_intermediate=32, n_layer=2, vocab_size=20, rms_norm=rms_norm, fused_add_norm=fused,
            tie_embeddings=False,
        )
    )
    fused, plain = make(True), make(False)
    plain.load_state_dict(fused.state_dict())
    ids = torch.randint(0, 20, (2, 7))
    assert error(fused(ids).logits, plain(ids).logits) < 1e-5
    assert fused(ids, num_last_tokens=2).logits.shape == (2, 2, 24)
    mlp, x = fused.backbone.layers[0].mlp, torch.randn(3, 16)
    value, gate = torch.split(x @ mlp.fc1.weight.t(), 128, dim=-1)  # 32 hidden features, rounded up to 128
    assert error(mlp(x), torch.nn.functional.silu(gate) * value @ mlp.fc2.weight.t()) < 1e-5
    assert {"backbone.layers.0.mlp.fc1.weight", "backbone.layers.1.norm2.weight"} <= fused.state_dict().keys()
