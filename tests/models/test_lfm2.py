"""LFM2's published configurations, and what they may say."""

import pytest

from pellucid.errors import ConfigError
from pellucid.models.lfm2 import Lfm2Config

FIRST = {  # LFM2-700M's, as released
    "architectures": ["Lfm2ForCausalLM"], "block_auto_adjust_ff_dim": True, "block_dim": 1536, "block_ff_dim": 10240,
    "block_ffn_dim_multiplier": 1.0, "block_mlp_init_scale": 1.0, "block_multiple_of": 256, "block_norm_eps": 1e-05,
    "block_out_init_scale": 1.0, "block_use_swiglu": True, "block_use_xavier_init": True, "bos_token_id": 1,
    "conv_L_cache": 3, "conv_bias": False, "conv_dim": 1536, "conv_dim_out": 1536, "conv_use_xavier_init": True,
    "eos_token_id": 7, "full_attn_idxs": [2, 5, 8, 10, 12, 14], "hidden_size": 1536, "initializer_range": 0.02,
    "max_position_embeddings": 128000, "model_type": "lfm2", "norm_eps": 1e-05, "num_attention_heads": 24,
    "num_heads": 24, "num_hidden_layers": 16, "num_key_value_heads": 8, "pad_token_id": 0, "rope_theta": 1000000.0,
    "torch_dtype": "bfloat16", "transformers_version": "4.54.0.dev0", "use_cache": True, "use_pos_enc": True,
    "vocab_size": 65536,
}  # fmt: skip


def test_published_configs():
    config = Lfm2Config.from_dict(FIRST)
    assert (config.intermediate_size, config.feed_forward_size, config.head_size) == (10240, 6912, 64)
    assert [i for i, kind in enumerate(config.kinds) if kind == "full_attention"] == FIRST["full_attn_idxs"]
    assert config.to_dict() == FIRST
    kinds = ["conv", "full_attention"] * 8
    assert Lfm2Config.from_dict(FIRST | {"layer_types": kinds}).kinds == kinds


def test_the_first_spelling_counts():
    both = FIRST | {"intermediate_size": 6912, "tie_embedding": False, "tie_word_embeddings": True}
    config = Lfm2Config.from_dict(both)
    assert (config.intermediate_size, config.tie_word_embeddings) == (10240, False)
    assert config.to_dict() == both
    again = Lfm2Config.from_dict(config.replace(intermediate_size=3000, tie_word_embeddings=True).to_dict())
    assert (again.intermediate_size, again.tie_word_embeddings) == (3000, True)


def test_the_heads_of_training_do_not_count():
    config = Lfm2Config.from_dict(FIRST | {"num_heads": 16})
    assert config.num_attention_heads == 24
    assert config.to_dict()["num_heads"] == 16


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, r"hidden_size \(30\) is not a multiple of num_attention_heads"),
        ({"num_key_value_heads": 5}, r"num_attention_heads \(32\) is not a multiple of num_key_value_heads \(5\)"),
        ({"conv_L_cache": 0}, "conv_L_cache is 0; expected at least 1 token"),
        ({"layer_types": ["conv"]}, r"layer_types is \['conv'\]; expected 32 of conv and full_attention"),
        ({"full_attn_idxs": [2, 40]}, r"full_attn_idxs is \[2, 40\]; expected some of 32 layers"),
        ({"block_multiple_of": 0}, "block_multiple_of or block_ffn_dim_multiplier is not more than 0"),
        ({"block_ffn_dim_multiplier": 1e9}, "block_ffn_dim_multiplier is not more than 0, or more than 100000000"),
        ({"block_multiple_of": 9 * 10**8}, "feed-forwards would have a size of 900000000; expected 1 to 100000000"),
        ({"use_pos_enc": False}, "use_pos_enc is False; only True is implemented"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        Lfm2Config(**values)


def test_the_size_of_feed_forwards():
    given = {"intermediate_size": 100, "block_multiple_of": 8}
    assert Lfm2Config(**given, block_ffn_dim_multiplier=1.3).feed_forward_size == 88
    assert Lfm2Config(**given, block_ffn_dim_multiplier=None).feed_forward_size == 66
    assert Lfm2Config(**given, block_auto_adjust_ff_dim=False).feed_forward_size == 100
