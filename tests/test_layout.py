"""`Layout`: positions count from each text's own first real token, however the texts are laid out."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid import Layout
from pellucid.errors import InputError, ShapeError

lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def batch(rows, sides, longest):
    """Make a mask, (B, T), and the slice of each text."""
    places = [slice(0, n) if s == "right" else slice(longest - n, longest) for n, s in zip(rows, sides, strict=True)]
    mask = torch.zeros(len(rows), longest, dtype=torch.long)
    for row, place in zip(mask, places, strict=True):
        row[place] = 1
    return mask, places


@settings(max_examples=100, deadline=None)
@given(rows=lengths, data=st.data(), extra=st.integers(0, 3))
def test_positions_and_first_tokens(rows, data, extra):
    sides = data.draw(st.lists(st.sampled_from(["left", "right"]), min_size=len(rows), max_size=len(rows)))
    mask, places = batch(rows, sides, max(rows) + extra)
    padded, packed = Layout.of(mask, mask), Layout.packed(rows)
    x = torch.randn(*mask.shape, 4)
    row = torch.cat([x[i, place] for i, place in enumerate(places)])[None]  # (1, N, 4)
    firsts = torch.stack([x[i, place.start] for i, place in enumerate(places)])
    assert torch.equal(padded.first(x), firsts) and torch.equal(packed.first(row), firsts)
    lasts = torch.stack([x[i, place.stop - 1] for i, place in enumerate(places)])
    assert torch.equal(padded.last(x), lasts) and torch.equal(packed.last(row), lasts)
    assert padded.spans.tolist() == packed.spans.tolist() == rows
    start = 0
    for i, (place, length) in enumerate(zip(places, rows, strict=True)):
        counted = torch.arange(length)
        assert torch.equal(padded.positions[i, place], counted)
        assert torch.equal(packed.positions[0, start : start + length], counted)
        assert int(padded.starts[i]) == place.start and int(packed.starts[i]) == start
        start += length
    assert (padded.positions >= 0).all() and padded.positions.max() < mask.shape[1]
    assert (padded.keep is None) == bool(mask.all())


@settings(max_examples=50, deadline=None)
@given(rows=lengths)
def test_unpacking_and_packing_again(rows):
    packed = Layout.packed(rows)
    x = torch.randn(1, sum(rows), 4)
    unpacked, layout = packed.unpack(x)
    assert unpacked.shape == (len(rows), max(rows), 4)
    assert torch.equal(packed.pack(unpacked), x)
    assert torch.equal(layout.first(unpacked), packed.first(x))
    padded = Layout.of(unpacked)
    assert padded.unpack(unpacked)[0] is unpacked and padded.pack(unpacked) is unpacked


@settings(max_examples=50, deadline=None)
@given(rows=lengths, data=st.data(), extra=st.integers(0, 3))
def test_aligning_and_back(rows, data, extra):
    sides = data.draw(st.lists(st.sampled_from(["left", "right"]), min_size=len(rows), max_size=len(rows)))
    mask, places = batch(rows, sides, max(rows) + extra)
    x = torch.randn(*mask.shape, 4)
    for layout, tokens in (
        (Layout.of(mask, mask), x),
        (Layout.packed(rows), torch.cat([x[i, place] for i, place in enumerate(places)])[None]),
    ):
        aligned, of_rows = layout.align(tokens)
        for i, (place, length) in enumerate(zip(places, rows, strict=True)):
            assert torch.equal(aligned[i, :length], x[i, place])
            assert of_rows.keep is None or of_rows.keep[i].tolist() == [j < length for j in range(aligned.shape[1])]
        assert torch.equal(layout.unalign(aligned), tokens)


def test_no_padding():
    ids = torch.ones(2, 5, dtype=torch.long)
    for mask in (None, torch.ones(2, 5), torch.ones(2, 5, dtype=torch.bool)):
        layout = Layout.of(ids, mask)
        assert layout.keep is None and torch.equal(layout.positions, torch.arange(5).expand(2, 5))
    assert Layout.of(torch.randn(2, 5, 8)).positions.shape == (2, 5)  # embeddings
    assert Layout.of(ids, layout) is layout


def test_holes_and_rows_of_padding():
    mask = torch.tensor([[0, 1, 0, 1], [0, 0, 0, 0]])
    layout = Layout.of(mask, mask)
    assert layout.positions[0].tolist() == [0, 0, 1, 2]  # a hole counts: it is a token that is hidden
    assert layout.positions[1].tolist() == [0, 1, 2, 3]
    assert torch.equal(layout.first(torch.arange(8).view(2, 4, 1)).flatten(), torch.tensor([1, 4]))


def test_empty_batches():
    assert Layout.of(torch.ones(0, 5)).positions.shape == (0, 5)
    assert Layout.of(torch.ones(0, 5), torch.ones(0, 5)).keep is None


IDS = torch.ones(2, 5, dtype=torch.long)
BAD = {
    "one text": (IDS[0], None, ShapeError, r"input_ids has the shape \(5,\); expected a batch.*input_ids\[None\]"),
    "a number": (torch.tensor(3), None, ShapeError, r"has the shape \(\)"),
    "mask too short": (IDS, torch.ones(2, 4), InputError, r"attention_mask has the shape \(2, 4\), the input \(2, 5\)"),
    "mask of one text": (IDS, torch.ones(5), InputError, r"has the shape \(5,\)"),
    "mask for each pair of tokens": (IDS, torch.ones(2, 5, 5), InputError, r"has the shape \(2, 5, 5\)"),
    "mask that is added to scores": (IDS, torch.tensor([[0.0] * 4 + [-1e9]] * 2), InputError, "holds -1000000000.0"),
    "mask of text numbers": (IDS, torch.tensor([[1, 1, 2, 2, 3]] * 2), InputError, "holds 2; expected 1 on real"),
    "mask of NaN": (IDS, torch.full((2, 5), float("nan")), InputError, "holds nan"),
    "a list": (IDS, [[1] * 5] * 2, InputError, "attention_mask is a list; expected a tensor"),
    "layout of others": (IDS, Layout.packed([2, 3]), InputError, r"is of \(1, 5\) tokens, the input of \(2, 5\)"),
}  # fmt: skip


@pytest.mark.parametrize(("tokens", "mask", "error", "message"), BAD.values(), ids=BAD)
def test_what_is_no_layout(tokens, mask, error, message):
    with pytest.raises(error, match=message):
        Layout.of(tokens, mask)


@pytest.mark.parametrize("rows", [[], [0], [3, 0, 2], [-1, 5]])
def test_texts_of_no_token(rows):
    with pytest.raises(InputError, match="texts of at least one token; got"):
        Layout.packed(rows)
