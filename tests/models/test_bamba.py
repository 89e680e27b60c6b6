"""Bamba's configurations, and its second loss."""

import pytest
import torch

from oracle import ours
from pellucid.errors import ConfigError
from pellucid.models.bamba import BambaConfig


def test_what_layers_are():
    small = {"vocab_size": 9, "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    config = BambaConfig(**small, mamba_n_heads=8, num_hidden_layers=3, attn_layer_indices=[1])
    assert (config.inner_size, config.head_size, config.key_heads) == (128, 16, 2)
    assert config.replace(num_key_value_heads=None).key_heads == 4


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"mamba_n_heads": 100}, r"mamba_n_heads \(100\) \* mamba_d_head \('auto'\) is not mamba_expand"),
        ({"mamba_d_head": 32}, r"mamba_n_heads \(128\) \* mamba_d_head \(32\) is not"),
        ({"mamba_d_head": "big"}, r"mamba_d_head \('big'\) is not"),
        ({"mamba_n_groups": 3}, r"mamba_n_heads \(128\) is not a multiple of mamba_n_groups \(3\)"),
        ({"mamba_d_conv": 0}, "mamba_d_conv is 0; expected 1 to 100000000"),
        ({"num_key_value_heads": 5}, r"num_attention_heads \(32\) is not a multiple of num_key_value_heads \(5\)"),
        ({"attn_layer_indices": [1, 40]}, r"attn_layer_indices is \[1, 40\]; expected some of 32 layers"),
        ({"time_step_limit": [1, 0]}, "time_step_limit is"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        BambaConfig(**values)


@torch.no_grad()
def test_padding_does_not_count_in_the_second_loss():
    model = ours("bamba:biases", "ForCausalLM")
    ids = torch.randint(5, 99, (1, 7), generator=torch.Generator().manual_seed(0))
    padded, mask = torch.cat([ids, torch.full((1, 3), 3)], dim=1), torch.tensor([[1] * 7 + [0] * 3])
    labels = padded.masked_fill(mask == 0, -100)
    alone = model(ids, labels=ids).loss
    assert torch.allclose(model(padded, attention_mask=mask, labels=labels).loss, alone, atol=1e-6)
    assert alone > torch.nn.functional.cross_entropy(model(ids).logits[0, :-1], ids[0, 1:])
