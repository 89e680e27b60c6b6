"""GPT's published configuration and weights, which are from before there were conventions."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracle import ours
from pellucid import AutoConfig, AutoModelForCausalLM
from pellucid.errors import ConfigError
from pellucid.models.openai_gpt import OpenAIGPTConfig, OpenAIGPTLMHeadModel

BASE = {  # openai-gpt's
    "afn": "gelu", "architectures": ["OpenAIGPTLMHeadModel"], "attn_pdrop": 0.1, "embd_pdrop": 0.1,
    "initializer_range": 0.02, "layer_norm_epsilon": 1e-05, "model_type": "openai-gpt", "n_ctx": 512, "n_embd": 768,
    "n_head": 12, "n_layer": 12, "n_positions": 512, "n_special": 0, "predict_special_tokens": True,
    "resid_pdrop": 0.1, "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True,
    "task_specific_params": {"text-generation": {"do_sample": True, "max_length": 50}}, "vocab_size": 40478,
}  # fmt: skip


def test_published_configs():
    config = OpenAIGPTConfig.from_dict(BASE)
    assert (config.hidden_size, config.num_hidden_layers, config.max_tokens) == (768, 12, 512)
    assert config.to_dict() == BASE
    assert type(AutoConfig.for_model("openai-gpt")) is OpenAIGPTConfig


def test_old_files(tmp_path):
    """They name the tensors of the backbone without a prefix, and hold the mask and the positions."""
    model = ours("openai_gpt", "LMHeadModel")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors = {name.removeprefix("transformer."): tensor for name, tensor in tensors.items()}
    tensors |= {"h.0.attn.bias": torch.ones(1, 1, 40, 40).tril(), "position_ids": torch.arange(40)}
    save_file(tensors, tmp_path / "model.safetensors")
    ids = torch.arange(5, 20)[None]
    loaded = AutoModelForCausalLM.from_pretrained(tmp_path)
    assert type(loaded) is OpenAIGPTLMHeadModel
    assert torch.equal(loaded(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"n_embd": 30, "n_head": 4}, r"n_embd \(30\) is not a multiple of n_head \(4\)"),
        ({"afn": "gelu_new"}, "afn is 'gelu_new'; expected one of gelu, relu, silu, swish"),
        ({"n_ctx": 100}, "n_ctx is 100, but n_positions, the same field, is 512"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        OpenAIGPTConfig.from_dict(BASE | values)
