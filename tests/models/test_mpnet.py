"""MPNet's relative positions in texts longer than the first buckets."""

import pytest
import torch
import transformers

from cases import CASES
from oracle import checkpoint, ours
from pellucid import AutoConfig, Layout
from pellucid.errors import ArgumentError, ConfigError
from pellucid.models.mpnet import MPNetConfig, distance_buckets

BASE = {  # all-mpnet-base-v2's
    "_name_or_path": "microsoft/mpnet-base", "architectures": ["MPNetForMaskedLM"], "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 768,
    "initializer_range": 0.02, "intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 514,
    "model_type": "mpnet", "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1,
    "relative_attention_num_buckets": 32, "transformers_version": "4.8.2", "vocab_size": 30527,
}  # fmt: skip


def test_a_published_config():
    config = MPNetConfig.from_dict(BASE)
    assert config.max_tokens == 512 and config.to_dict() == BASE


def test_buckets():
    buckets = distance_buckets(300, 32, torch.device("cpu"))
    assert buckets[0, :9].tolist() == [0, 17, 18, 19, 20, 21, 22, 23, 24]  # ahead, one by one
    assert buckets[:9, 0].tolist() == list(range(9))  # back
    assert buckets[0, [16, 128, 299]].tolist() == [26, 31, 31]


def test_long_texts():
    settings = {**CASES["mpnet"], "max_position_embeddings": 42}
    original = transformers.MPNetModel(transformers.MPNetConfig(**settings)).eval()
    original.load_state_dict(ours("mpnet", "Model").state_dict())
    own = ours("mpnet", "Model")
    places = torch.arange(200)[None] % 40 + 2  # the table of the small model is short, the buckets' range is not
    ids = torch.randint(5, 99, (1, 200))
    mine = own(input_ids=ids, position_ids=places).last_hidden_state
    assert torch.allclose(mine, original(input_ids=ids, position_ids=places).last_hidden_state, atol=1e-5)
    packed = own(
        input_ids=torch.cat([ids[:, :30], ids], dim=1),
        position_ids=torch.cat([places[:, :30], places], dim=1),
        attention_mask=Layout.packed([30, 200]),
    )
    assert torch.allclose(packed.last_hidden_state[:, 30:], mine, atol=1e-5)


def test_positions_begin_at_2_whatever_the_padding_id():
    config = transformers.MPNetConfig(**CASES["mpnet"], pad_token_id=7)
    original = transformers.MPNetModel.from_pretrained(checkpoint("mpnet", "Model"), config=config).eval()
    ids = torch.arange(10, 30)[None]
    mine = ours("mpnet", "Model", pad_token_id=7)(ids).last_hidden_state
    assert torch.allclose(mine, original(ids).last_hidden_state, atol=1e-5)


def test_there_are_no_token_types():
    with pytest.raises(ArgumentError, match="token_type_ids"):
        ours("mpnet", "Model")(torch.ones(1, 3, dtype=torch.long), token_type_ids=torch.zeros(1, 3, dtype=torch.long))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("relative_attention_num_buckets", 2),
        ("max_position_embeddings", 2),
        ("position_embedding_type", "relative_key"),
    ],
)
def test_what_is_impossible_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        AutoConfig.for_model("mpnet", **{name: value})
