"""GPT-BigCode's published configurations, and what they may say."""

import pytest

from pellucid.errors import ConfigError
from pellucid.models.gpt_bigcode import GPTBigCodeConfig

STARCODER = {
    "activation_function": "gelu", "architectures": ["GPTBigCodeForCausalLM"], "attention_softmax_in_fp32": True,
    "attn_pdrop": 0.1, "bos_token_id": 0, "embd_pdrop": 0.1, "eos_token_id": 0, "inference_runner": 0,
    "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "max_batch_size": None, "max_sequence_length": None,
    "model_type": "gpt_bigcode", "multi_query": True, "n_embd": 6144, "n_head": 48, "n_inner": 24576, "n_layer": 40,
    "n_positions": 8192, "pad_key_length": True, "pre_allocate_kv_cache": False, "resid_pdrop": 0.1,
    "scale_attention_softmax_in_fp32": True, "scale_attn_weights": True, "summary_activation": None,
    "summary_first_dropout": 0.1, "summary_proj_to_labels": True, "summary_type": "cls_index",
    "summary_use_proj": True, "torch_dtype": "bfloat16", "transformers_version": "4.28.1", "use_cache": True,
    "validate_runner_input": True, "vocab_size": 49152,
}  # fmt: skip


def test_published_configs():
    config = GPTBigCodeConfig.from_dict(STARCODER)
    assert (config.hidden_size, config.key_heads, config.max_tokens) == (6144, 1, 8192)
    assert config.to_dict() == STARCODER


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"n_embd": 30, "n_head": 4}, r"n_embd \(30\) is not a multiple of n_head \(4\)"),
        ({"num_key_value_heads": 3}, "num_key_value_heads is 3; with multi_query True expected 1"),
        (
            {"num_key_value_heads": 1, "multi_query": False},
            "num_key_value_heads is 1; with multi_query False expected 12",
        ),
        ({"add_cross_attention": True}, "add_cross_attention is True; only False is implemented"),
        ({"activation_function": "mish"}, "activation_function is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        GPTBigCodeConfig(**values)
