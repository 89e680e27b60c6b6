"""BLOOM's slopes, and its configuration as published."""

import pytest

from pellucid.models.bloom import BloomConfig, alibi_slopes

SMALL = {  # bloom-560m's
    "apply_residual_connection_post_layernorm": False, "architectures": ["BloomForCausalLM"],
    "attention_dropout": 0.0, "attention_softmax_in_fp32": True, "bias_dropout_fusion": True, "bos_token_id": 1,
    "eos_token_id": 2, "hidden_dropout": 0.0, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05,
    "masked_softmax_fusion": True, "model_type": "bloom", "n_embed": 1024, "n_inner": None, "n_layer": 24,
    "num_attention_heads": 16, "offset_alibi": 100, "pad_token_id": 3, "pretraining_tp": 1, "skip_bias_add": True,
    "skip_bias_add_qkv": False, "unk_token_id": 0, "use_cache": True, "vocab_size": 250880,
}  # fmt: skip


def test_a_published_config():
    config = BloomConfig.from_dict(SMALL)
    assert config.to_dict() == SMALL
    assert (config.hidden_size, config.n_layer, config.n_head) == (1024, 24, 16)


@pytest.mark.parametrize(
    ("heads", "exponents"),
    [(1, [8]), (2, [4, 8]), (3, [4, 8, 2]), (4, [2, 4, 6, 8]), (6, [2, 4, 6, 8, 1, 3]), (8, range(1, 9))],
)
def test_slopes_of_the_paper(heads, exponents):
    assert alibi_slopes(heads) == pytest.approx([2.0**-i for i in exponents])
