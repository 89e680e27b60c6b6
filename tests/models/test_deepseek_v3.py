"""DeepSeek-V3: what loading leaves out and keeps exact, and the two ways to attention."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from cases import CASES
from oracle import ours
from pellucid.cache import Cache
from pellucid.errors import ConfigError, WeightsError
from pellucid.models.deepseek_v3 import DeepseekV3Config, DeepseekV3ForCausalLM


def test_layers_that_predict_more_tokens_are_not_read(tmp_path):
    model = ours("deepseek_v3", "ForCausalLM")
    model.save_pretrained(tmp_path)
    tensors = load_file(tmp_path / "model.safetensors")
    extra = {n.replace("layers.2.", "layers.3."): t.clone() for n, t in tensors.items() if ".layers.2." in n}
    extra["model.layers.3.eh_proj.weight"] = torch.zeros(32, 64)
    save_file(tensors | extra, tmp_path / "model.safetensors")
    again = DeepseekV3ForCausalLM.from_pretrained(tmp_path)
    assert not again.load_report.ignored
    assert all(torch.equal(tensor, again.state_dict()[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(WeightsError, match=r"not in the model: model\.layers\.3\."):
        DeepseekV3ForCausalLM.from_pretrained(tmp_path, num_nextn_predict_layers=0)


def test_what_picks_experts_stays_exact(tmp_path):
    exact, half = ours("deepseek_v3", "ForCausalLM"), ours("deepseek_v3", "ForCausalLM", dtype="bfloat16")
    half.save_pretrained(tmp_path)
    again = DeepseekV3ForCausalLM.from_pretrained(tmp_path)
    for model in (half, again):
        for name, tensor in model.state_dict().items():
            if name.endswith("e_score_correction_bias"):
                assert torch.equal(tensor, exact.state_dict()[name])
            else:
                assert tensor.dtype == torch.bfloat16


class Adapted(nn.Module):
    """A linear map and what was learned beside it, as an adapter has it."""

    def __init__(self, inner: nn.Linear):
        super().__init__()
        self.inner, self.beside = inner, nn.Parameter(torch.randn_like(inner.weight) * 0.1)

    def forward(self, x):
        return self.inner(x) + x @ self.beside.T


@torch.no_grad()
def test_an_adapter_counts_for_single_tokens_too():
    torch.manual_seed(0)
    model, ids, cache = ours("deepseek_v3", "ForCausalLM"), torch.arange(5, 15)[None], Cache()
    for layer in model.model.layers:
        layer.self_attn.kv_b_proj = Adapted(layer.self_attn.kv_b_proj)
    whole = model(ids, use_cache=False).logits
    for i in range(10):
        assert torch.allclose(model(ids[:, i : i + 1], cache=cache).logits[0, 0], whole[0, i], atol=1e-5)


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"num_key_value_heads": 2}, "num_key_value_heads is 2; the other sizes make it 4"),
        ({"head_dim": 12}, "head_dim is 12; the other sizes make it 4"),
        ({"q_lora_rank": 0}, "q_lora_rank is 0; expected at least 1"),
        ({"n_group": 3}, r"n_routed_experts \(8\) are not n_group \(3\) of 2 or more"),
        ({"topk_group": 5}, r"topk_group \(5\) is more than n_group \(4\)"),
        ({"num_experts_per_tok": 5}, "num_experts_per_tok is 5; expected 1 to 4, the experts of 2 groups"),
        ({"quantization_config": {"quant_method": "fp8"}}, "quantization_config is"),
        ({"topk_method": "greedy"}, "topk_method is 'greedy'; only 'noaux_tc' is implemented"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        DeepseekV3Config(**CASES["deepseek_v3"] | values)
