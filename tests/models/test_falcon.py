"""Falcon's three arrangements of a layer, as published, and its slopes."""

import pytest
import torch

from cases import CASES
from oracle import checkpoint, ours, reference, reference_class
from pellucid import AutoConfig
from pellucid.errors import ConfigError
from pellucid.models.falcon import FalconConfig

SEVEN = {  # falcon-7b's
    "alibi": False, "apply_residual_connection_post_layernorm": False, "architectures": ["FalconForCausalLM"],
    "attention_dropout": 0.0, "bias": False, "bos_token_id": 11, "eos_token_id": 11, "hidden_dropout": 0.0,
    "hidden_size": 4544, "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "falcon",
    "multi_query": True, "new_decoder_architecture": False, "num_attention_heads": 71, "num_hidden_layers": 32,
    "parallel_attn": True, "vocab_size": 65024,
}  # fmt: skip
FORTY = {
    **SEVEN, "hidden_size": 8192, "new_decoder_architecture": True, "num_attention_heads": 128,
    "num_hidden_layers": 60, "num_kv_heads": 8,
}  # fmt: skip
ELEVEN = {
    **FORTY, "activation": "gelu", "ffn_hidden_size": 16384, "hidden_size": 4096, "max_position_embeddings": 8192,
    "num_attention_heads": 32, "num_ln_in_parallel_attn": 1, "rope_scaling": None, "rope_theta": 500042.0,
    "tie_word_embeddings": False,
}  # fmt: skip
SMALL = {  # falcon-rw-1b's
    **SEVEN, "alibi": True, "bias": True, "hidden_size": 2048, "multi_query": False, "num_attention_heads": 32,
    "num_hidden_layers": 24, "parallel_attn": False, "vocab_size": 50304,
}  # fmt: skip


@pytest.mark.parametrize(
    ("values", "key_heads", "two_norms"),
    [(SEVEN, 1, False), (FORTY, 8, True), (ELEVEN, 8, False), (SMALL, 32, False)],
    ids=["7b", "40b", "11b", "rw-1b"],
)
def test_published_configs(values, key_heads, two_norms):
    config = FalconConfig.from_dict(values)
    assert config.to_dict() == values
    assert (config.key_heads, config.two_norms) == (key_heads, two_norms)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("apply_residual_connection_post_layernorm", True),
        ("num_ln_in_parallel_attn", 3),
        ("num_kv_heads", 7),
        ("parallel_attn", False),
        ("activation", "tangent"),
    ],
)
def test_what_is_not_implemented_is_refused(name, value):
    values = {"num_attention_heads": 8, "hidden_size": 64, "num_kv_heads": 2, "new_decoder_architecture": True}
    with pytest.raises(ConfigError, match=name):
        AutoConfig.for_model("falcon", **(values | {name: value}))


@pytest.mark.parametrize("case", ["falcon", "falcon:new"])
@torch.no_grad()
def test_attention_weights(case):
    """The original gives them only if it was loaded to compute all scores."""
    original = reference_class(case, "Model").from_pretrained(checkpoint(case, "Model"), attn_implementation="eager")
    ids = torch.arange(5, 14)[None]
    theirs = original(ids, output_attentions=True).attentions
    mine = ours(case, "Model")(ids, output_attentions=True).attentions
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(mine, theirs, strict=True))


@torch.no_grad()
def test_slopes_are_rounded_at_far_positions_as_in_the_original():
    ids = torch.randint(5, CASES["falcon:alibi"]["vocab_size"], (1, 700), generator=torch.Generator().manual_seed(0))
    mine, theirs = (build("falcon:alibi", "Model")(input_ids=ids) for build in (ours, reference))
    assert torch.allclose(mine.last_hidden_state, theirs.last_hidden_state, atol=1e-4)
