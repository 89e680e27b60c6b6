"""PEGASUS-X's published configurations, its blocks and the weights of its attention."""

import pytest
import torch

from oracle import ours, reference
from pellucid import Layout
from pellucid.errors import ConfigError
from pellucid.models.pegasus_x import PegasusXConfig

BASE = {  # pegasus-x-base's
    "activation_dropout": 0.1, "activation_function": "relu", "architectures": ["PegasusXForConditionalGeneration"],
    "attention_dropout": 0.1, "block_size": 512, "bos_token_id": 0, "classif_dropout": 0.0, "classifier_dropout": 0.0,
    "d_model": 768, "decoder_attention_heads": 12, "decoder_ffn_dim": 3072, "decoder_layerdrop": 0.0,
    "decoder_layers": 12, "decoder_start_token_id": 0, "dropout": 0.1, "encoder_attention_heads": 12,
    "encoder_ffn_dim": 3072, "encoder_layerdrop": 0.0, "encoder_layers": 12, "eos_token_id": 1,
    "extra_pos_embeddings": 1, "force_bos_token_to_be_generated": False, "forced_eos_token_id": 1,
    "gradient_checkpointing": False, "init_std": 0.02, "is_encoder_decoder": True, "length_penalty": 0.8,
    "max_length": 16384, "max_position_embeddings": 16384, "model_type": "pegasus_x", "num_beams": 8,
    "num_global_tokens": 128, "num_hidden_layers": 12, "pad_token_id": 0, "scale_embedding": True,
    "stagger_local_blocks": True, "torch_dtype": "float32", "transformers_version": "4.20.1", "use_cache": True,
    "vocab_size": 96103,
}  # fmt: skip
LENGTHS = [23, 30, 6, 2]


def batch():
    """Draw texts, padded on the right: (ids, mask)."""
    torch.manual_seed(0)
    mask = (torch.arange(30) < torch.tensor(LENGTHS)[:, None]).long()
    return torch.randint(5, 99, (4, 30)).masked_fill(mask == 0, 3), mask


def test_a_published_config():
    config = PegasusXConfig.from_dict(BASE)
    assert (config.hidden_size, config.num_hidden_layers, config.max_tokens) == (768, 12, None)
    assert (config.initializer_range, config.block_size, config.num_global_tokens) == (0.02, 512, 128)
    assert config.to_dict() == BASE


@pytest.mark.parametrize("case", ["pegasus_x", "pegasus_x:still"])
def test_texts_of_many_blocks(case):
    model, original = ours(case, "Model").encoder, reference(case, "Model").encoder
    ids, mask = batch()
    keep = mask.bool()
    wanted = original(ids, attention_mask=mask)[0][keep]
    assert torch.allclose(model(ids, mask)[0][keep], wanted, atol=1e-5)
    assert torch.allclose(model(ids[keep][None], Layout.packed(LENGTHS))[0][0], wanted, atol=1e-5)
    left = [torch.stack([row.roll(30 - n) for row, n in zip(x, LENGTHS, strict=True)]) for x in (ids, mask)]
    assert torch.allclose(model(*left)[0][left[1].bool()], wanted, atol=1e-5)


@pytest.mark.parametrize("case", ["pegasus_x", "pegasus_x:still"])
def test_attention_weights(case):
    model, original = ours(case, "Model"), reference(case, "Model")
    ids, mask = batch()
    inputs = {"input_ids": ids, "attention_mask": mask, "decoder_input_ids": ids[:, :2]}
    theirs = original(**inputs, output_attentions=True).encoder_attentions
    mine = model(**inputs, output_attentions=True).encoder_attentions
    most, size = model.config.num_global_tokens, model.config.block_size
    for layer, weights in enumerate(mine):
        earlier = size // 2 if case == "pegasus_x" and layer % 2 else 0
        for row, length in enumerate(LENGTHS):
            for token in range(length):
                block, place = divmod(token + earlier, size)
                wanted = torch.zeros(4, most + 30 + 2 * size)  # some places lie before the text, some after it
                own = theirs[layer]["local"][row, :, block, place]
                wanted[:, :most] = own[:, :most]
                first = most + size + block * size - earlier
                wanted[:, first : first + size] = own[:, most:]
                wanted = torch.cat([wanted[:, :most], wanted[:, most + size : most + size + 30]], dim=1)
                assert torch.allclose(weights[row, :, token], wanted, atol=1e-5), (layer, row, token)


def test_attention_weights_in_any_batch():
    model = ours("pegasus_x", "Model").encoder
    ids, mask = batch()
    together = model(ids[mask.bool()][None], Layout.packed(LENGTHS), output_attentions=True).attentions
    start = 0
    for row, length in zip(ids, LENGTHS, strict=True):
        alone = model(row[None, :length], output_attentions=True).attentions
        for a, b in zip(alone, together, strict=True):
            part = b[:, :, start : start + length]
            assert torch.allclose(part[..., :3], a[..., :3], atol=1e-5)
            assert torch.allclose(part[..., 3 + start : 3 + start + length], a[..., 3:], atol=1e-5)
        start += length


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"d_model": 30, "encoder_attention_heads": 4}, r"d_model \(30\) is not a multiple of"),
        ({"num_global_tokens": 0}, "num_global_tokens is 0; expected at least 1"),
        ({"block_size": 7}, "block_size is 7; expected an even number, or stagger_local_blocks false"),
        ({"activation_function": "mish"}, "activation_function is 'mish'; expected one of gelu"),
    ],
)
def test_impossible_configs(values, says):
    with pytest.raises(ConfigError, match=says):
        PegasusXConfig(**values)
