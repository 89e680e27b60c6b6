"""FNet's transform of texts of many lengths, and a published config.json."""

import pytest
import torch

from oracle import ours, reference
from pellucid import Layout
from pellucid.errors import ConfigError
from pellucid.models.fnet import FNetConfig, fourier_waves, mix, mix_padded

BASE = {  # fnet-base's
    "architectures": ["FNetForPreTraining"], "bos_token_id": 1, "eos_token_id": 2, "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-12, "max_position_embeddings": 512, "model_type": "fnet", "num_hidden_layers": 12,
    "pad_token_id": 3, "torch_dtype": "float32", "tpu_short_seq_length": 512, "transformers_version": "4.11.0.dev0",
    "type_vocab_size": 4, "use_tpu_fourier_optimizations": False, "vocab_size": 32000,
}  # fmt: skip


def test_a_published_config():
    config = FNetConfig.from_dict(BASE)
    assert config.max_tokens == 512 and config.to_dict() == BASE


def test_an_unknown_activation_is_refused():
    with pytest.raises(ConfigError, match="hidden_act is 'glu'"):
        FNetConfig(hidden_act="glu")


def test_only_what_the_mask_keeps_is_transformed():
    torch.manual_seed(0)
    x = torch.randn(4, 200, 24)
    keep = torch.rand(4, 200) < torch.tensor([[0.99], [0.5], [0.01], [0.0]])  # holes too, and nothing at all
    mixed = mix_padded(x, fourier_waves(keep))
    assert mixed.isfinite().all()
    for row, kept, got in zip(x[:3], keep, mixed, strict=False):
        assert torch.allclose(got[kept], mix(row[kept][None])[0], atol=1e-3, rtol=1e-5)


def test_without_a_mask_padding_is_text():
    """As released models were trained."""
    ids = torch.tensor([[7, 8, 9, 3, 3, 3], [7, 8, 9, 10, 11, 12]])
    mine, theirs = (model(input_ids=ids).last_hidden_state for model in (f("fnet", "Model") for f in (ours, reference)))
    assert torch.allclose(mine, theirs, atol=1e-5)
    masked = ours("fnet", "Model")(ids, attention_mask=ids != 3).last_hidden_state
    assert not torch.allclose(masked[0, :3], mine[0, :3], atol=1e-2)


def test_many_lengths_at_once():
    model, rows = ours("fnet", "Model"), [torch.randint(5, 99, (length,)) for length in (38, 1, 2, 31, 38)]
    lengths = [len(row) for row in rows]
    packed = model(torch.cat(rows)[None], Layout.packed(lengths)).last_hidden_state[0].split(lengths)
    for row, part in zip(rows, packed, strict=True):
        assert torch.allclose(part, reference("fnet", "Model")(row[None]).last_hidden_state[0], atol=1e-5)
