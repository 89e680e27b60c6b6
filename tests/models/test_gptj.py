"""GPT-J's configuration as published."""

import pytest

from pellucid.errors import ConfigError
from pellucid.models.gptj import GPTJConfig

SIX = {  # gpt-j-6b's
    "activation_function": "gelu_new", "architectures": ["GPTJForCausalLM"], "attn_pdrop": 0.0,
    "bos_token_id": 50256, "embd_pdrop": 0.0, "eos_token_id": 50256, "gradient_checkpointing": False,
    "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "gptj", "n_embd": 4096, "n_head": 16,
    "n_inner": None, "n_layer": 28, "n_positions": 2048, "resid_pdrop": 0.0, "rotary": True, "rotary_dim": 64,
    "scale_attn_weights": True, "summary_activation": None, "summary_first_dropout": 0.1,
    "summary_proj_to_labels": True, "summary_type": "cls_index", "summary_use_proj": True,
    "tie_word_embeddings": False, "tokenizer_class": "GPT2Tokenizer", "use_cache": True, "vocab_size": 50400,
}  # fmt: skip


def test_a_published_config():
    assert GPTJConfig.from_dict(SIX).to_dict() == SIX


@pytest.mark.parametrize(
    ("name", "value"), [("scale_attn_weights", False), ("rotary_dim", 65), ("rotary_dim", 258), ("n_head", 0)]
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match="rotated" if value == 65 else name):
        GPTJConfig.from_dict(SIX | {name: value})
