"""New vocabularies: the same as the original learns from the same texts."""

import pytest

from pellucid.errors import ArgumentError, TokenizerError
from pellucid.tokenizer import Tokenizer

from .cases import corpus

BATCHES = [corpus()[start : start + 50] for start in range(0, 300, 50)]


@pytest.mark.parametrize("family", ["bert", "gpt2", "roberta", "t5"])
def test_same_vocabulary(both, family):
    ours, original = both(family)
    trained, expected = (tokenizer.train_new_from_iterator(BATCHES, 600) for tokenizer in (ours, original))
    if family in ("gpt2", "roberta"):  # the others' trainers decide ties at random
        assert trained.get_vocab() == expected.get_vocab()
        assert trained("some new text")["input_ids"] == expected("some new text")["input_ids"]
    assert type(trained) is type(ours)
    assert len(trained) <= 600 + 100
    assert trained.special_tokens_map == ours.special_tokens_map
    assert trained.padding_side == ours.padding_side
    framed = trained.convert_ids_to_tokens(trained("a", "b")["input_ids"])
    assert [token for token in framed if token in trained.all_special_tokens] == [
        token
        for token in ours.convert_ids_to_tokens(ours("a", "b")["input_ids"])
        if token in ours.all_special_tokens and token != ours.unk_token
    ]


def test_special_tokens_may_change(bert):
    trained = bert.train_new_from_iterator(
        iter(BATCHES), 600, new_special_tokens=["<x>"], special_tokens_map={"[CLS]": "<cls>", "[UNK]": "<unk>"}
    )
    assert (trained.cls_token, trained.unk_token) == ("<cls>", "<unk>")
    assert trained.tokenize("a<x>", add_special_tokens=True) == ["<cls>", "a", "<x>", "[SEP]"]
    assert "<x>" in trained.extra_special_tokens
    assert len(bert) == 30522


def test_unknown_options(bert):
    with pytest.raises(ArgumentError, match="'min_frequenzy'; did you mean 'min_frequency'"):
        bert.train_new_from_iterator(BATCHES, 600, min_frequenzy=1)
    assert len(bert.train_new_from_iterator(BATCHES, 600, min_frequency=10**6)) < 600


def test_it_round_trips(bert, tmp_path):
    trained = bert.train_new_from_iterator(BATCHES, 600)
    trained.save_pretrained(tmp_path)
    again = Tokenizer.from_pretrained(tmp_path)
    assert again("some new text")["input_ids"] == trained("some new text")["input_ids"]


def test_a_kind_that_can_not_be_trained(monkeypatch, bert):
    from pellucid.tokenizer import training

    monkeypatch.setattr(training, "_TRAINERS", {})
    with pytest.raises(TokenizerError, match="a WordPiece vocabulary can not be learned"):
        bert.train_new_from_iterator(BATCHES, 600)
