"""Longformer's global tokens, its blocks and its default choice of who looks everywhere."""

import pytest
import torch

from oracle import ours, reference
from pellucid import AutoConfig, Layout
from pellucid.errors import ConfigError, InputError
from pellucid.models.longformer import LongformerConfig, LongformerModel

BASE = {  # longformer-base-4096's
    "attention_mode": "longformer", "attention_probs_dropout_prob": 0.1, "attention_window": [512] * 12,
    "bos_token_id": 0, "eos_token_id": 2, "gradient_checkpointing": False, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "hidden_size": 768, "ignore_attention_mask": False, "initializer_range": 0.02,
    "intermediate_size": 3072, "layer_norm_eps": 1e-05, "max_position_embeddings": 4098, "model_type": "longformer",
    "num_attention_heads": 12, "num_hidden_layers": 12, "pad_token_id": 1, "sep_token_id": 2, "type_vocab_size": 1,
    "vocab_size": 50265,
}  # fmt: skip
LENGTHS = [23, 30, 6, 2]
SEP = 2


def batch():
    """Draw texts, padded on the right, and global tokens: none, some or all of a text: (ids, mask, chosen)."""
    torch.manual_seed(0)
    mask = (torch.arange(30) < torch.tensor(LENGTHS)[:, None]).long()
    chosen = (torch.rand(4, 30) < 0.2).long()
    chosen[2], chosen[3] = 1, 0
    return torch.randint(5, 99, (4, 30)).masked_fill(mask == 0, 1), mask, chosen


def pairs():
    """Write questions and contexts, <s> question </s></s> context </s>, padded on the right: (ids, mask)."""
    ids, mask, _ = batch()
    ids, mask = ids[:3], mask[:3]
    for row, first in enumerate((4, 11, 2)):
        ids[row, 0], ids[row, first], ids[row, first + 1] = 0, SEP, SEP
        ids[row, LENGTHS[row] - 1] = SEP
    return ids, mask


def test_a_published_config():
    config = LongformerConfig.from_dict(BASE)
    assert config.to_dict() == BASE
    assert config.max_tokens == 4096


@pytest.mark.parametrize("window", [3, 0, [4], [4, 5]])
def test_impossible_windows_are_refused(window):
    with pytest.raises(ConfigError, match="attention_window is"):
        AutoConfig.for_model("longformer", num_hidden_layers=2, attention_window=window)


def test_global_tokens():
    model, original = ours("longformer", "Model"), reference("longformer", "Model")
    ids, mask, chosen = batch()
    theirs = original(ids, attention_mask=mask, global_attention_mask=chosen)
    mine = model(ids, mask, chosen)
    assert torch.allclose(mine.last_hidden_state[mask.bool()], theirs.last_hidden_state[mask.bool()], atol=1e-5)
    assert torch.allclose(mine.pooler_output, theirs.pooler_output, atol=1e-5)
    original.zero_grad()
    theirs.last_hidden_state[mask.bool()].square().sum().backward()
    mine.last_hidden_state[mask.bool()].square().sum().backward()
    for name, parameter in original.named_parameters():
        if parameter.grad is not None:
            assert torch.allclose(model.get_parameter(name).grad, parameter.grad, atol=1e-4, rtol=1e-4), name


def test_global_tokens_in_any_batch():
    model = ours("longformer", "Model")
    ids, mask, chosen = batch()
    alone = [model(ids[i : i + 1, :n], None, chosen[i : i + 1, :n])[0] for i, n in enumerate(LENGTHS)]
    keep = mask.bool()
    packed = model(ids[keep][None], Layout.packed(LENGTHS), chosen[keep][None])[0]
    assert torch.allclose(packed, torch.cat(alone, dim=1), atol=1e-5)
    left = [torch.stack([row.roll(30 - n) for row, n in zip(x, LENGTHS, strict=True)]) for x in (ids, mask, chosen)]
    assert torch.allclose(model(*left)[0][left[1].bool()], torch.cat(alone, dim=1)[0], atol=1e-5)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    assert torch.allclose(compiled(ids, mask, chosen)[0][keep], torch.cat(alone, dim=1)[0], atol=1e-5)


def test_attention_weights():
    model, original = ours("longformer", "Model"), reference("longformer", "Model")
    ids, mask, chosen = batch()
    theirs = original(ids, attention_mask=mask, global_attention_mask=chosen, output_attentions=True)
    mine = model(ids, mask, chosen, output_attentions=True).attentions
    for layer, reach in enumerate((2, 4)):
        near, far = theirs.attentions[layer], theirs.global_attentions[layer]  # (B, H, T, G + 2 reach + 1), (.., G)
        most = far.shape[-1]
        for row, length in enumerate(LENGTHS):
            places = chosen[row, :length].nonzero().flatten().tolist()
            for token in range(length):
                wanted = torch.zeros(4, 30)
                if token in places:
                    wanted[:, :30] = far[row, :, :30, places.index(token)]
                else:
                    wanted[:, places] = near[row, :, token, : len(places)]
                    for key in range(max(0, token - reach), min(length, token + reach + 1)):
                        if key not in places:
                            wanted[:, key] = near[row, :, token, most + reach + key - token]
                assert torch.allclose(mine[layer][row, :, token], wanted, atol=1e-5), (layer, row, token)


@pytest.mark.parametrize("head", ["ForQuestionAnswering", "ForMultipleChoice"])
def test_the_default_global_tokens_of_pairs(head):
    model, original = ours("longformer", head), reference("longformer", head)
    ids, mask = pairs()
    keep = mask.bool()
    inputs = {"input_ids": ids, "attention_mask": mask}
    if head == "ForMultipleChoice":
        inputs = {name: x[None] for name, x in inputs.items()}
    theirs, mine = original(**inputs), model(**inputs)
    packed = model(ids[keep][None], Layout.packed(LENGTHS[:3]))
    for name, value in theirs.items():
        value, part = (value, mine[name]) if head == "ForMultipleChoice" else (value[keep], mine[name][keep])
        assert torch.allclose(part, value, atol=1e-5), name
        assert torch.allclose(packed[name].flatten(), value.flatten(), atol=1e-5), name
    without = model(**inputs, global_attention_mask=torch.zeros_like(inputs["input_ids"]))
    assert not torch.allclose(mine[0], without[0], atol=1e-5)


def test_time_grows_with_the_length_only():
    """A long text never asks for a matrix of all pairs of tokens."""
    config = LongformerConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8,
                              attention_window=8, max_position_embeddings=200_002)  # fmt: skip
    model = LongformerModel.from_config(config).eval()
    with torch.no_grad():
        out = model(torch.full((1, 200_000), 5), global_attention_mask=torch.arange(200_000)[None] == 0)
    assert out.last_hidden_state.isfinite().all()


def test_a_global_mask_of_another_shape():
    model = ours("longformer", "Model")
    with pytest.raises(InputError, match=r"global_attention_mask is \(1, 4\), the input \(1, 5\)"):
        model(torch.full((1, 5), 7), global_attention_mask=torch.ones(1, 4))
