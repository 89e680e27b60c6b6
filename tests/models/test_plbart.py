"""PLBart's published configuration, and the language tokens that begin its targets."""

import pytest
import torch

from oracle import ours, reference
from pellucid import Layout
from pellucid.errors import ConfigError, InputError
from pellucid.models.plbart import PLBartConfig, shift_right

BASE = {  # plbart-base's
    "_name_or_path": "plbart-base", "activation_dropout": 0.0, "activation_function": "gelu",
    "architectures": ["PLBartForConditionalGeneration"], "attention_dropout": 0.1, "bos_token_id": 0,
    "classifier_dropout": 0.0, "d_model": 768, "decoder_attention_heads": 12, "decoder_ffn_dim": 3072,
    "decoder_layerdrop": 0.0, "decoder_layers": 6, "dropout": 0.1, "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072, "encoder_layerdrop": 0.0, "encoder_layers": 6, "eos_token_id": 2,
    "forced_eos_token_id": 2, "init_std": 0.02, "is_encoder_decoder": True, "max_position_embeddings": 1024,
    "model_type": "plbart", "num_hidden_layers": 6, "pad_token_id": 1, "scale_embedding": True,
    "torch_dtype": "float32", "transformers_version": "4.17.0.dev0", "use_cache": True, "vocab_size": 50005,
}  # fmt: skip


def test_a_published_config():
    config = PLBartConfig.from_dict(BASE)
    assert config.to_dict() == BASE
    assert (config.max_tokens, config.dtype, config.scale_embedding) == (1024, "float32", True)


@pytest.mark.parametrize(
    ("name", "value"),
    [("activation_function", "glu"), ("encoder_attention_heads", 7), ("cross_attention_hidden_size", 8)],
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        PLBartConfig.from_dict(BASE | {name: value})


def test_a_target_begins_with_its_language():
    config = PLBartConfig(pad_token_id=3)
    ids = torch.tensor([[7, 8, 9, 50, -100], [-100, 5, 6, 60, 61]])
    wanted = [[50, 7, 8, 9, 50], [61, 3, 5, 6, 60]]
    assert shift_right(ids, Layout.of(ids), config).tolist() == wanted
    left = Layout.of(ids, (ids != -100).long())
    assert shift_right(ids, left, config)[1].tolist() == [61, 61, 5, 6, 60]  # the first is padding
    packed = shift_right(torch.tensor([[7, 8, 50, 5, 60]]), Layout.packed([3, 2]), config)
    assert packed.tolist() == [[50, 7, 8, 60, 5]]
    with pytest.raises(InputError, match="no pad_token_id"):
        shift_right(ids, left, config.replace(pad_token_id=None))


def test_the_backbone_reads_a_text_twice():
    model, original = ours("plbart", "Model"), reference("plbart", "Model")
    ids = torch.randint(5, 99, (2, 9))
    assert torch.allclose(model(ids).last_hidden_state, original(ids).last_hidden_state, atol=1e-5)
