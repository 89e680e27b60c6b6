"""The ModernBERT decoder's published configurations, and what they may say."""

import pytest

from cases import CASES
from pellucid.errors import ConfigError
from pellucid.models.modernbert_decoder import ModernBertDecoderConfig

ETTIN = {  # of the form of ettin-decoder-17m's
    "architectures": ["ModernBertDecoderForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "bos_token_id": 50281, "causal_mask": True, "classifier_activation": "gelu", "classifier_bias": False,
    "classifier_dropout": 0.0, "classifier_pooling": "mean", "cls_token_id": 50281, "decoder_bias": True,
    "deterministic_flash_attn": False, "embedding_dropout": 0.0, "eos_token_id": 50282,
    "global_attn_every_n_layers": 3, "global_rope_theta": 160000.0, "gradient_checkpointing": False,
    "hidden_activation": "gelu", "hidden_size": 256, "initializer_cutoff_factor": 2.0, "initializer_range": 0.02,
    "intermediate_size": 384, "is_causal": True, "layer_norm_eps": 1e-05, "local_attention": 128,
    "local_rope_theta": 160000.0, "max_position_embeddings": 7999, "mlp_bias": False, "mlp_dropout": 0.0,
    "model_type": "modernbert-decoder", "norm_bias": False, "norm_eps": 1e-05, "num_attention_heads": 4,
    "num_hidden_layers": 7, "pad_token_id": 50283, "position_embedding_type": "sans_pos", "sep_token_id": 50282,
    "sliding_window": 64, "torch_dtype": "float32", "vocab_size": 50368,
}  # fmt: skip


def test_published_configs():
    config = ModernBertDecoderConfig.from_dict(ETTIN)
    assert [kind == "full_attention" for kind in config.kinds] == [True, False, False, True, False, False, True]
    assert (config.head_size, config.max_tokens, config.rope_theta) == (64, None, 160000.0)
    assert config.to_dict() == ETTIN


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_attention_heads": 5}, r"hidden_size \(32\) is not a multiple of num_attention_heads \(5\)"),
        ({"layer_types": ["full_attention"]}, "layer_types is .*; expected 3 times 'full_attention' or 'sliding"),
        ({"global_attn_every_n_layers": 0}, "global_attn_every_n_layers is 0; expected at least 1"),
        ({"local_attention": 1}, "local_attention is 1; expected at least 2"),
        ({"rope_parameters": {"full_attention": {"rope_type": "twice"}}}, "rope_type is 'twice'; expected one of"),
        ({"classifier_activation": "mish"}, "classifier_activation is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        ModernBertDecoderConfig(**CASES["modernbert_decoder"] | values)
