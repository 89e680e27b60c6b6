"""MPT's published configurations, its slopes, and what its config may say."""

import pytest
import torch

from oracle import checkpoint, ours, reference
from pellucid.errors import ConfigError
from pellucid.models.mpt import MptConfig, MptForCausalLM, slopes_of

ATTENTION = {
    "alibi": True, "alibi_bias_max": 8, "attn_impl": "torch", "attn_pdrop": 0, "attn_type": "multihead_attention",
    "attn_uses_sequence_id": False, "clip_qkv": None, "prefix_lm": False, "qk_ln": False, "softmax_scale": None,
}  # fmt: skip
BASE = {  # mpt-7b's
    "architectures": ["MPTForCausalLM"], "attn_config": ATTENTION,
    "auto_map": {"AutoConfig": "configuration_mpt.MPTConfig", "AutoModelForCausalLM": "modeling_mpt.MPTForCausalLM"},
    "d_model": 4096, "emb_pdrop": 0, "embedding_fraction": 1.0, "expansion_ratio": 4,
    "init_config": {"fan_mode": "fan_in", "init_std": 0.02, "name": "kaiming_normal_", "verbose": 0},
    "init_device": "cpu", "learned_pos_emb": True, "logit_scale": None, "max_seq_len": 2048, "model_type": "mpt",
    "n_heads": 32, "n_layers": 32, "no_bias": True, "norm_type": "low_precision_layernorm", "resid_pdrop": 0,
    "tokenizer_name": "EleutherAI/gpt-neox-20b", "torch_dtype": "bfloat16", "transformers_version": "4.28.1",
    "use_cache": False, "verbose": 0, "vocab_size": 50432,
}  # fmt: skip


def test_published_configs():
    for values in (BASE, BASE | {"attn_config": {**ATTENTION, "alibi_bias_max": 16, "clip_qkv": 6}}):  # storywriter's
        config = MptConfig.from_dict(values)
        assert (config.hidden_size, config.num_hidden_layers, config.max_tokens) == (4096, 32, None)
        assert config.attention("alibi_bias_max") == values["attn_config"]["alibi_bias_max"]
        assert config.to_dict() == values


@pytest.mark.parametrize("heads", [1, 2, 3, 6, 8, 12])
@pytest.mark.parametrize("most", [8, 16])
def test_slopes(heads, most):
    from transformers.models.mpt.modeling_mpt import build_mpt_alibi_tensor

    added = build_mpt_alibi_tensor(heads, 2, most)  # (H, 1, 2), of the last token to the two
    assert torch.equal(slopes_of(heads, most, torch.device("cpu")), added[:, 0, 1] - added[:, 0, 0])


def test_the_greatest_slope_counts():
    """The original reads it from the file and goes on with 8."""
    folder, ids = checkpoint("mpt", "ForCausalLM"), torch.arange(5, 20)[None]
    attention = ours("mpt", "ForCausalLM").config.attn_config
    steep = MptForCausalLM.from_pretrained(folder, attn_config={**attention, "alibi_bias_max": 16})
    assert not torch.allclose(steep(ids).logits, reference("mpt", "ForCausalLM")(ids).logits, atol=1e-3)
    assert torch.allclose(
        ours("mpt", "ForCausalLM")(ids).logits, reference("mpt", "ForCausalLM")(ids).logits, atol=1e-5
    )


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"d_model": 30, "n_heads": 4}, r"d_model \(30\) is not a multiple of n_heads \(4\)"),
        ({"attn_config": {"attn_type": "multiquery_attention"}}, "attn_type of attn_config is 'multiquery_attention'"),
        ({"attn_config": {"alibi": False}}, "alibi of attn_config is False; only True is implemented"),
        ({"attn_config": {"clip_qkv": "6"}}, "clip_qkv of attn_config is '6'; expected a number"),
        ({"norm_type": "rmsnorm"}, "norm_type is 'rmsnorm'; expected low_precision_layernorm or layernorm"),
        ({"no_bias": False}, "no_bias is False; only True is implemented"),
        ({"logit_scale": 0.5}, "logit_scale is 0.5; only None is implemented"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        MptConfig(**values)
