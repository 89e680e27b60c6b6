"""ERNIE's task ids; the promises of `test_models.py` leave them at 0."""

import pytest
import torch

from cases import HEADS
from oracle import ours, reference
from pellucid.errors import InputError
from pellucid.models.ernie import ErnieConfig
from test_models import numbers

BASE = {  # ernie-3.0-base-zh's
    "architectures": ["ErnieForMaskedLM"], "attention_probs_dropout_prob": 0.1, "hidden_act": "gelu",
    "hidden_dropout_prob": 0.1, "hidden_size": 768, "initializer_range": 0.02, "intermediate_size": 3072,
    "layer_norm_eps": 1e-05, "max_position_embeddings": 2048, "model_type": "ernie", "num_attention_heads": 12,
    "num_hidden_layers": 12, "task_type_vocab_size": 3, "type_vocab_size": 4, "use_task_id": True, "vocab_size": 40000,
}  # fmt: skip


def test_a_published_config():
    assert ErnieConfig.from_dict(BASE).to_dict() == BASE


def inputs(*shape):
    torch.manual_seed(0)
    return {"input_ids": torch.randint(5, 99, shape), "task_type_ids": torch.randint(0, 3, shape)}


@pytest.mark.parametrize(
    ("architecture", "head"),
    [("ernie", head) for head in HEADS["ernie"] if head != "ForMultipleChoice"] + [("ernie:decoder", "ForCausalLM")],
)
def test_task_ids(architecture, head):
    theirs = reference(architecture, head)(**inputs(3, 9))
    for name, value in numbers(ours(architecture, head)(**inputs(3, 9))).items():
        assert torch.allclose(value, theirs[name], atol=1e-5), name


def test_task_ids_of_choices():
    """The original does not take them apart with the choices."""
    model, nested = ours("ernie", "ForMultipleChoice"), inputs(2, 3, 9)
    flat = {name: ids.flatten(0, 1) for name, ids in nested.items()}
    assert torch.allclose(model(**nested).logits.flatten(), model(**flat).logits.flatten(), atol=1e-6)
    assert not torch.allclose(model(**nested).logits, model(nested["input_ids"]).logits, atol=1e-3)


def test_task_ids_without_a_table():
    model = type(ours("ernie", "Model"))(
        ErnieConfig(**{**ours("ernie", "Model").config.to_dict(), "use_task_id": False})
    )
    ids = torch.ones(1, 3, dtype=torch.long)
    with pytest.raises(InputError, match="use_task_id is false"):
        model(ids, task_type_ids=torch.zeros_like(ids))
