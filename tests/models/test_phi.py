"""Phi's configuration as published."""

from pellucid.models.phi import PhiConfig
from pellucid.rope import Rope

TWO = {  # phi-2's
    "architectures": ["PhiForCausalLM"], "attention_dropout": 0.0, "bos_token_id": 50256, "embd_pdrop": 0.0,
    "eos_token_id": 50256, "hidden_act": "gelu_new", "hidden_size": 2560, "initializer_range": 0.02,
    "intermediate_size": 10240, "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "model_type": "phi",
    "num_attention_heads": 32, "num_hidden_layers": 32, "num_key_value_heads": 32, "partial_rotary_factor": 0.4,
    "qk_layernorm": False, "resid_pdrop": 0.1, "rope_scaling": None, "rope_theta": 10000.0,
    "tie_word_embeddings": False, "torch_dtype": "float16", "use_cache": True, "vocab_size": 51200,
}  # fmt: skip


def test_a_published_config():
    config = PhiConfig.from_dict(TWO)
    assert config.to_dict() == TWO
    assert (config.head_size, Rope.of(config, config.head_size).size) == (80, 32)
