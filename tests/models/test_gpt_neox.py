"""GPT-NeoX's configurations as published, and as re-saved in newer words."""

from pellucid.models.gpt_neox import GPTNeoXConfig

PYTHIA = {  # pythia-70m's
    "architectures": ["GPTNeoXForCausalLM"], "bos_token_id": 0, "eos_token_id": 0, "hidden_act": "gelu",
    "hidden_size": 512, "initializer_range": 0.02, "intermediate_size": 2048, "layer_norm_eps": 1e-05,
    "max_position_embeddings": 2048, "model_type": "gpt_neox", "num_attention_heads": 8, "num_hidden_layers": 6,
    "rotary_emb_base": 10000, "rotary_pct": 0.25, "tie_word_embeddings": False, "torch_dtype": "float16",
    "use_cache": True, "use_parallel_residual": True, "vocab_size": 50304,
}  # fmt: skip


def test_a_published_config():
    config = GPTNeoXConfig.from_dict(PYTHIA)
    assert config.to_dict() == PYTHIA
    assert (config.partial_rotary_factor, config.rope_theta, config.head_size) == (0.25, 10000, 64)


def test_all_spellings_at_once():
    again = {**PYTHIA, "partial_rotary_factor": 0.25, "rope_theta": 10000, "rope_scaling": None, "is_decoder": True}
    assert GPTNeoXConfig.from_dict(again).to_dict() == again


def test_the_activation_of_the_largest():
    assert GPTNeoXConfig.from_dict({**PYTHIA, "hidden_act": "gelu_fast"}).hidden_act == "gelu_fast"
