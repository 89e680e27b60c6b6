"""`attend`: a text's result is the same alone, padded on either side or packed, and watching changes nothing."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid import Layout
from pellucid.attention import Blocks, attend, attend_blocks, watch_attention

HEADS, SIZE = 3, 8
lengths = st.lists(st.integers(1, 9), min_size=1, max_size=6)


def draw(rows: list[int], seed: int = 0) -> list[tuple[torch.Tensor, ...]]:
    """Draw q, k and v, (1, H, T, D) each, for texts of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [
        tuple(torch.randn(1, HEADS, n, SIZE, generator=generator, dtype=torch.float64) for _ in "qkv") for n in rows
    ]


def by_hand(q, k, v, window=None, scale=None):
    """Attention of one text, written out."""
    scores = torch.einsum("bhid,bhjd->bhij", q, k) * (1 / math.sqrt(SIZE) if scale is None else scale)
    places = torch.arange(q.shape[2])
    if window is not None:
        scores[..., (places[:, None] - places).abs() > window] = float("-inf")
    return scores.softmax(-1) @ v


def pad(texts, sides, longest, filler):
    """Lay texts out as a batch: ((q, k, v), mask, where each text is)."""
    batch = [torch.full((len(texts), HEADS, longest, SIZE), filler, dtype=torch.float64) for _ in "qkv"]
    mask = torch.zeros(len(texts), longest, dtype=torch.long)
    places = []
    for i, (text, side) in enumerate(zip(texts, sides, strict=True)):
        length = text[0].shape[2]
        place = slice(0, length) if side == "right" else slice(longest - length, longest)
        mask[i, place] = 1
        places.append(place)
        for whole, part in zip(batch, text, strict=True):
            whole[i, :, place] = part[0]
    return batch, mask, places


@settings(max_examples=50, deadline=None)
@given(
    rows=lengths,
    data=st.data(),
    extra=st.integers(0, 3),
    window=st.none() | st.integers(0, 5),
    scale=st.none() | st.floats(0.1, 2),
    watched=st.booleans(),
)
def test_alone_padded_and_packed_agree(rows, data, extra, window, scale, watched):
    texts = draw(rows)
    sides = data.draw(st.lists(st.sampled_from(["left", "right"]), min_size=len(rows), max_size=len(rows)))
    settings = {"window": window, "scale": scale}
    expected = [by_hand(*text, **settings) for text in texts]

    def run(q, k, v, layout):
        if not watched:
            return attend(q, k, v, layout, **settings)
        with watch_attention() as weights:
            out = attend(q, k, v, layout, **settings)
        assert torch.allclose(weights.own[0] @ v, out)
        assert torch.allclose(weights.own[0].sum(-1), torch.ones_like(weights.own[0][..., 0]))
        return out

    (q, k, v), mask, places = pad(texts, sides, max(rows) + extra, filler=7.0)
    together = run(q, k, v, Layout.of(mask, mask))
    assert together.isfinite().all()
    packed = run(*(torch.cat(parts, dim=2) for parts in zip(*texts, strict=True)), layout=Layout.packed(rows))
    start = 0
    for i, (text, place, length) in enumerate(zip(texts, places, rows, strict=True)):
        alone = run(*text, layout=Layout.of(torch.ones(1, length)))
        assert torch.allclose(alone, expected[i])
        assert torch.allclose(together[i, :, place], expected[i][0])
        assert torch.allclose(packed[:, :, start : start + length], expected[i])
        start += length


@pytest.mark.parametrize("window", [None, 1])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_rows_of_padding_are_finite(dtype, window):
    ((q, k, v),) = draw([5])
    q, k, v = (x.to(dtype).repeat(3, 1, 1, 1) for x in (q, k, v))
    mask = torch.tensor([[1, 1, 1, 1, 1], [0, 0, 0, 0, 0], [0, 1, 0, 0, 0]])
    layout = Layout.of(mask, mask)
    assert attend(q, k, v, layout, window=window).isfinite().all()
    with watch_attention() as weights:
        assert attend(q, k, v, layout, window=window).isfinite().all()
    assert weights.own[0].isfinite().all()


def test_padding_is_not_looked_at():
    ((q, k, v),) = draw([6])
    mask = torch.tensor([[0, 1, 1, 1, 0, 0]])
    layout, keep = Layout.of(mask, mask), mask[0].bool()
    out = attend(q, k, v, layout)
    q[:, :, ~keep], k[:, :, ~keep], v[:, :, ~keep] = 50.0, 60.0, 70.0
    assert torch.equal(attend(q, k, v, layout)[:, :, keep], out[:, :, keep])


@pytest.mark.parametrize("kind", [torch.long, torch.int32, torch.uint8, torch.bool, torch.float32, torch.float64])
def test_a_mask_of_any_dtype(kind):
    ((q, k, v),) = draw([4])
    mask = torch.tensor([[1, 1, 0, 0]])
    assert torch.equal(attend(q, k, v, Layout.of(mask, mask.to(kind))), attend(q, k, v, Layout.of(mask, mask)))


