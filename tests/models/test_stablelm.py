"""StableLM's published configurations, and what they may say."""

import pytest

from pellucid.errors import ConfigError
from pellucid.models.stablelm import StableLmConfig

BASE = {  # stablelm-3b-4e1t's
    "architectures": ["StableLmForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "silu",
    "hidden_size": 2560, "initializer_range": 0.02, "intermediate_size": 6912, "layer_norm_eps": 1e-05,
    "max_position_embeddings": 4096, "model_type": "stablelm", "num_attention_heads": 32, "num_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.25, "rope_theta": 10000,
    "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True, "vocab_size": 50304,
}  # fmt: skip


def test_published_configs():
    old = {name: value for name, value in BASE.items() if name not in ("layer_norm_eps", "partial_rotary_factor")}
    for values in (BASE, {**old, "norm_eps": 1e-05, "rope_pct": 0.25, "rotary_scaling_factor": 1.0}):
        config = StableLmConfig.from_dict(values)
        assert (config.head_size, config.partial_rotary_factor, config.layer_norm_eps) == (80, 0.25, 1e-5)
        assert config.to_dict() == values


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, r"hidden_size \(30\) is not a multiple of num_attention_heads"),
        ({"num_key_value_heads": 5}, r"num_attention_heads \(32\) is not a multiple of num_key_value_heads \(5\)"),
        ({"partial_rotary_factor": 0.04}, "3 of 80 dimensions of a head would be rotated"),
        ({"rotary_scaling_factor": 2.0}, "rotary_scaling_factor is 2.0; only 1.0 is implemented"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        StableLmConfig(**values)
