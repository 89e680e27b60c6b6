"""Results: read by attribute, key, index or unpacking, and what is absent does not count."""

import copy
import pickle

import pytest
import torch

from oracle import ours, reference
from pellucid import ModelOutput
from pellucid.errors import ArgumentError, InputError
from pellucid.outputs import Hidden, Logits, PreTraining, Spans

X, Y = torch.ones(2, 3), torch.zeros(2)
IDS = torch.tensor([[5, 6, 7]])


def test_every_way_to_read():
    out = Hidden(last_hidden_state=X, pooler_output=Y)
    assert out.last_hidden_state is out["last_hidden_state"] is out[0] is X
    assert out.pooler_output is out[1] is out[-1] is Y
    x, y = out
    assert x is X and y is Y
    assert out.keys() == ["last_hidden_state", "pooler_output"] and len(out) == 2
    assert out.to_tuple() == (X, Y) == tuple(out.values()) == out[:2]
    assert dict(out) == dict(out.items()) == {**out}
    assert "pooler_output" in out and "loss" not in out and out.get("loss", 3) == 3 and out.get("pooler_output") is Y
    assert isinstance(out, ModelOutput)


def test_what_is_absent_does_not_count():
    out = Logits(logits=X)
    assert out.loss is None and out[0] is X and out.keys() == ["logits"] and len(out) == 1
    (x,) = out
    assert x is X
    loss, logits = Logits(loss=Y, logits=X)
    assert loss is Y and logits is X
    assert Hidden(last_hidden_state=X).to_tuple() == (X,)
    assert Spans(start_logits=X, end_logits=Y)[1] is Y
    assert PreTraining(prediction_logits=X, seq_relationship_logits=Y).keys()[0] == "prediction_logits"


def test_what_is_recorded_comes_last():
    out = Logits(logits=X)
    out.hidden_states, out.attentions = (X,), (Y,)
    assert out.keys() == ["logits", "hidden_states", "attentions"] and out[1] == (X,)


@pytest.mark.parametrize(("key", "error"), [("loss", KeyError), ("x", KeyError), (1, IndexError), (-2, IndexError)])
def test_parts_that_are_not_there(key, error):
    with pytest.raises(error):
        Logits(logits=X)[key]


@pytest.mark.parametrize("twin", [copy.copy, copy.deepcopy, lambda out: pickle.loads(pickle.dumps(out))])
def test_copies(twin):
    out = twin(Hidden(last_hidden_state=X))
    assert torch.equal(out[0], X) and out.pooler_output is None and isinstance(out, Hidden)


def test_a_call_decides_what_is_returned():
    model = ours("bert", "ForMaskedLM")
    plain = model(IDS)
    assert model(IDS, return_dict=True).keys() == model(IDS, use_cache=False, head_mask=None).keys() == ["logits"]
    row = model(IDS, return_dict=False)
    assert type(row) is tuple and torch.equal(row[0], plain.logits)
    everything = model(IDS, output_hidden_states=True, output_attentions=True, return_dict=False)
    assert [type(part) for part in everything] == [torch.Tensor, tuple, tuple]
    assert len(everything[1]) == 3 and len(everything[2]) == 2


def test_a_config_decides_when_a_call_does_not():
    model = ours("bert", "Model", output_attentions=True)
    assert "attentions" in model(IDS) and "attentions" not in model(IDS, output_attentions=False)
    model.config.output_hidden_states = True
    assert len(model(IDS).hidden_states) == 3


def test_the_original_gives_the_same_parts_in_the_same_order():
    model, original = ours("distilbert", "ForQuestionAnswering"), reference("distilbert", "ForQuestionAnswering")
    options = {"start_positions": torch.tensor([1]), "end_positions": torch.tensor([2]), "output_hidden_states": True}
    assert model(IDS, **options).keys() == list(original(IDS, **options).keys())


BAD_CALLS = {
    "keyword": ({"attention_masks": None}, ArgumentError, "'attention_masks'; did you mean 'attention_mask'"),
    "a cache": ({"past_key_values": [1]}, ArgumentError, "no argument 'past_key_values'"),
    "id": ({"input_ids": torch.tensor([[5, 99]])}, InputError, "input_ids holds 99; expected 0 to 98. Does the"),
    "negative id": ({"input_ids": torch.tensor([[5, -1]])}, InputError, "input_ids holds -1; expected 0 to 98"),
    "fractions": ({"input_ids": torch.tensor([[5.0]])}, InputError, "input_ids is of torch.float32; expected whole"),
    "booleans": ({"input_ids": torch.tensor([[True]])}, InputError, "input_ids is of torch.bool"),
    "a list": ({"input_ids": [[5]]}, InputError, "input_ids is a list; expected a tensor"),
    "nothing": ({"input_ids": None}, InputError, "exactly one of input_ids, inputs_embeds; got none"),
    "both": ({"inputs_embeds": torch.ones(1, 3, 32)}, InputError, "got input_ids, inputs_embeds"),
    "too long": ({"input_ids": torch.ones(1, 41, dtype=torch.long)}, InputError, "has 41 tokens, this model reads 40"),
    "too long embeddings": ({"input_ids": None, "inputs_embeds": torch.ones(1, 50, 32)}, InputError, "has 50 tokens"),
    "position": ({"position_ids": torch.tensor([[0, 1, 40]])}, InputError, "position_ids holds 40; expected 0 to"),
    "token type": ({"token_type_ids": torch.tensor([[0, 1, 2]])}, InputError, "token_type_ids holds 2; expected 0"),
    "label": ({"labels": torch.tensor([3])}, InputError, "labels: Target 3 is out of bounds.*classes that the head"),
    "mask": ({"attention_mask": [[1, 1, 1]]}, InputError, "attention_mask is a list"),
}  # fmt: skip


@pytest.mark.parametrize(("inputs", "error", "message"), BAD_CALLS.values(), ids=BAD_CALLS)
def test_bad_calls_are_explained(inputs, error, message):
    model = ours("bert", "ForSequenceClassification")
    with pytest.raises(error, match=message):
        model(**{"input_ids": IDS} | inputs)


def test_choices_that_are_too_long_name_their_length():
    with pytest.raises(InputError, match="has 41 tokens, this model reads 40"):
        ours("bert", "ForMultipleChoice")(torch.ones(1, 2, 41, dtype=torch.long))
