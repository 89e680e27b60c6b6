"""FSMT's published configurations, its two vocabularies, and what a target is learned from."""

import pytest
import torch

from oracle import ours, reference
from pellucid.auto import AutoModelForSeq2SeqLM
from pellucid.errors import ConfigError
from pellucid.models.fsmt import FSMTConfig, FSMTForConditionalGeneration

EN_RU = {  # wmt19-en-ru's
    "activation_dropout": 0.0, "activation_function": "relu", "architectures": ["FSMTForConditionalGeneration"],
    "attention_dropout": 0.1, "bos_token_id": 0, "d_model": 1024, "decoder": {"bos_token_id": 2, "vocab_size": 31232},
    "decoder_attention_heads": 16, "decoder_ffn_dim": 4096, "decoder_layerdrop": 0, "decoder_layers": 6,
    "decoder_start_token_id": 2, "dropout": 0.1, "early_stopping": False, "encoder_attention_heads": 16,
    "encoder_ffn_dim": 8192, "encoder_layerdrop": 0, "encoder_layers": 6, "eos_token_id": 2, "init_std": 0.02,
    "is_encoder_decoder": True, "langs": ["en", "ru"], "length_penalty": 1.15, "max_position_embeddings": 1024,
    "model_type": "fsmt", "num_beams": 5, "num_hidden_layers": 6, "pad_token_id": 1, "scale_embedding": True,
    "src_vocab_size": 31232, "tgt_vocab_size": 31640, "tie_word_embeddings": False,
}  # fmt: skip


def test_a_published_config():
    config = FSMTConfig.from_dict(EN_RU)
    assert (config.hidden_size, config.num_hidden_layers, config.vocab_size) == (1024, 6, 31640)
    assert (config.first_position, config.max_tokens, config.initializer_range) == (2, None, 0.02)
    assert config.to_dict() == EN_RU


def test_labels_begin_with_their_last_token():
    """The original learns from the source instead, unless it is given what the target begins with, too."""
    model, original = ours("fsmt", "ForConditionalGeneration"), reference("fsmt", "ForConditionalGeneration")
    ids, labels = torch.arange(5, 12)[None], torch.tensor([[7, 8, 9, 2, -100]])
    shifted = torch.tensor([[2, 7, 8, 9, 2]])
    wanted = original(ids, decoder_input_ids=shifted, labels=labels).loss
    assert torch.allclose(model(ids, labels=labels).loss, wanted, atol=1e-6)


def test_a_model_without_a_target_reads_the_source_again():
    model, original = ours("fsmt:tied", "Model"), reference("fsmt:tied", "Model")
    ids = torch.tensor([[7, 8, 9, 11, 2], [5, 6, 11, 2, 3]])
    mask = ids != 3
    theirs = original(ids, attention_mask=mask.long())
    assert torch.allclose(model(ids, mask.long())[0][mask], theirs[0][mask], atol=1e-5)


def test_texts_longer_than_any_in_training():
    model, original = ours("fsmt", "ForConditionalGeneration"), reference("fsmt", "ForConditionalGeneration")
    ids = torch.arange(5, 88)[None]
    inputs = {"input_ids": ids, "decoder_input_ids": ids}
    assert torch.allclose(model(**inputs).logits, original(**inputs).logits, atol=1e-4)


def test_the_words_that_are_tied(tmp_path):
    model = ours("fsmt:tied", "ForConditionalGeneration")
    model.save_pretrained(tmp_path)
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert isinstance(again, FSMTForConditionalGeneration)
    decoder = again.model.decoder
    assert decoder.output_projection.weight is decoder.embed_tokens.weight is again.model.encoder.embed_tokens.weight


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"d_model": 30, "encoder_attention_heads": 4}, r"d_model \(30\) is not a multiple of"),
        ({"tie_word_embeddings": True, "src_vocab_size": 9}, "src_vocab_size is 9 and tgt_vocab_size 42024; expected"),
        ({"activation_function": "mish"}, "activation_function is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        FSMTConfig(**values)
