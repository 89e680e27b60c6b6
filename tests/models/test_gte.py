"""GTE under its authors' name, "new", and its slowed rotations."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracle import checkpoint, ours
from pellucid import AutoConfig, AutoModel, AutoModelForMaskedLM, AutoModelForSequenceClassification
from pellucid.errors import ConfigError
from pellucid.models.gte import NewConfig

OWN = {  # as gte-multilingual-base spells it, but small
    "attention_probs_dropout_prob": 0.0, "classifier_dropout": 0.0, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 32, "initializer_range": 0.02, "intermediate_size": 37, "layer_norm_eps": 1e-12,
    "layer_norm_type": "layer_norm", "logn_attention_clip1": False, "logn_attention_scale": False,
    "max_position_embeddings": 40, "model_type": "new", "num_attention_heads": 4, "num_hidden_layers": 2,
    "pack_qkv": True, "pad_token_id": 1, "position_embedding_type": "rope", "rope_theta": 160000.0,
    "type_vocab_size": 2, "unpad_inputs": False, "use_memory_efficient_attention": True, "vocab_size": 99,
}  # fmt: skip


@pytest.mark.parametrize(
    ("auto", "head"),
    [(AutoModelForMaskedLM, "ForMaskedLM"), (AutoModelForSequenceClassification, "ForSequenceClassification")],
)
def test_the_authors_name(auto, head, tmp_path):
    ids = torch.arange(5, 25)[None]
    tensors = load_file(checkpoint("gte", head) / "model.safetensors")
    tensors = {name.replace("gte.", "new."): tensor for name, tensor in tensors.items()}
    save_file(tensors, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(OWN | {"num_labels": 3 if "Sequence" in head else 2}))
    model = auto.from_pretrained(tmp_path)
    assert type(model).__name__ == f"New{head}"
    assert torch.equal(model(ids).logits, ours("gte", head)(ids).logits)
    model.save_pretrained(tmp_path / "saved")
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == tensors.keys()
    assert json.loads((tmp_path / "saved" / "config.json").read_text()).items() >= OWN.items()
    assert model.base_model(ids).keys() == (["last_hidden_state"] + ["pooler_output"] * ("Sequence" in head))


def test_slowed_rotations():
    """A base times s, at positions divided by s to the power of 2 / D: https://kexue.fm/archives/9706, (6)."""
    ids, places = torch.arange(5, 25)[None], torch.arange(20)[None]
    slowed = ours("gte", "Model", rope_theta=20000.0, rope_scaling={"type": "ntk", "factor": 8.0}, rope_parameters=None)
    plain = ours("gte", "Model")(ids, position_ids=places / 8 ** (2 / 8)).last_hidden_state  # a base of 160000
    assert torch.allclose(slowed(ids).last_hidden_state, plain, atol=1e-5)
    assert not torch.allclose(ours("gte", "Model")(ids).last_hidden_state, plain, atol=1e-3)


def test_without_token_types():
    ids = torch.arange(5, 25)[None]
    model = AutoModel.from_config(NewConfig.from_dict(OWN | {"type_vocab_size": 0})).eval()
    assert torch.equal(model(ids)[0], model(ids, token_type_ids=torch.ones_like(ids))[0])


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("logn_attention_scale", True),
        ("layer_norm_type", "rms_norm"),
        ("rope_scaling", {"type": "ntk", "factor": 8.0, "mixed_b": 0.6}),
        ("rope_scaling", {"type": "ntk"}),
        ("rope_parameters", {"rope_type": "yarn", "factor": 8.0}),
    ],
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} is"):
        AutoConfig.for_model("gte", **{name: value})
