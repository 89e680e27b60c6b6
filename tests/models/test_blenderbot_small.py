"""BlenderbotSmall's published configuration, its positions and the norm in its decoder."""

import pytest
import torch

from oracle import ours
from pellucid.errors import ConfigError, InputError
from pellucid.models.blenderbot_small import BlenderbotSmallConfig

SMALL_90M = {  # blenderbot_small-90M's
    "activation_dropout": 0.0, "activation_function": "gelu", "add_bias_logits": False, "add_final_layer_norm": False,
    "architectures": ["BlenderbotForConditionalGeneration"], "attention_dropout": 0.0, "bos_token_id": 1,
    "classif_dropout": 0.0, "classifier_dropout": 0.0, "d_model": 512, "decoder_attention_heads": 16,
    "decoder_ffn_dim": 2048, "decoder_layerdrop": 0.0, "decoder_layers": 8, "decoder_start_token_id": 1,
    "do_blenderbot_90_layernorm": True, "do_sample": False, "dropout": 0.1, "encoder_attention_heads": 16,
    "encoder_ffn_dim": 2048, "encoder_layerdrop": 0.0, "encoder_layers": 8, "eos_token_id": 2,
    "extra_layer_norm": False, "extra_pos_embeddings": 0, "force_bos_token_to_be_generated": False,
    "forced_eos_token_id": 2, "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02, "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "layernorm_variant": "xlm", "length_penalty": 0.65,
    "max_length": 128, "max_position_embeddings": 512, "min_length": 20, "model_type": "blenderbot-small",
    "normalize_before": False, "normalize_embedding": True, "num_beams": 10, "num_hidden_layers": 8,
    "pad_token_id": 0, "scale_embedding": True, "static_position_embeddings": False, "unk_token_id": 3,
    "use_cache": True, "vocab_size": 54944,
}  # fmt: skip


def test_a_published_config():
    config = BlenderbotSmallConfig.from_dict(SMALL_90M)
    assert config.to_dict() == SMALL_90M
    assert (config.max_tokens, config.num_hidden_layers, config.initializer_range) == (512, 8, 0.02)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("normalize_before", True),
        ("normalize_embedding", False),
        ("add_final_layer_norm", True),
        ("static_position_embeddings", True),
        ("activation_function", "glu"),
        ("decoder_attention_heads", 7),
    ],
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=name):
        BlenderbotSmallConfig.from_dict(SMALL_90M | {name: value})


def test_all_positions_are_used():
    model = ours("blenderbot_small", "Model")
    ids = torch.full((1, 40), 7)
    out = model(ids, decoder_input_ids=ids)
    (out.last_hidden_state.sum() + out.encoder_last_hidden_state.square().sum()).backward()
    for half in (model.encoder, model.decoder):
        assert half.embed_positions.num_embeddings == 40 and half.embed_positions.weight.grad.any(-1).all()


def test_a_model_needs_a_target():
    model = ours("blenderbot_small", "Model")
    with pytest.raises(InputError, match="The target is missing: pass decoder_input_ids"):
        model(torch.full((1, 4), 7))
