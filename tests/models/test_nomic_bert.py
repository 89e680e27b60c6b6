"""NomicBERT's own config.json, and rotations that depend on the length of a text."""

import pytest
import torch
import transformers

from cases import CASES
from oracle import checkpoint, ours
from pellucid import AutoConfig, Layout
from pellucid.errors import ConfigError
from pellucid.models.nomic_bert import NomicBertConfig

OWN = {  # as nomic-embed-text-v1 spells it, but small
    "activation_function": "swiglu", "architectures": ["NomicBertModel"], "attn_pdrop": 0.0, "causal": False,
    "dense_seq_output": True, "embd_pdrop": 0.0, "fused_bias_fc": True, "fused_dropout_add_ln": True,
    "initializer_range": 0.02, "layer_norm_epsilon": 1e-12, "max_trained_positions": 6, "mlp_fc1_bias": False,
    "mlp_fc2_bias": False, "model_type": "nomic_bert", "n_embd": 32, "n_head": 4, "n_inner": 37, "n_layer": 2,
    "n_positions": 24, "pad_vocab_size_multiple": 64, "parallel_block": False, "parallel_block_tied_norm": False,
    "prenorm": False, "qkv_proj_bias": False, "reorder_and_upcast_attn": False, "resid_pdrop": 0.0,
    "rotary_emb_base": 1000, "rotary_emb_fraction": 1.0, "rotary_emb_interleaved": False, "rotary_emb_scale_base": None,
    "rotary_scaling_factor": 2, "scale_attn_by_inverse_layer_idx": False, "scale_attn_weights": True,
    "summary_activation": None, "summary_first_dropout": 0.0, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "type_vocab_size": 2, "use_cache": True,
    "use_flash_attn": True, "use_rms_norm": False, "use_xentropy": True, "vocab_size": 99,
}  # fmt: skip


def test_the_config_of_2024():
    config = NomicBertConfig.from_dict(OWN)
    assert (config.hidden_size, config.num_hidden_layers, config.num_attention_heads) == (32, 2, 4)
    assert (config.intermediate_size, config.hidden_act, config.theta, config.stretch) == (37, "swiglu", 1000, 2)
    assert (config.max_tokens, config.max_position_embeddings) == (24, 6)
    assert config.to_dict() == OWN


@pytest.mark.parametrize(
    ("name", "value"),
    [("prenorm", True), ("num_experts", 8), ("qkv_proj_bias", True), ("activation_function", "relu")],
)
def test_what_is_not_implemented_is_refused(name, value):
    with pytest.raises(ConfigError, match=f"{'hidden_act' if name == 'activation_function' else name} is"):
        AutoConfig.for_model("nomic_bert", **{name: value})


def test_long_texts():
    """Rotations slow down with the length of the text, not with that of the longest in the batch."""
    rope = {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1000.0}
    settings = {**CASES["nomic_bert"], "max_position_embeddings": 6}
    config = transformers.NomicBertConfig(**settings, rope_parameters=rope)
    original = transformers.NomicBertModel.from_pretrained(checkpoint("nomic_bert", "Model"), config=config)
    own = ours("nomic_bert", "Model", rope_parameters=rope, max_position_embeddings=6)
    rows = [torch.randint(5, 99, (length,)) for length in (5, 9, 23)]
    ids = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True)
    mask = torch.nn.utils.rnn.pad_sequence([torch.ones_like(row) for row in rows], batch_first=True)
    padded = own(input_ids=ids, attention_mask=mask).last_hidden_state
    packed = own(input_ids=torch.cat(rows)[None], attention_mask=Layout.packed([5, 9, 23])).last_hidden_state
    start = 0
    for i, row in enumerate(rows):
        alone = original(input_ids=row[None]).last_hidden_state[0]
        assert torch.allclose(padded[i, : len(row)], alone, atol=1e-5)
        assert torch.allclose(packed[0, start : start + len(row)], alone, atol=1e-5)
        start += len(row)
