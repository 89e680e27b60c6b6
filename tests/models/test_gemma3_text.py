"""Gemma 3's two spellings of config.json, its names, and what reads to both sides."""

import json
import shutil

import pytest
import torch

import pellucid
from oracle import checkpoint, ours
from pellucid import AutoModelForCausalLM
from pellucid.cache import Cache
from pellucid.errors import ConfigError, InputError
from pellucid.models.gemma3_text import GLOBAL, LOCAL, Gemma3TextConfig, Gemma3TextModel
from pellucid.rope import Rope

OLD = {  # Gemma-3-1b-it's
    "architectures": ["Gemma3ForCausalLM"], "attention_bias": False, "attention_dropout": 0.0,
    "attn_logit_softcapping": None, "bos_token_id": 2, "cache_implementation": "hybrid", "eos_token_id": [1, 106],
    "final_logit_softcapping": None, "head_dim": 256, "hidden_activation": "gelu_pytorch_tanh", "hidden_size": 1152,
    "initializer_range": 0.02, "intermediate_size": 6912, "max_position_embeddings": 32768,
    "model_type": "gemma3_text", "num_attention_heads": 4, "num_hidden_layers": 26, "num_key_value_heads": 1,
    "pad_token_id": 0, "query_pre_attn_scalar": 256, "rms_norm_eps": 1e-06, "rope_local_base_freq": 10000,
    "rope_scaling": None, "rope_theta": 1000000, "sliding_window": 512, "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16", "transformers_version": "4.52.4", "use_cache": True, "vocab_size": 262144,
}  # fmt: skip
KINDS = [GLOBAL if layer % 6 == 5 else LOCAL for layer in range(26)]
ROPE = {GLOBAL: {"rope_theta": 1000000.0, "rope_type": "default"}, LOCAL: {"rope_theta": 10000.0}}
GONE = ("rope_theta", "rope_local_base_freq", "rope_scaling", "sliding_window_pattern")
NEW = {name: value for name, value in OLD.items() if name not in GONE} | {
    "layer_types": KINDS, "rope_parameters": ROPE, "_sliding_window_pattern": 6, "use_bidirectional_attention": False,
}  # fmt: skip


@pytest.mark.parametrize("values", [OLD, NEW])
def test_both_spellings(values):
    config = Gemma3TextConfig.from_dict(values)
    assert [config.kind(layer) for layer in range(26)] == KINDS
    assert {config.window(layer) for layer in range(26)} == {511, None}
    ropes = {kind: Rope.of(config, 256, kind) for kind in (LOCAL, GLOBAL)}
    assert (ropes[GLOBAL].theta, ropes[LOCAL].theta) == (1000000.0, 10000.0)
    assert config.to_dict() == values


def test_old_spelling_gives_the_same_numbers(tmp_path):
    folder = shutil.copytree(checkpoint("gemma3_text", "ForCausalLM"), tmp_path / "old")
    values = json.loads((folder / "config.json").read_text())
    ropes = values.pop("rope_parameters")
    assert values.pop("layer_types") == [LOCAL, GLOBAL, LOCAL]
    values |= {"sliding_window_pattern": 2, "rope_theta": 1000.0, "rope_local_base_freq": 10.0}
    values["rope_scaling"] = {name: value for name, value in ropes[GLOBAL].items() if name != "rope_theta"}
    (folder / "config.json").write_text(json.dumps(values))
    ids = torch.arange(5, 20)[None]
    old, new = AutoModelForCausalLM.from_pretrained(folder), ours("gemma3_text", "ForCausalLM")
    assert type(old) is pellucid.Gemma3ForCausalLM
    assert torch.equal(old(ids).logits, new(ids).logits)


@pytest.mark.parametrize(
    ("values", "fault"),
    [
        ({"layer_types": [LOCAL] * 3}, "expected 2 times"),
        ({"attn_logit_softcapping": 50.0}, "attn_logit_softcapping is 50.0; only None is implemented"),
        ({"sliding_window": 0}, "sliding_window is 0; expected more than 0"),
        ({"hidden_act": "relu", "hidden_activation": "silu"}, "the same field"),
        ({"rope_parameters": {LOCAL: {"rope_type": "spiral"}}}, "rope_type is 'spiral'"),
    ],
)
def test_impossible_configs(values, fault):
    with pytest.raises(ConfigError, match=fault):
        Gemma3TextConfig(num_hidden_layers=2, **values)


def test_both_sides_are_read_at_once():
    model, ids = ours("gemma3_text:encoder", "Model"), torch.arange(5, 15)[None]
    cache = model(ids).past_key_values
    with pytest.raises(InputError, match="read a whole text at once"):
        model(ids, cache=cache)
    for cache in (Cache(), Cache(capacity=12)):
        assert torch.allclose(model(ids, cache=cache)[0], model(ids, use_cache=False)[0], atol=1e-6)


def test_new_norms_change_nothing():
    model = Gemma3TextModel.from_config(ours("gemma3_text", "Model").config)
    x = torch.randn(2, 3, 32)
    assert torch.allclose(model.norm(x).square().mean(-1), torch.ones(2, 3), atol=1e-4)
