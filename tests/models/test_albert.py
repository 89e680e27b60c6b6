"""ALBERT's shared layers."""

import pytest

from cases import CASES
from oracle import ours
from pellucid import AutoConfig
from pellucid.errors import ConfigError
from pellucid.models.albert import AlbertConfig, AlbertModel

BASE = {  # albert-base-v2's
    "architectures": ["AlbertForMaskedLM"], "attention_probs_dropout_prob": 0, "bos_token_id": 2,
    "classifier_dropout_prob": 0.1, "down_scale_factor": 1, "embedding_size": 128, "eos_token_id": 3, "gap_size": 0,
    "hidden_act": "gelu_new", "hidden_dropout_prob": 0, "hidden_size": 768, "initializer_range": 0.02,
    "inner_group_num": 1, "intermediate_size": 3072, "layer_norm_eps": 1e-12, "layers_to_keep": [],
    "max_position_embeddings": 512, "model_type": "albert", "net_structure_type": 0, "num_attention_heads": 12,
    "num_hidden_groups": 1, "num_hidden_layers": 12, "num_memory_blocks": 0, "pad_token_id": 0, "type_vocab_size": 2,
    "vocab_size": 30000,
}  # fmt: skip


def test_a_published_config():
    assert AlbertConfig.from_dict(BASE).to_dict() == BASE


@pytest.mark.parametrize("layers", [1, 12])
def test_layers_cost_nothing(layers):
    settings = {**CASES["albert"], "num_hidden_groups": 1, "num_hidden_layers": layers}
    once = AlbertModel(AlbertConfig.from_dict(settings)).num_parameters()
    assert once == AlbertModel(AlbertConfig.from_dict(settings | {"num_hidden_layers": 1})).num_parameters()


def test_layers_of_a_group_are_one_module():
    assert len(ours("albert", "Model").encoder.albert_layer_groups) == CASES["albert"]["num_hidden_groups"]


@pytest.mark.parametrize(
    ("name", "value"), [("inner_group_num", 2), ("num_hidden_groups", 13), ("num_hidden_groups", 0)]
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        AutoConfig.for_model("albert", **{name: value})
