"""What a call returns: a dictionary, by name and attribute, that knows its tokens."""

import copy
import pickle
from collections.abc import Mapping

import pytest
import torch

from pellucid.errors import InputError
from pellucid.tokenizer import BatchEncoding


def test_it_is_a_dictionary(bert):
    batch = bert(["a", "b c"], padding=True)
    assert issubclass(BatchEncoding, Mapping)
    assert batch["input_ids"] == batch.input_ids == dict(**batch)["input_ids"]
    assert list(batch.keys()) == ["input_ids", "token_type_ids", "attention_mask"]
    assert len(batch) == 3
    batch["labels"] = [0, 1]
    assert batch.labels == batch.pop("labels") == [0, 1]
    with pytest.raises(AttributeError, match="no 'input_id'; it has: input_ids"):
        _ = batch.input_id
    with pytest.raises(KeyError):
        _ = batch["input_id"]


def test_rows_by_number(bert):
    batch = bert(["a", "b c"])
    assert batch[0].tokens == batch.tokens(0) == ["[CLS]", "a", "[SEP]"]
    assert [row.tokens for row in batch[0:2]] == [batch.tokens(0), batch.tokens(1)]
    assert batch.tokens(-1) == batch.tokens(1)
    assert (batch.n_sequences, batch.is_fast, len(batch.encodings)) == (1, True, 2)
    with pytest.raises(InputError, match="no row 2: this batch has 2"):
        batch.tokens(2)
    with pytest.raises(IndexError):
        _ = batch[2]


def test_tokens_and_characters(bert):
    batch = bert("Hello wörld", "it's")
    assert batch.token_to_chars(2) == (6, 11) == (batch.token_to_chars(2).start, batch.token_to_chars(2).end)
    assert batch.token_to_chars(0) is None
    assert batch.token_to_chars(-2) == (3, 4)
    assert batch.token_to_sequence(0) is None and batch.token_to_sequence(4) == 1
    assert batch.char_to_token(7) == 2 and batch.char_to_token(5) is None
    assert batch.char_to_token(0, sequence_index=1) == 4
    assert batch.word_to_tokens(1) == (2, 3)
    assert batch.word_to_chars(0, sequence_index=1) == (0, 2)
    assert batch.word_to_chars(9) is None and batch.word_to_tokens(9) is None
    for index in (99, -99):
        with pytest.raises(InputError, match=f"no token {index}: this row has 8"):
            batch.token_to_chars(index)
        with pytest.raises(InputError, match=f"no token {index}"):
            batch.token_to_sequence(0, index)
    with pytest.raises(InputError, match="-1 is negative"):
        batch.char_to_token(-1)


def test_rows_that_were_not_tokenized_here(bert):
    for batch in (bert.pad({"input_ids": [[1, 2]]}), BatchEncoding({"input_ids": [[1]]}), BatchEncoding()):
        assert (batch.is_fast, batch.encodings, batch.n_sequences) == (False, None, None)
        with pytest.raises(InputError, match="not made by calling a tokenizer"):
            batch.tokens()
        with pytest.raises(InputError, match="Use one of the names as the key"):
            _ = batch[0]


def test_overflowing_rows(bert):
    batch = bert(["a b c d e", "f"], truncation=True, max_length=4, return_overflowing_tokens=True)
    assert batch["overflow_to_sample_mapping"] == [0, 0, 0, 1]
    assert [batch.tokens(row)[1:-1] for row in range(4)] == [["a", "b"], ["c", "d"], ["e"], ["f"]]
    assert batch.token_to_chars(1, 1) == (4, 5)


@pytest.mark.parametrize("clone", [copy.copy, copy.deepcopy, lambda batch: pickle.loads(pickle.dumps(batch))])
def test_copies(bert, clone):
    batch = bert(["a", "b c"], padding=True, return_tensors="pt")
    twin = clone(batch)
    assert torch.equal(twin.input_ids, batch.input_ids)
    assert twin.tokens(1) == batch.tokens(1)
    assert twin.char_to_token(1, 2) == 2


def test_to_a_device(bert):
    batch = bert(["a", "b c"], padding=True, return_tensors="pt")
    batch["note"] = "kept"
    assert batch.to("meta") is batch
    assert batch.input_ids.device.type == "meta"
    assert batch["note"] == "kept"


def test_to_tensors_later(bert):
    batch = bert(["a", "b"])
    assert batch.convert_to_tensors(None) is batch
    assert batch.convert_to_tensors("pt")["input_ids"].dtype == torch.int64
    assert batch.convert_to_tensors("pt")["input_ids"].shape == (2, 3)
    assert bert("a").convert_to_tensors("np", prepend_batch_axis=True)["input_ids"].shape == (1, 3)
    assert BatchEncoding({"scores": [0.5, 1.5]}, tensor_type="pt")["scores"].dtype == torch.float64
    with pytest.raises(InputError, match="'names' holds"):
        BatchEncoding({"names": ["a", "b"]}, tensor_type="np")
