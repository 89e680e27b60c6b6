"""BioGPT's published configuration, whose epsilon the model was not trained with."""

import pytest
import torch

from oracle import checkpoint, ours
from pellucid.errors import ConfigError
from pellucid.models.biogpt import BioGptConfig, BioGptModel

BASE = {  # biogpt's
    "activation_dropout": 0.0, "architectures": ["BioGptForCausalLM"], "attention_probs_dropout_prob": 0.1,
    "bos_token_id": 0, "eos_token_id": 2, "hidden_act": "gelu", "hidden_dropout_prob": 0.1, "hidden_size": 1024,
    "initializer_range": 0.02, "intermediate_size": 4096, "layer_norm_eps": 1e-12, "layerdrop": 0.0,
    "max_position_embeddings": 1024, "model_type": "biogpt", "num_attention_heads": 16, "num_hidden_layers": 24,
    "pad_token_id": 1, "scale_embedding": True, "torch_dtype": "float32", "transformers_version": "4.25.0.dev0",
    "use_cache": True, "vocab_size": 42384,
}  # fmt: skip


def test_published_configs():
    config = BioGptConfig.from_dict(BASE)
    assert config.max_tokens == 1024
    assert config.to_dict() == BASE


def test_the_epsilon_of_the_file_has_no_effect():
    ids = torch.arange(5, 14)[None]
    other = BioGptModel.from_pretrained(checkpoint("biogpt", "Model"), layer_norm_eps=1.0)
    assert torch.equal(other(ids)[0], ours("biogpt", "Model")(ids)[0])


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"hidden_size": 30, "num_attention_heads": 4}, r"hidden_size \(30\) is not a multiple of num_attention_heads"),
        ({"add_cross_attention": True}, "add_cross_attention is True; only False is implemented"),
        ({"hidden_act": "mish"}, "hidden_act is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        BioGptConfig(**values)
