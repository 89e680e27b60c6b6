import pytest
import torch

import tiny
from pellucid.errors import ArgumentError
from pellucid.pipelines import pipeline

TASK, TEXT = "feature-extraction", "anna works for the unbelievable acme corp"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("features"), TASK)


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline(TASK, folder)


def test_same_as_the_original(pipe, folder):
    original = tiny.original(TASK, folder)
    for inputs in (TEXT, "", [TEXT, "berlin"], [TEXT]):
        ours, theirs = pipe(inputs), original(inputs)
        assert isinstance(ours, list) and tiny.numbers(ours) == pytest.approx(tiny.numbers(theirs), abs=1e-5)
    assert [len(x) for x in (pipe(TEXT), pipe(TEXT)[0], pipe(TEXT)[0][0])] == [1, 9 + 1, 32]
    ours, theirs = pipe(TEXT, return_tensors=True), original(TEXT, return_tensors=True)
    assert ours.shape == theirs.shape and torch.allclose(ours, theirs, atol=1e-5)
    long = "berlin " * 100
    for options in ({"truncation": True}, {"tokenize_kwargs": {"truncation": True}}):
        short = pipe(long, return_tensors=True, **options)
        assert torch.allclose(short, original(long, return_tensors=True, truncation=True), atol=1e-5)


def test_long_texts_have_a_row_a_token(pipe):
    text = " ".join(tiny.WORDS[i % len(tiny.WORDS)] for i in range(150))
    ids = pipe.tokenizer(text)["input_ids"]
    hidden = pipe(text, return_tensors=True)
    assert hidden.shape == (1, len(ids), 32)
    pieces = pipe.preprocess(text)
    rows = [pipe.rows(pipe.forward([piece]), [piece])[0] for piece in pieces]
    assert torch.allclose(hidden[0, 0], rows[0][0], atol=1e-5) and torch.allclose(
        hidden[0, -1], rows[-1][-1], atol=1e-5
    )
    for number in (0, 40, 75, 149):
        where = [
            (min(number - p["first"], len(p["input_ids"]) - 3 - number + p["first"]), -i) for i, p in enumerate(pieces)
        ]
        best = -max(where)[1]
        assert torch.allclose(hidden[0, 1 + number], rows[best][1 + number - pieces[best]["first"]], atol=1e-5)


def test_unknown_options(pipe):
    with pytest.raises(ArgumentError, match="did you mean 'truncation'"):
        pipe(TEXT, tokenize_kwargs={"truncate": True})
