"""GPT-OSS: experts in MXFP4, as the released files hold them, and what its config may say."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from cases import CASES
from pellucid.errors import ConfigError, WeightsError
from pellucid.models.gpt_oss import GptOssConfig, GptOssForCausalLM

SIZES = {**CASES["gpt_oss"], "hidden_size": 64, "intermediate_size": 32}


def packed_folder(folder):
    """Write a model whose experts are in MXFP4; return its blocks and scales."""
    torch.manual_seed(0)
    model = GptOssForCausalLM(GptOssConfig(**SIZES)).bfloat16()
    model.save_pretrained(folder)
    tensors, packed = load_file(folder / "model.safetensors"), {}
    for name in [name for name in tensors if name.endswith(("gate_up_proj", "down_proj"))]:
        experts, size, out = tensors.pop(name).shape
        packed[name] = (
            torch.randint(0, 256, (experts, out, size // 32, 16), dtype=torch.uint8),
            torch.randint(118, 124, (experts, out, size // 32), dtype=torch.uint8),
        )
        tensors[f"{name}_blocks"], tensors[f"{name}_scales"] = packed[name]
    save_file(tensors, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": ["lm_head"]}
    del config["dtype"]  # which the released ones do not say
    (folder / "config.json").write_text(json.dumps(config))
    return packed


def test_mxfp4_becomes_plain(tmp_path):
    from transformers import GptOssForCausalLM as Original
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    packed = packed_folder(tmp_path / "packed")
    model = GptOssForCausalLM.from_pretrained(tmp_path / "packed")
    exact = GptOssForCausalLM.from_pretrained(tmp_path / "packed", dtype="float32")
    assert packed and model.dtype == torch.bfloat16
    for name, (blocks, scales) in packed.items():
        wanted = convert_moe_packed_tensors(blocks, scales)
        assert torch.equal(model.state_dict()[name], wanted)
        assert torch.equal(exact.state_dict()[name], wanted.float())
    exact.save_pretrained(tmp_path / "plain")
    assert json.loads((tmp_path / "plain/config.json").read_text())["quantization_config"] is None
    original = Original.from_pretrained(tmp_path / "plain")
    ids = torch.arange(5, 20)[None]
    assert torch.allclose(exact(ids).logits, original(ids).logits, atol=1e-5)


def test_broken_mxfp4_is_explained(tmp_path):
    packed_folder(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    name = "model.layers.1.mlp.experts.down_proj"
    faults = {
        "lost": {n: t for n, t in tensors.items() if n != f"{name}_scales"},
        "short": tensors | {f"{name}_blocks": tensors[f"{name}_blocks"][..., :8].contiguous()},
        "twice": tensors | {name: torch.zeros(2)},
    }
    for changed in faults.values():
        save_file(changed, tmp_path / "model.safetensors")
        with pytest.raises(WeightsError, match=rf"{name}_blocks .* looks like MXFP4; expected .* {name}_scales"):
            GptOssForCausalLM.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"quantization_config": {"quant_method": "gptq"}}, "quant_method 'gptq'; only 'mxfp4' is implemented"),
        ({"layer_types": ["full_attention"]}, "layer_types is .*; expected 2 of sliding_attention and full_attention"),
        ({"num_experts_per_tok": 6}, "num_experts_per_tok is 6; expected 1 to 5"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        GptOssConfig(**SIZES | values)


def test_positions_are_stretched_unless_the_file_says_how():
    from transformers import GptOssConfig as Original

    ours, original = GptOssConfig(), Original()
    stretch = {name: value for name, value in original.rope_parameters.items() if name != "rope_theta"}
    assert ours.rope_parameters == stretch and ours.rope_theta == original.rope_parameters["rope_theta"]
    assert GptOssConfig.from_dict({"rope_scaling": {"rope_type": "default"}}).rope_parameters is None
