"""StarCoder2's published configurations, and what they may say."""

import pytest

from pellucid.errors import ConfigError
from pellucid.models.starcoder2 import Starcoder2Config

SMALL = {  # starcoder2-3b's
    "architectures": ["Starcoder2ForCausalLM"], "attention_dropout": 0.1, "bos_token_id": 0, "embedding_dropout": 0.1,
    "eos_token_id": 0, "hidden_act": "gelu_pytorch_tanh", "hidden_size": 3072, "initializer_range": 0.018042,
    "intermediate_size": 12288, "max_position_embeddings": 16384, "mlp_type": "default", "model_type": "starcoder2",
    "norm_epsilon": 1e-05, "norm_type": "layer_norm", "num_attention_heads": 24, "num_hidden_layers": 30,
    "num_key_value_heads": 2, "residual_dropout": 0.1, "rope_theta": 999999.4420358813, "sliding_window": 4096,
    "torch_dtype": "bfloat16", "use_bias": True, "use_cache": True, "vocab_size": 49152,
}  # fmt: skip


def test_published_configs():
    config = Starcoder2Config.from_dict(SMALL)
    assert (config.head_size, config.key_heads, config.tie_word_embeddings, config.max_tokens) == (128, 2, True, None)
    assert config.to_dict() == SMALL


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, r"hidden_size \(30\) is not a multiple of num_attention_heads"),
        ({"num_key_value_heads": 5}, r"num_attention_heads \(24\) is not a multiple of num_key_value_heads \(5\)"),
        ({"sliding_window": 0}, "sliding_window is 0; expected at least 1 token, or null"),
        ({"norm_type": "rms_norm"}, "norm_type is 'rms_norm'; only 'layer_norm' is implemented"),
        ({"mlp_type": "gated"}, "mlp_type is 'gated'; only 'default' is implemented"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        Starcoder2Config(**values)
