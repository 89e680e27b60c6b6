"""M2M100's published configurations, positions far from the beginning, and files that hold them."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracle import ours, reference
from pellucid.errors import ConfigError
from pellucid.models.m2m_100 import M2M100Config, M2M100ForConditionalGeneration, sinusoids

M2M = {  # m2m100_418M's
    "activation_dropout": 0.0, "activation_function": "relu", "architectures": ["M2M100ForConditionalGeneration"],
    "attention_dropout": 0.1, "bos_token_id": 0, "d_model": 1024, "decoder_attention_heads": 16,
    "decoder_ffn_dim": 4096, "decoder_layerdrop": 0.05, "decoder_layers": 12, "decoder_start_token_id": 2,
    "dropout": 0.1, "early_stopping": True, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096,
    "encoder_layerdrop": 0.05, "encoder_layers": 12, "eos_token_id": 2, "gradient_checkpointing": False,
    "init_std": 0.02, "is_encoder_decoder": True, "max_length": 200, "max_position_embeddings": 1024,
    "model_type": "m2m_100", "num_beams": 5, "num_hidden_layers": 12, "pad_token_id": 1, "scale_embedding": True,
    "transformers_version": "4.5.0.dev0", "use_cache": True, "vocab_size": 128112,
}  # fmt: skip
NLLB = {  # nllb-200-distilled-600M's
    **{name: value for name, value in M2M.items() if name not in ("early_stopping", "gradient_checkpointing")},
    "decoder_layerdrop": 0, "encoder_layerdrop": 0, "num_beams": 1, "tokenizer_class": "NllbTokenizer",
    "torch_dtype": "float32", "transformers_version": "4.21.0.dev0", "vocab_size": 256206,
}  # fmt: skip


@pytest.mark.parametrize("values", [M2M, NLLB])
def test_published_configs(values):
    config = M2M100Config.from_dict(values)
    assert (config.hidden_size, config.num_hidden_layers, config.decoder_start_token_id) == (1024, 12, 2)
    assert (config.first_position, config.max_tokens, config.initializer_range) == (2, None, 0.02)
    assert config.to_dict() == values


def test_positions_far_from_the_beginning():
    table = reference("m2m_100", "Model").encoder.embed_positions.get_embedding(1026, 32, 1)
    assert torch.allclose(sinusoids(torch.arange(2, 1026), 32), table[2:], atol=1e-4)


def test_texts_longer_than_any_in_training():
    model, original = ours("m2m_100", "Model"), reference("m2m_100", "Model")
    ids = torch.arange(5, 98)[None]
    inputs = {"input_ids": ids, "decoder_input_ids": ids}
    assert torch.allclose(model(**inputs)[0], original(**inputs)[0], atol=1e-5)


def test_a_file_that_holds_positions(tmp_path):
    """The first versions wrote them, though they can be computed."""
    model = ours("m2m_100", "ForConditionalGeneration")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    table = {f"model.{side}.embed_positions.weights": torch.ones(42, 32) for side in ("encoder", "decoder")}
    save_file(tensors | table, tmp_path / "model.safetensors")
    report = M2M100ForConditionalGeneration.from_pretrained(tmp_path).load_report
    assert report is not None and not report.ignored and not report.new


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"d_model": 30, "encoder_attention_heads": 4}, r"d_model \(30\) is not a multiple of"),
        (
            {"d_model": 33, "encoder_attention_heads": 3, "decoder_attention_heads": 3},
            "d_model is 33; expected an",
        ),
        ({"activation_function": "mish"}, "activation_function is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        M2M100Config(**values)
