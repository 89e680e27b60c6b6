"""LayoutLM reads boxes; the promises of `test_models.py` leave them at 0."""

import pytest
import torch

from oracle import ours, reference
from pellucid import Layout
from pellucid.errors import InputError

HEADS = ["Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"]


def page(batch=2, length=9):
    torch.manual_seed(0)
    ids, corners = torch.randint(5, 99, (batch, length)), torch.randint(0, 500, (batch, length, 2))
    return ids, torch.cat([corners, corners + torch.randint(0, 500, corners.shape)], dim=-1)


@pytest.mark.parametrize("head", HEADS)
def test_boxes(head):
    ids, boxes = page()
    theirs = reference("layoutlm", head)(input_ids=ids, bbox=boxes)
    mine = ours("layoutlm", head)(input_ids=ids, bbox=boxes)
    for name, value in mine.items():
        assert torch.allclose(value, theirs[name], atol=1e-5), name


def test_boxes_of_a_packed_batch():
    ids, boxes = page()
    model = ours("layoutlm", "Model")
    packed = model(input_ids=ids.reshape(1, -1), bbox=boxes.reshape(1, -1, 4), attention_mask=Layout.packed([9, 9]))
    apart = model(input_ids=ids, bbox=boxes).last_hidden_state
    assert torch.allclose(packed.last_hidden_state, apart.reshape(1, 18, -1), atol=1e-5)


@pytest.mark.parametrize("wrong", [[0, 0, 1024, 10], [-1, 0, 5, 5], [7, 0, 6, 5]])
def test_an_impossible_box_names_itself(wrong):
    ids, boxes = page()
    boxes[1, 3] = torch.tensor(wrong)
    with pytest.raises(InputError, match=rf"bbox holds \[{', '.join(map(str, wrong))}\]; expected left, top"):
        ours("layoutlm", "Model")(input_ids=ids, bbox=boxes)
