"""PEGASUS's published configurations, and files that hold positions."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracle import checkpoint, ours
from pellucid.auto import AutoModelForSeq2SeqLM
from pellucid.errors import ConfigError
from pellucid.models.pegasus import PegasusConfig, PegasusForCausalLM, PegasusForConditionalGeneration

LARGE = {  # pegasus-large's, less most of its many tasks
    "activation_dropout": 0.1, "activation_function": "relu", "add_bias_logits": False, "add_final_layer_norm": True,
    "architectures": ["PegasusForConditionalGeneration"], "attention_dropout": 0.1, "bos_token_id": 0,
    "classif_dropout": 0.0, "classifier_dropout": 0.0, "d_model": 1024, "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096, "decoder_layerdrop": 0.0, "decoder_layers": 16, "decoder_start_token_id": 0,
    "dropout": 0.1, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096, "encoder_layerdrop": 0.0,
    "encoder_layers": 16, "eos_token_id": 1, "extra_pos_embeddings": 1, "force_bos_token_to_be_generated": False,
    "forced_eos_token_id": 1, "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02, "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "length_penalty": 0.8, "max_length": 256,
    "max_position_embeddings": 1024, "model_type": "pegasus", "normalize_before": True, "normalize_embedding": False,
    "num_beams": 8, "num_hidden_layers": 16, "pad_token_id": 0, "scale_embedding": True,
    "static_position_embeddings": True,
    "task_specific_params": {"summarization_xsum": {"length_penalty": 0.8, "max_position_embeddings": 512}},
    "transformers_version": "4.11.0.dev0", "unk_token_id": 105, "use_cache": True, "vocab_size": 96103,
}  # fmt: skip


def test_a_published_config():
    config = PegasusConfig.from_dict(LARGE)
    assert (config.hidden_size, config.num_hidden_layers, config.max_tokens) == (1024, 16, 1024)
    assert (config.initializer_range, config.decoder_start_token_id) == (0.02, 0)
    assert config.to_dict() == LARGE


def test_a_file_that_holds_positions(tmp_path):
    """The first versions wrote them, though they can be computed."""
    model = ours("pegasus", "ForConditionalGeneration")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    table = {f"model.{side}.embed_positions.weight": torch.ones(40, 32) for side in ("encoder", "decoder")}
    save_file(tensors | table, tmp_path / "model.safetensors")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert isinstance(again, PegasusForConditionalGeneration)
    assert again.load_report is not None and not again.load_report.ignored and not again.load_report.new


def test_the_decoder_of_a_whole_model():
    whole, ids = ours("pegasus", "ForConditionalGeneration"), torch.arange(5, 14)[None]
    alone = PegasusForCausalLM.from_pretrained(checkpoint("pegasus", "ForConditionalGeneration"))
    assert torch.equal(alone(ids).logits, alone.lm_head(whole.model.decoder(ids)[0]))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"d_model": 30, "encoder_attention_heads": 4}, r"d_model \(30\) is not a multiple of"),
        ({"static_position_embeddings": False}, "static_position_embeddings is False; only True is implemented"),
        ({"activation_function": "mish"}, "activation_function is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        PegasusConfig(**values)
