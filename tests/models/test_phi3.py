"""Phi-3's configurations as published."""

import pytest

from pellucid.errors import ConfigError
from pellucid.models.phi3 import Phi3Config, Phi3Model
from pellucid.rope import Rope

MINI = {  # Phi-3-mini-4k-instruct's
    "architectures": ["Phi3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "auto_map": {"AutoConfig": "configuration_phi3.Phi3Config"}, "bos_token_id": 1, "embd_pdrop": 0.0,
    "eos_token_id": 32000, "hidden_act": "silu", "hidden_size": 3072, "initializer_range": 0.02,
    "intermediate_size": 8192, "max_position_embeddings": 4096, "model_type": "phi3", "num_attention_heads": 32,
    "num_hidden_layers": 32, "num_key_value_heads": 32, "original_max_position_embeddings": 4096,
    "pad_token_id": 32000, "resid_pdrop": 0.0, "rms_norm_eps": 1e-05, "rope_scaling": None, "rope_theta": 10000.0,
    "sliding_window": 2047, "tie_word_embeddings": False, "torch_dtype": "bfloat16", "use_cache": True,
    "vocab_size": 32064,
}  # fmt: skip
FOUR = {  # of Phi-4-mini-instruct, what is different
    **MINI, "full_attn_mod": 1, "interpolate_factor": 1, "lm_head_bias": False, "max_position_embeddings": 131072,
    "mlp_bias": False, "num_attention_heads": 24, "num_key_value_heads": 8, "partial_rotary_factor": 0.75,
    "rope_scaling": {"long_factor": [2.0] * 48, "short_factor": [1.0] * 48, "type": "longrope"},
    "sliding_window": 262144, "tie_word_embeddings": True, "vocab_size": 200064,
}  # fmt: skip


def test_published_configs():
    assert Phi3Config.from_dict(MINI).to_dict() == MINI
    config = Phi3Config.from_dict(FOUR)
    assert config.to_dict() == FOUR
    rope = Rope.of(config, config.head_size)
    assert (rope.size, rope.trained, rope.longest) == (96, 4096, 131072)


@pytest.mark.parametrize(
    ("name", "value"),
    [("attention_bias", True), ("lm_head_bias", True), ("mlp_bias", True), ("sliding_window", 0), ("hidden_act", "no")],
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        Phi3Config.from_dict(MINI | {name: value})


def test_the_window_counts_the_token_itself():
    values = MINI | {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": 4, "num_hidden_layers": 1}
    assert Phi3Model(Phi3Config.from_dict(values | {"sliding_window": 7})).layers[0].self_attn.window == 6
