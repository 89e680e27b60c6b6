"""XGLM's published configurations, and positions that no padding token touches."""

import pytest
import torch

from oracle import checkpoint, ours, reference_class
from pellucid.errors import ConfigError
from pellucid.models.xglm import XGLMConfig, XGLMModel

BASE = {  # xglm-564M's
    "activation_dropout": 0, "activation_function": "gelu", "architectures": ["XGLMForCausalLM"],
    "attention_dropout": 0.1, "attention_heads": 16, "bos_token_id": 0, "d_model": 1024, "decoder_start_token_id": 2,
    "dropout": 0.1, "eos_token_id": 2, "ffn_dim": 4096, "init_std": 0.02, "layerdrop": 0.0,
    "max_position_embeddings": 2048, "model_type": "xglm", "num_layers": 24, "pad_token_id": 1, "scale_embedding": True,
    "transformers_version": "4.16.0.dev0", "use_cache": True, "vocab_size": 256008,
}  # fmt: skip


def test_published_configs():
    config = XGLMConfig.from_dict(BASE)
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (1024, 16, 24)
    assert (config.initializer_range, config.max_tokens) == (0.02, None)
    assert config.to_dict() == BASE


def test_another_padding_token_moves_no_position():
    """The original takes its id for a position, whose sines it then forgets."""
    folder, ids = checkpoint("xglm", "Model"), torch.arange(5, 14)[None]
    wanted = ours("xglm", "Model")(ids)[0]
    assert torch.equal(XGLMModel.from_pretrained(folder, pad_token_id=4)(ids)[0], wanted)
    original = reference_class("xglm", "Model").from_pretrained(folder, pad_token_id=4)
    assert not torch.allclose(original(ids)[0], wanted, atol=1e-3)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"d_model": 30, "attention_heads": 4}, r"d_model \(30\) is not a multiple of attention_heads \(4\)"),
        ({"d_model": 33, "attention_heads": 3}, "d_model is 33; expected an even number"),
        ({"activation_function": "mish"}, "activation_function is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        XGLMConfig(**values)
