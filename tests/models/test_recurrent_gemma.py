"""RecurrentGemma's published configuration, and what it may say."""

import pytest
import torch
import torch.nn.functional as F

from pellucid.errors import ConfigError
from pellucid.models.recurrent_gemma import RecurrentGemmaConfig, RecurrentGemmaModel

FIRST = {  # RecurrentGemma-2B's
    "_block_types": ["recurrent", "recurrent", "attention"], "architectures": ["RecurrentGemmaForCausalLM"],
    "attention_bias": False, "attention_dropout": 0.0, "attention_window_size": 2048, "bos_token_id": 2,
    "conv1d_width": 4, "embeddings_scale_by_sqrt_dim": True, "eos_token_id": 1,
    "final_w_init_variance_scale": 0.07692307692307693, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2560, "intermediate_size": 15360, "logits_soft_cap": 30.0, "lru_width": 2560,
    "model_type": "recurrent_gemma", "num_attention_heads": 10, "num_hidden_layers": 26, "num_key_value_heads": 1,
    "pad_token_id": 0, "partial_rotary_factor": 0.5, "rms_norm_eps": 1e-06, "rope_theta": 10000.0,
    "torch_dtype": "float32", "use_cache": True, "vocab_size": 256000, "w_init_variance_scale": 0.01,
}  # fmt: skip


def test_published_config():
    config = RecurrentGemmaConfig.from_dict(FIRST)
    assert (config.kinds, config.width, config.head_size, config.key_heads) == (FIRST["_block_types"], 2560, 256, 1)
    assert config.to_dict() == FIRST


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"block_types": []}, r"block_types is \[\]; expected a list of 'recurrent' and 'attention'"),
        ({"block_types": ["mamba"]}, r"block_types is \['mamba'\]"),
        ({"lru_width": 12}, r"lru_width \(12\) is not a multiple of num_attention_heads \(10\)"),
        ({"hidden_size": 12, "lru_width": 10}, r"hidden_size \(12\) is not a multiple of num_attention_heads \(10\)"),
        ({"num_key_value_heads": 3}, r"num_attention_heads \(10\) is not a multiple of num_key_value_heads \(3\)"),
        ({"logits_soft_cap": 0.0}, "logits_soft_cap is 0.0; expected more than 0"),
        ({"embeddings_scale_by_sqrt_dim": False}, "only True is implemented"),
        ({"hidden_activation": "swoosh"}, "hidden_activation is 'swoosh'"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        RecurrentGemmaConfig(**values)


def test_new_channels_fade_slowly():
    model = RecurrentGemmaModel(
        RecurrentGemmaConfig(
            vocab_size=9, hidden_size=64, intermediate_size=64, num_attention_heads=4, num_hidden_layers=1
        )
    )
    unit = model.layers[0].temporal_block.rg_lru
    decay = torch.exp(-F.softplus(unit.recurrent_param))
    assert 0.9 <= decay.min() < decay.max() <= 0.999
    assert bool((model.final_norm.weight == 0).all()) and bool((unit.input_gate_bias == 0).all())
    assert 0.01 < unit.input_gate_weight.std() < 0.05
