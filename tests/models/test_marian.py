"""Marian's published configurations, vocabularies of each side's own, and positions far from the beginning."""

import pytest
import torch

from oracle import checkpoint, ours, reference
from pellucid.auto import AutoModelForSeq2SeqLM
from pellucid.errors import ConfigError
from pellucid.models.marian import MarianConfig, MarianForCausalLM, MarianMTModel, sinusoids

BASE = {  # opus-mt-en-de's
    "_name_or_path": "/tmp/Helsinki-NLP/opus-mt-en-de", "_num_labels": 3, "activation_dropout": 0.0,
    "activation_function": "swish", "add_bias_logits": False, "add_final_layer_norm": False,
    "architectures": ["MarianMTModel"], "attention_dropout": 0.0, "bad_words_ids": [[58100]], "bos_token_id": 0,
    "classif_dropout": 0.0, "classifier_dropout": 0.0, "d_model": 512, "decoder_attention_heads": 8,
    "decoder_ffn_dim": 2048, "decoder_layerdrop": 0.0, "decoder_layers": 6, "decoder_start_token_id": 58100,
    "decoder_vocab_size": 58101, "dropout": 0.1, "encoder_attention_heads": 8, "encoder_ffn_dim": 2048,
    "encoder_layerdrop": 0.0, "encoder_layers": 6, "eos_token_id": 0, "forced_eos_token_id": 0,
    "gradient_checkpointing": False, "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02,
    "is_encoder_decoder": True, "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "max_length": 512,
    "max_position_embeddings": 512, "model_type": "marian", "normalize_before": False, "normalize_embedding": False,
    "num_beams": 6, "num_hidden_layers": 6, "pad_token_id": 58100, "scale_embedding": True,
    "share_encoder_decoder_embeddings": True, "static_position_embeddings": True,
    "transformers_version": "4.22.0.dev0", "use_cache": True, "vocab_size": 58101,
}  # fmt: skip


def test_published_configs():
    config = MarianConfig.from_dict(BASE)
    assert (config.hidden_size, config.num_attention_heads, config.num_hidden_layers) == (512, 8, 6)
    assert (config.initializer_range, config.max_tokens, config.target_vocab_size) == (0.02, 512, 58101)
    assert config.to_dict() == BASE
    old = {name: value for name, value in BASE.items() if "vocab" not in name and "share" not in name}
    assert MarianConfig.from_dict(old | {"vocab_size": 63430, "pad_token_id": 63429}).target_vocab_size == 63430


def test_the_auto_class_knows_its_head():
    assert isinstance(AutoModelForSeq2SeqLM.from_pretrained(checkpoint("marian", "MTModel")), MarianMTModel)


def test_positions_far_from_the_beginning():
    from transformers import MarianConfig as OriginalConfig
    from transformers import MarianModel as OriginalModel

    places = torch.arange(512)[None]
    for size in (32, 33):  # an odd one has a sine more
        config = OriginalConfig(
            vocab_size=9, pad_token_id=3, d_model=size, encoder_layers=0, decoder_layers=0,
            encoder_attention_heads=1, decoder_attention_heads=1, max_position_embeddings=512,
        )  # fmt: skip
        table = OriginalModel(config).encoder.embed_positions.weight
        assert torch.allclose(sinusoids(places, size)[0], table, atol=1e-4)


def test_the_decoder_of_a_whole_model():
    """It is read from a whole model's file, whichever way its words are stored."""
    ids = torch.arange(5, 14)[None]
    for case in ("marian", "marian:apart"):
        whole, alone = ours(case, "MTModel"), MarianForCausalLM.from_pretrained(checkpoint(case, "MTModel"))
        assert torch.equal(alone(ids).logits, alone.lm_head(whole.model.decoder(ids)[0]))
        assert torch.equal(alone.lm_head.weight, whole.lm_head.weight)


def test_the_words_that_are_tied():
    both, apart = ours("marian", "MTModel"), ours("marian:apart", "MTModel")
    assert both.lm_head.weight is both.model.shared.weight is both.model.encoder.embed_tokens.weight
    assert apart.lm_head.weight is apart.model.decoder.embed_tokens.weight
    assert not hasattr(apart.model, "shared") and not hasattr(reference("marian:apart", "MTModel").model, "shared")


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"d_model": 30, "encoder_attention_heads": 4}, r"d_model \(30\) is not a multiple of encoder_attention_heads"),
        ({"normalize_before": True}, "normalize_before is True; only False is implemented"),
        ({"decoder_vocab_size": 7}, "vocab_size is 58101 and decoder_vocab_size 7; expected the same"),
        ({"activation_function": "mish"}, "activation_function is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        MarianConfig(**values)
