"""mBART's published configurations, and what a target is learned from."""

import pytest
import torch

from oracle import ours
from pellucid import Layout
from pellucid.errors import ConfigError, InputError
from pellucid.models.mbart import MBartConfig, MBartForCausalLM, MBartModel, shift_right

CC25 = {  # mbart-large-cc25's
    "_num_labels": 3, "activation_dropout": 0.0, "activation_function": "gelu", "add_bias_logits": False,
    "add_final_layer_norm": True, "architectures": ["MBartForConditionalGeneration"], "attention_dropout": 0.0,
    "bos_token_id": 0, "classif_dropout": 0.0, "classifier_dropout": 0.0, "d_model": 1024,
    "decoder_attention_heads": 16, "decoder_ffn_dim": 4096, "decoder_layerdrop": 0.0, "decoder_layers": 12,
    "dropout": 0.1, "encoder_attention_heads": 16, "encoder_ffn_dim": 4096, "encoder_layerdrop": 0.0,
    "encoder_layers": 12, "eos_token_id": 2, "forced_eos_token_id": 2, "gradient_checkpointing": False,
    "id2label": {"0": "LABEL_0", "1": "LABEL_1", "2": "LABEL_2"}, "init_std": 0.02, "is_encoder_decoder": True,
    "label2id": {"LABEL_0": 0, "LABEL_1": 1, "LABEL_2": 2}, "max_length": 1024, "max_position_embeddings": 1024,
    "model_type": "mbart", "normalize_before": True, "normalize_embedding": True, "num_beams": 5,
    "num_hidden_layers": 12, "output_past": True, "pad_token_id": 1, "scale_embedding": True,
    "static_position_embeddings": False,
    "task_specific_params": {"translation_en_to_ro": {"decoder_start_token_id": 250020}}, "vocab_size": 250027,
}  # fmt: skip
FIFTY = {**CC25, "activation_function": "relu", "decoder_start_token_id": 2, "early_stopping": True, "max_length": 200,
         "tokenizer_class": "MBart50Tokenizer", "transformers_version": "4.4.0.dev0", "use_cache": True,
         "vocab_size": 250054}  # fmt: skip


@pytest.mark.parametrize("values", [CC25, FIFTY])
def test_published_configs(values):
    config = MBartConfig.from_dict(values)
    assert (config.hidden_size, config.num_hidden_layers, config.max_tokens) == (1024, 12, 1024)
    assert config.decoder_start_token_id == values.get("decoder_start_token_id")
    assert config.to_dict() == values


def test_a_target_begins_with_its_last_token():
    config = MBartConfig(pad_token_id=1)
    rows = torch.tensor([[7, 8, 2, 9, 1], [5, 2, 9, -100, -100]])
    wanted = torch.tensor([[9, 7, 8, 2, 9], [9, 5, 2, 9, 1]])
    assert torch.equal(shift_right(rows, Layout.of(rows), config), wanted)
    left = torch.tensor([[1, 7, 8, 2, 9], [1, 1, 5, 2, 9]])
    shifted = shift_right(left, Layout.of(left, (left != 1).long()), config)
    assert shifted[0, 1:].tolist() == [9, 7, 8, 2] and shifted[1, 2:].tolist() == [9, 5, 2]
    packed = shift_right(torch.tensor([[7, 8, 2, 9, 5, 2, 6]]), Layout.packed([4, 3]), config)
    assert packed.tolist() == [[9, 7, 8, 2, 6, 5, 2]]


def test_a_model_without_a_target_reads_the_source_again():
    model = ours("mbart", "Model")
    assert isinstance(model, MBartModel)
    ids = torch.tensor([[7, 8, 9, 2, 11], [5, 6, 2, 11, 3]])
    mask = (ids != 3).long()
    shifted = torch.tensor([[11, 7, 8, 9, 2], [11, 5, 6, 2, 3]])
    wanted = model(ids, mask, shifted, mask)[0][mask.bool()]
    assert torch.allclose(model(ids, mask)[0][mask.bool()], wanted, atol=1e-6)
    with pytest.raises(InputError, match="no pad_token_id; pass decoder_input_ids"):
        MBartModel(model.config.replace(pad_token_id=None))(ids)


def test_the_decoder_of_a_whole_model(tmp_path):
    whole, ids = ours("mbart", "ForConditionalGeneration"), torch.arange(5, 14)[None]
    whole.save_pretrained(tmp_path)
    alone = MBartForCausalLM.from_pretrained(tmp_path)
    assert torch.equal(alone(ids).logits, alone.lm_head(whole.model.decoder(ids)[0]))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"d_model": 30, "decoder_attention_heads": 4}, r"d_model \(30\) is not a multiple of"),
        ({"normalize_before": False}, "normalize_before is False; only True is implemented"),
        ({"activation_function": "mish"}, "activation_function is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        MBartConfig(**values)
