"""ESM's masked tokens and its contacts."""

import pytest
import torch

from oracle import ours, reference


@pytest.fixture
def batch():
    torch.manual_seed(0)
    ids = torch.randint(5, 99, (3, 12))
    ids[:, 0], ids[0, -1], ids[1, 8], ids[2, 5] = 0, 2, 2, 2  # <cls>, <eos>
    mask = (torch.arange(12) < torch.tensor([[12], [9], [6]])).long()
    return ids.where(mask.bool(), 1), mask


def test_masked_tokens(batch):
    ids, mask = batch
    ids[0, [2, 3]] = ids[2, 1] = 4
    mine = ours("esm", "Model")(input_ids=ids, attention_mask=mask).last_hidden_state
    theirs = reference("esm", "Model")(input_ids=ids, attention_mask=mask).last_hidden_state
    assert torch.allclose(mine[mask.bool()], theirs[mask.bool()], atol=1e-5)


@pytest.mark.parametrize("head", ["Model", "ForMaskedLM"])
def test_contacts(batch, head):
    ids, mask = batch
    mine = ours("esm", head).predict_contacts(ids, mask)
    original = reference("esm", head)
    original.set_attn_implementation("eager")
    theirs = original.predict_contacts(ids, mask)
    assert mine.shape == theirs.shape == (3, 10, 10)
    for i, length in enumerate([12, 9, 6]):
        inside = slice(0, length - 2)
        assert torch.allclose(mine[i, inside, inside], theirs[i, inside, inside], atol=1e-5)
        alone = ours("esm", head).predict_contacts(ids[i : i + 1, :length])[0]
        assert torch.allclose(mine[i, inside, inside], alone, atol=1e-5)
