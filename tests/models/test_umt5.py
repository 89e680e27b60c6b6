"""UMT5's published configuration, and a head of its own."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracle import checkpoint, ours
from pellucid import AutoConfig
from pellucid.auto import architecture_of
from pellucid.models.umt5 import UMT5Config, UMT5EncoderModel, UMT5ForConditionalGeneration

SMALL = {  # umt5-small's, which does not name its architecture but by a class
    "architectures": ["UMT5ForConditionalGeneration"], "d_ff": 1024, "d_kv": 64, "d_model": 512,
    "decoder_start_token_id": 0, "dense_act_fn": "gelu_new", "dropout_rate": 0.1, "eos_token_id": 1,
    "feed_forward_proj": "gated-gelu", "initializer_factor": 1.0, "is_encoder_decoder": True, "is_gated_act": True,
    "layer_norm_epsilon": 1e-06, "num_decoder_layers": 8, "num_heads": 6, "num_layers": 8, "output_past": True,
    "pad_token_id": 0, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32,
    "scalable_attention": True, "tie_word_embeddings": False, "tokenizer_class": "T5Tokenizer", "use_cache": True,
    "vocab_size": 256384,
}  # fmt: skip


def test_a_published_config(tmp_path):
    assert architecture_of(SMALL, "config.json") == "umt5"
    config = UMT5Config.from_dict(SMALL)
    assert config.to_dict() == {"model_type": "umt5"} | SMALL
    assert (config.activation, config.gated, config.scales_head) == ("gelu_new", True, False)
    config.save_pretrained(tmp_path)
    assert type(AutoConfig.from_pretrained(tmp_path)) is UMT5Config


@pytest.mark.parametrize("flag", [False, True], ids=["as published", "as version 5 writes it"])
def test_a_head_of_its_own_does_not_scale(flag, tmp_path):
    """The original's version 5 scales it, since it takes all heads for shared."""
    source = checkpoint("umt5", "ForConditionalGeneration")
    tensors = load_file(source / "model.safetensors")
    save_file(tensors | {"lm_head.weight": tensors["shared.weight"] * 2}, tmp_path / "model.safetensors")
    UMT5Config.from_pretrained(source, tie_word_embeddings=flag).save_pretrained(tmp_path)
    ids = torch.arange(5, 14)[None]
    shared, own = ours("umt5", "ForConditionalGeneration"), UMT5ForConditionalGeneration.from_pretrained(tmp_path)
    wanted = shared(ids, decoder_input_ids=ids).logits * 2 * shared.config.d_model**0.5
    assert torch.allclose(own(ids, decoder_input_ids=ids).logits, wanted, rtol=1e-4, atol=1e-4)
    own.save_pretrained(tmp_path / "again")
    again = UMT5ForConditionalGeneration.from_pretrained(tmp_path / "again")
    assert torch.equal(again(ids, decoder_input_ids=ids).logits, own(ids, decoder_input_ids=ids).logits)


def test_an_encoder_without_a_decoder(tmp_path):
    """As the text encoders of image and video models are stored."""
    UMT5EncoderModel.from_pretrained(checkpoint("umt5", "ForConditionalGeneration")).save_pretrained(tmp_path)
    ids = torch.arange(5, 14)[None]
    states = ours("umt5", "ForConditionalGeneration")(ids, decoder_input_ids=ids).encoder_last_hidden_state
    assert torch.equal(UMT5EncoderModel.from_pretrained(tmp_path)(ids)[0], states)
