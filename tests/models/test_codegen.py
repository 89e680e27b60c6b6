"""CodeGen's published configurations, and what they may say."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracle import ours
from pellucid.errors import ConfigError
from pellucid.models.codegen import CodeGenConfig, CodeGenForCausalLM

MONO = {  # codegen-350M-mono's
    "activation_function": "gelu_new", "architectures": ["CodeGenForCausalLM"], "attn_pdrop": 0.0, "bos_token_id": 1,
    "embd_pdrop": 0.0, "eos_token_id": 50256, "gradient_checkpointing": False, "initializer_range": 0.02,
    "layer_norm_epsilon": 1e-05, "model_type": "codegen", "n_ctx": 2048, "n_embd": 1024, "n_head": 16, "n_inner": None,
    "n_layer": 20, "n_positions": 2048, "resid_pdrop": 0.0, "rotary_dim": 32, "scale_attn_weights": True,
    "summary_activation": None, "summary_first_dropout": 0.1, "summary_proj_to_labels": True,
    "summary_type": "cls_index", "summary_use_proj": True, "tie_word_embeddings": False,
    "tokenizer_class": "GPT2Tokenizer", "torch_dtype": "float16", "use_cache": True, "vocab_size": 51200,
}  # fmt: skip


def test_published_configs():
    config = CodeGenConfig.from_dict(MONO)
    assert (config.hidden_size, config.num_hidden_layers, config.max_tokens) == (1024, 20, None)
    assert config.to_dict() == MONO


def test_the_masks_of_old_files_are_not_read(tmp_path):
    model = ours("codegen", "ForCausalLM")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    tensors["transformer.h.0.attn.causal_mask"] = torch.ones(1, 1, 40, 40).tril().byte()
    save_file(tensors, tmp_path / "model.safetensors")
    ids = torch.arange(5, 20)[None]
    assert torch.equal(CodeGenForCausalLM.from_pretrained(tmp_path)(ids).logits, model(ids).logits)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"n_embd": 30, "n_head": 4}, r"n_embd \(30\) is not a multiple of n_head \(4\)"),
        ({"n_embd": 36, "n_head": 6, "rotary_dim": 4}, "n_head is 6; expected a multiple of 4"),
        ({"rotary_dim": 512}, "rotary_dim is 512; expected at most 256, the size of a head"),
        ({"rotary_dim": 7}, "expected an even number"),
        ({"scale_attn_weights": False}, "scale_attn_weights is False; only True is implemented"),
        ({"activation_function": "mish"}, "activation_function is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        CodeGenConfig(**values)
