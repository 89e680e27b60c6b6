"""Which layers of GPT-Neo are local."""

import pytest

from pellucid.errors import ConfigError
from pellucid.models.gpt_neo import GPTNeoConfig

SMALL = {  # gpt-neo-125m's
    "activation_function": "gelu_new", "architectures": ["GPTNeoForCausalLM"], "attention_dropout": 0,
    "attention_layers": ["global", "local"] * 6, "attention_types": [[["global", "local"], 6]],
    "bos_token_id": 50256, "embed_dropout": 0, "eos_token_id": 50256, "gradient_checkpointing": False,
    "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": None, "layer_norm_epsilon": 1e-05,
    "max_position_embeddings": 2048, "model_type": "gpt_neo", "num_heads": 12, "num_layers": 12, "resid_dropout": 0,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "use_cache": True, "vocab_size": 50257,
    "window_size": 256,
}  # fmt: skip


def test_a_published_config():
    config = GPTNeoConfig.from_dict(SMALL)
    assert config.to_dict() == SMALL
    assert config.kinds == SMALL["attention_layers"]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"attention_types": [[["global"], 10**9]]}, "are of 1000000000 layers, num_layers is 12"),
        ({"attention_types": [["global", 12]]}, "attention_types"),
        ({"attention_types": [[["global", "near"], 6]]}, "attention_types"),
        ({"attention_types": "local"}, "attention_types"),
        ({"attention_types": [[["local"], 12]]}, "attention_layers"),
        ({"window_size": 0}, "window_size"),
        ({"num_heads": 7}, "num_heads"),
    ],
)
def test_what_can_not_be_is_refused(changed, message):
    with pytest.raises(ConfigError, match=message):
        GPTNeoConfig.from_dict(SMALL | changed)
