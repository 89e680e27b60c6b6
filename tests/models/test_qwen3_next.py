"""Qwen3-Next: long texts, published configurations, and what loading leaves out."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from cases import CASES
from oracle import ours, reference
from pellucid.cache import Cache
from pellucid.errors import ConfigError
from pellucid.models.qwen3_next import Qwen3NextConfig, Qwen3NextForCausalLM
from pellucid.recurrence import CHUNK

CODER = {  # Qwen3-Coder-Next's, as released
    "architectures": ["Qwen3NextForCausalLM"], "attention_bias": False, "attention_dropout": 0,
    "bos_token_id": 151643, "decoder_sparse_step": 1, "dtype": "bfloat16", "eos_token_id": 151645,
    "full_attention_interval": 4, "head_dim": 256, "hidden_act": "silu", "hidden_size": 2048,
    "initializer_range": 0.02, "intermediate_size": 5120,
    "layer_types": ["linear_attention", "linear_attention", "linear_attention", "full_attention"] * 12,
    "linear_conv_kernel_dim": 4, "linear_key_head_dim": 128, "linear_num_key_heads": 16, "linear_num_value_heads": 32,
    "linear_value_head_dim": 128, "max_position_embeddings": 262144, "mlp_only_layers": [],
    "model_type": "qwen3_next", "moe_intermediate_size": 512, "norm_topk_prob": True, "num_attention_heads": 16,
    "num_experts": 512, "num_experts_per_tok": 10, "num_hidden_layers": 48, "num_key_value_heads": 2,
    "output_router_logits": False, "partial_rotary_factor": 0.25, "rms_norm_eps": 1e-06, "rope_scaling": None,
    "rope_theta": 5000000, "router_aux_loss_coef": 0.001, "shared_expert_intermediate_size": 512,
    "tie_word_embeddings": False, "use_cache": True, "use_sliding_window": False, "vocab_size": 151936,
}  # fmt: skip


def test_published_configs():
    config = Qwen3NextConfig.from_dict(CODER)
    assert config.to_dict() == CODER
    first = Qwen3NextConfig.from_dict({name: value for name, value in CODER.items() if name != "layer_types"})
    assert first.kinds == config.kinds == CODER["layer_types"]
    assert all(config.has_experts(layer) for layer in range(48))
    assert not any(config.replace(num_experts=0).has_experts(layer) for layer in range(48))


@torch.no_grad()
def test_texts_longer_than_a_chunk():
    model, original = ours("qwen3_next", "Model"), reference("qwen3_next", "Model")
    torch.manual_seed(0)
    ids = torch.randint(5, 99, (2, 2 * CHUNK + 30))
    whole = model(ids, use_cache=False)[0]
    assert torch.allclose(whole, original(ids)[0], atol=1e-5)
    cache = Cache()
    pieces = [model(piece, cache=cache)[0] for piece in ids.split([CHUNK + 5, 1, CHUNK + 24], dim=1)]
    assert torch.allclose(torch.cat(pieces, dim=1), whole, atol=1e-5)


def test_layers_that_predict_more_tokens_are_not_read(tmp_path):
    model = ours("qwen3_next", "ForCausalLM")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    extra = {"mtp.fc.weight": torch.zeros(32, 64), "mtp.layers.0.self_attn.q_proj.weight": torch.zeros(128, 32)}
    save_file(tensors | extra, tmp_path / "model.safetensors")
    again = Qwen3NextForCausalLM.from_pretrained(tmp_path)
    assert not again.load_report.ignored
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())


def test_new_models_begin_with_norms_that_change_nothing():
    model = Qwen3NextForCausalLM(Qwen3NextConfig(**CASES["qwen3_next"]))
    for name, parameter in model.named_parameters():
        if name.endswith(("layernorm.weight", "q_norm.weight", "k_norm.weight", "model.norm.weight")):
            assert not parameter.any(), name
        elif name.endswith(("linear_attn.norm.weight", "dt_bias")):
            assert bool((parameter == 1).all()), name
        elif name.endswith("A_log"):
            assert bool((parameter.exp() <= 16).all() and parameter.isfinite().all()), name


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_key_value_heads": 3}, r"num_attention_heads \(16\) is not a multiple of num_key_value_heads \(3\)"),
        ({"linear_num_key_heads": 5}, r"linear_num_value_heads \(32\) is not a multiple of linear_num_key_heads \(5\)"),
        ({"num_experts": 4}, "num_experts_per_tok is 10; expected 1 to 4"),
        ({"full_attention_interval": 0}, "full_attention_interval is 0; expected at least 1"),
        ({"layer_types": ["linear_attention"]}, "layer_types is .*; expected 48 of linear_attention and full"),
        ({"partial_rotary_factor": 0.02}, "5 of 256 dimensions of a head would be rotated; expected an even number"),
        ({"use_sliding_window": True}, "use_sliding_window is True; only False is implemented"),
        ({"output_router_logits": True}, "output_router_logits is True; only False is implemented"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        Qwen3NextConfig(**values)
