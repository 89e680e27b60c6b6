"""Switch Transformers' published configuration, which layers have experts, and the room that experts have."""

import pytest
import torch

from cases import CASES
from oracle import checkpoint, ours, reference_class
from pellucid import Layout
from pellucid.errors import ConfigError
from pellucid.models.switch_transformers import (
    SwitchTransformersConfig,
    SwitchTransformersForConditionalGeneration,
    SwitchTransformersSparseMLP,
)

BASE = {  # switch-base-8's
    "add_router_probs": False, "architectures": ["SwitchTransformersForConditionalGeneration"], "d_ff": 3072,
    "d_kv": 64, "d_model": 768, "decoder_sparse_step": 2, "decoder_start_token_id": 0, "dense_act_fn": "relu",
    "dropout_rate": 0.1, "encoder_sparse_step": 2, "eos_token_id": 1, "expert_capacity": 64,
    "feed_forward_proj": "relu", "initializer_factor": 1.0, "is_encoder_decoder": True, "is_gated_act": False,
    "layer_norm_epsilon": 1e-06, "model_type": "switch_transformers", "num_decoder_layers": 12, "num_experts": 8,
    "num_heads": 12, "num_layers": 12, "num_sparse_decoder_layers": 6, "num_sparse_encoder_layers": 6,
    "pad_token_id": 0, "relative_attention_max_distance": 128, "relative_attention_num_buckets": 32,
    "router_aux_loss_coef": 0.001, "router_bias": False, "router_dtype": "float32",
    "router_ignore_padding_tokens": False, "router_jitter_noise": 0.01, "router_type": "tokens_masked",
    "router_z_loss_coef": 0.001, "use_cache": True, "vocab_size": 32128,
}  # fmt: skip
WHOLE = ("switch_transformers", "ForConditionalGeneration")


def test_a_published_config():
    config = SwitchTransformersConfig.from_dict(BASE)
    assert config.to_dict() == BASE and config.scales_head and config.hidden_size == 768
    assert [i for i in range(12) if config.is_sparse(i, decoder=True)] == [1, 3, 5, 7, 9, 11]


@pytest.mark.parametrize(("layers", "sparse"), [(4, 1), (4, 3), (4, 0), (4, 5), (1, 1), (12, 5)])
def test_which_layers_have_experts(layers, sparse):
    values = {**CASES["switch_transformers"], "num_layers": layers, "num_sparse_encoder_layers": sparse}
    kind = reference_class("switch_transformers", "EncoderModel")
    original = kind(kind.config_class(**values))
    config = SwitchTransformersConfig(**values)
    wanted = ["router" in str(block) for block in original.encoder.block]
    assert [config.is_sparse(i, decoder=False) for i in range(layers)] == wanted


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_experts": 0}, "num_experts is 0; expected at least 1"),
        ({"router_dtype": "bfloat16"}, "router_dtype is 'bfloat16'; only 'float32' is implemented"),
        ({"add_router_probs": True}, "add_router_probs is True; only False is implemented"),
        ({"num_sparse_encoder_layers": -1}, "num_sparse_encoder_layers is -1; expected 0 to"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        SwitchTransformersConfig(**values)


def test_an_expert_takes_the_first_real_tokens_of_each_text():
    part = SwitchTransformersSparseMLP(SwitchTransformersConfig.from_dict(BASE), capacity=2)
    chosen = torch.tensor([[0, 1, 0, 0, 1]])
    assert part.turns(chosen, 3, Layout.of(chosen)).tolist() == [[1, 1, 2, 3, 2]]
    assert part.turns(chosen, 3, Layout.packed([3, 2])).tolist() == [[1, 1, 2, 1, 1]]
    padded = Layout.of(chosen, torch.tensor([[0, 0, 1, 1, 1]]))
    assert part.turns(chosen, 3, padded)[0, 2:].tolist() == [1, 2, 1]


@torch.no_grad()
def test_the_decoder_drops_no_token():
    """The original does when it reads a target at once, and does not when it writes it."""
    folder, ids = checkpoint(*WHOLE), torch.arange(5, 30)[None]
    model = SwitchTransformersForConditionalGeneration.from_pretrained(folder, expert_capacity=3)
    original = reference_class(*WHOLE).from_pretrained(folder, expert_capacity=3)
    states = model(ids, decoder_input_ids=ids).encoder_last_hidden_state
    assert not torch.allclose(states, ours(*WHOLE)(ids, decoder_input_ids=ids).encoder_last_hidden_state, atol=1e-3)
    at_once, past, pieces = model(ids, decoder_input_ids=ids).logits, None, []
    for token in ids[0]:
        out = original(ids, decoder_input_ids=token[None, None], past_key_values=past)
        past, pieces = out.past_key_values, [*pieces, out.logits]
    assert torch.allclose(at_once, torch.cat(pieces, dim=1), atol=1e-4)
    assert not torch.allclose(at_once, original(ids, decoder_input_ids=ids).logits, atol=1e-3)
