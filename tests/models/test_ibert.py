"""I-BERT in floating point: what computing in whole numbers needs is left aside."""

import pytest
import torch
from safetensors.torch import load_file

from cases import CASES
from oracle import checkpoint, ours
from pellucid import AutoConfig
from pellucid.errors import ConfigError
from pellucid.models.ibert import IBertConfig

BASE = {  # ibert-roberta-base's
    "architectures": ["IBertForMaskedLM"], "attention_probs_dropout_prob": 0.1, "bos_token_id": 0, "eos_token_id": 2,
    "force_dequant": "none", "gradient_checkpointing": False, "hidden_act": "gelu", "hidden_dropout_prob": 0.1,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05,
    "max_position_embeddings": 514, "model_type": "ibert", "num_attention_heads": 12, "num_hidden_layers": 12,
    "pad_token_id": 1, "position_embedding_type": "absolute", "quant_mode": False, "type_vocab_size": 1,
    "vocab_size": 50265,
}  # fmt: skip


def test_a_published_config():
    assert IBertConfig.from_dict(BASE).to_dict() == BASE


@pytest.mark.parametrize(("name", "value"), [("quant_mode", True), ("hidden_act", "relu")])
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        AutoConfig.for_model("ibert", **CASES["ibert"] | {name: value})


def test_ranges_and_scales_are_neither_read_nor_written(tmp_path):
    held = load_file(checkpoint("ibert", "Model") / "model.safetensors")
    assert "embeddings.LayerNorm.activation.x_max" in held and "embeddings.word_embeddings.weight_integer" in held
    model = ours("ibert", "Model")
    assert all(tensor.dtype == torch.float32 for tensor in model.state_dict().values())
    assert not model.load_report.ignored
    model.save_pretrained(tmp_path)
    assert load_file(tmp_path / "model.safetensors").keys() == model.state_dict().keys()