def test_gradients_reach_every_text_and_no_padding():
    texts = draw([2, 5])
    (q, k, v), mask, places = pad(texts, ["left", "right"], 6, filler=1.0)
    inputs = [x.requires_grad_() for x in (q, k, v)]
    out = attend(q, k, v, Layout.of(mask, mask))
    torch.stack([out[i, :, place].square().sum() for i, place in enumerate(places)]).sum().backward()
    for x in inputs:
        assert x.grad is not None and x.grad.isfinite().all()
        assert not x.grad.transpose(1, 2)[~mask.bool()].any() and x.grad.transpose(1, 2)[mask.bool()].any()


def test_dropout_only_when_asked():
    ((q, k, v),) = draw([9])
    layout = Layout.of(torch.ones(1, 9))
    assert torch.equal(attend(q, k, v, layout), attend(q, k, v, layout, dropout=0.0))
    assert not torch.equal(attend(q, k, v, layout, dropout=0.5), attend(q, k, v, layout, dropout=0.5))


def test_watching_sees_every_call_of_its_block_and_no_other():
    ((q, k, v),) = draw([4])
    layout = Layout.of(torch.ones(1, 4))
    with watch_attention() as outer:
        attend(q, k, v, layout)
        with watch_attention() as inner:
            attend(q, k, v, layout)
        attend(q, k, v, layout)
    attend(q, k, v, layout)
    assert (len(outer.own), len(inner.own)) == (2, 1)


def test_watched_packed_texts_look_at_themselves_only():
    texts = draw([2, 3, 3])
    with watch_attention() as weights:
        q, k, v = (torch.cat(parts, dim=2) for parts in zip(*texts, strict=True))
        attend(q, k, v, Layout.packed([2, 3, 3]))
    owner = torch.tensor([0, 0, 1, 1, 1, 2, 2, 2])
    same = owner[:, None] == owner
    assert weights.own[0].shape == (1, HEADS, 8, 8)
    assert not weights.own[0][..., ~same].any() and (weights.own[0][..., same] > 0).all()


# --- blocks -----------------------------------------------------------------------------------------------------------


def dense_blocks(q, k, v, blocks, text):
    """Attend in one text, (H, T, D), by a matrix of how often each token is seen."""
    numbers = blocks.seen.shape[2]
    times = torch.zeros(HEADS, numbers, numbers)
    for head in range(HEADS):
        for row in range(numbers):
            for seen, counts in zip(blocks.seen[text, head, row], blocks.counts[text, head, row], strict=True):
                times[head, row, seen] += counts
            if row in blocks.ends[text]:
                times[head, row] = 1
    times = times.repeat_interleave(blocks.size, 1).repeat_interleave(blocks.size, 2)[:, : q.shape[1], : q.shape[1]]
    weights = (q @ k.transpose(-1, -2) / SIZE**0.5 + times.log()).softmax(-1)
    return weights @ v, weights


@pytest.mark.parametrize("side", ["left", "right", "packed"])
def test_blocks(side):
    torch.manual_seed(0)
    lengths, longest = [17, 23, 20], 24
    blocks = Blocks(
        size=4,
        seen=torch.randint(0, 5, (3, HEADS, 6, 4)),
        counts=torch.rand(3, HEADS, 6, 4) < 0.7,
        ends=torch.tensor([[0, 4], [0, 5], [0, 4]]),
    )
    blocks.seen[..., 0], blocks.counts[..., 0] = 0, True  # all see something
    texts = [torch.randn(3, HEADS, length, SIZE) for length in lengths]  # q, k and v of each
    if side == "packed":
        layout, q, k, v = Layout.packed(lengths), *torch.cat(texts, dim=2)[:, None]
    else:
        pads = [(0, 0, *((longest - n, 0) if side == "left" else (0, longest - n))) for n in lengths]
        mask = torch.stack([F.pad(torch.ones(n), pad[2:]) for n, pad in zip(lengths, pads, strict=True)])
        layout = Layout.of(mask, mask)
        q, k, v = torch.stack([F.pad(text, pad) for text, pad in zip(texts, pads, strict=True)], dim=1)
    with watch_attention() as seen:
        out = attend_blocks(q, k, v, layout, blocks)
    start = 0
    for i, (text, length) in enumerate(zip(texts, lengths, strict=True)):
        row = 0 if side == "packed" else i
        first = {"packed": start, "left": longest - length, "right": 0}[side]
        part = slice(first, first + length)
        wanted, weights = dense_blocks(*text, blocks, i)
        assert torch.allclose(out[row, :, part], wanted, atol=1e-5)
        assert torch.allclose(seen.own[0][row, :, part, part], weights, atol=1e-5)
        start += length


# --- ALiBi ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_alibi_far_from_the_beginning(dtype):
    """It is added as a distance: as a position, half precision could not tell neighbours apart."""
    length, slopes = 600, torch.tensor([0.5, 0.1, 0.01])
    q, k, v = draw([length])[0]
    places = torch.arange(length)
    scores = q @ k.transpose(-1, -2) / math.sqrt(SIZE) + slopes[:, None, None] * (places - places[:, None])
    wanted = scores.masked_fill(places > places[:, None], float("-inf")).softmax(-1) @ v
    out = attend(*(x.to(dtype) for x in (q, k, v)), Layout.of(places[None]), causal=True, alibi=slopes)
    assert torch.allclose(out.double(), wanted, atol=1e-6 if dtype == torch.float64 else 0.05)
