"""RemBERT's sizes of embeddings."""

import pytest

from oracle import ours
from pellucid.errors import ConfigError
from pellucid.models.rembert import RemBertConfig

BASE = {  # google/rembert's
    "attention_probs_dropout_prob": 0, "bos_token_id": 312, "embedding_dropout_prob": 0, "embedding_size": 256,
    "eos_token_id": 313, "hidden_act": "gelu", "hidden_dropout_prob": 0, "hidden_size": 1152,
    "initializer_range": 0.02, "input_embedding_size": 256, "intermediate_size": 4608, "layer_norm_eps": 1e-12,
    "max_position_embeddings": 512, "model_type": "rembert", "num_attention_heads": 18, "num_hidden_layers": 32,
    "output_embedding_size": 1664, "pad_token_id": 0, "tie_word_embeddings": False, "type_vocab_size": 2,
    "use_cache": True, "vocab_size": 250300,
}  # fmt: skip


def test_a_published_config():
    assert RemBertConfig.from_dict(BASE).to_dict() == BASE
    with pytest.raises(ConfigError, match="embedding_size is 128, but input_embedding_size, the same field, is 256"):
        RemBertConfig.from_dict(BASE | {"embedding_size": 128})


def test_scores_have_weights_of_their_own():
    model = ours("rembert", "ForMaskedLM")
    assert model.cls.predictions.decoder.weight.shape == (99, 24)
    assert model.rembert.embeddings.word_embeddings.weight.shape == (99, 20)
