"""Recurrences: chunks and states change nothing, and a state has read the real tokens of its text alone."""

import pytest
import torch
import torch.nn.functional as F

from pellucid import Layout
from pellucid.recurrence import CHUNK, causal_conv, linear_attend, quiet, scan

LONG = 2 * CHUNK + 9


def draw(*shape):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(len(shape)))


def attend_by_hand(q, k, v, log_decay, state, beta):
    """Write into the state and read it, token by token, in float64."""
    q, k = (x.double().repeat_interleave(v.shape[1] // x.shape[1], dim=1) for x in (q, k))
    v, log_decay, state = v.double(), log_decay.double(), state.double()
    outs = []
    for t in range(v.shape[2]):
        state = state * log_decay[:, :, t].exp()[..., None, None]
        new = v[:, :, t]
        if beta is not None:
            new = beta[:, :, t, None].double() * (new - torch.einsum("bhkv,bhk->bhv", state, k[:, :, t]))
        state = state + torch.einsum("bhk,bhv->bhkv", k[:, :, t], new)
        outs.append(torch.einsum("bhkv,bhk->bhv", state, q[:, :, t]))
    return torch.stack(outs, dim=2).float(), state.float()


def attention(length, delta):
    """Draw the arguments of `linear_attend`: two heads of keys, four of values."""
    q, k = draw(3, 2, length, 5), F.normalize(draw(3, 2, length, 5) + 0.5, dim=-1)
    v, log_decay, state = draw(3, 4, length, 6), -draw(3, 4, length).abs(), draw(3, 4, 5, 6)
    return q, k, v, log_decay, state, draw(3, 4, length).sigmoid() if delta else None


@pytest.mark.parametrize("delta", [False, True])
@pytest.mark.parametrize("length", [1, CHUNK, LONG])
def test_linear_attention_is_what_it_says(length, delta):
    q, k, v, log_decay, state, beta = attention(length, delta)
    wanted, last = attend_by_hand(q, k, v, log_decay, state, beta)
    out, state = linear_attend(q, k, v, log_decay, state, beta=beta)
    assert torch.allclose(out, wanted, atol=1e-5) and torch.allclose(state, last, atol=1e-5)


@pytest.mark.parametrize("delta", [False, True])
def test_linear_attention_goes_on_from_its_state(delta):
    q, k, v, log_decay, _, beta = attention(LONG, delta)
    whole, end = linear_attend(q, k, v, log_decay, beta=beta)
    outs, state, start = [], None, 0
    for stop in (1, 5, CHUNK + 7, LONG):
        some, now = slice(start, stop), None if beta is None else beta[:, :, start:stop]
        out, state = linear_attend(q[:, :, some], k[:, :, some], v[:, :, some], log_decay[:, :, some], state, beta=now)
        outs.append(out)
        start = stop
    assert torch.allclose(torch.cat(outs, dim=2), whole, atol=1e-5) and torch.allclose(state, end, atol=1e-5)


def test_a_decay_to_nothing_is_finite_and_so_are_its_gradients():
    q, k, v, log_decay, _, beta = attention(LONG, True)
    log_decay = (1e4 * log_decay).requires_grad_()
    out, _ = linear_attend(q, k, v, log_decay, beta=beta)
    (gradient,) = torch.autograd.grad(out.sum(), log_decay)
    assert out.isfinite().all() and gradient.isfinite().all()


@pytest.mark.parametrize("state", [None, draw(2, 3)])
def test_scan(state):
    decay, update = draw(2, 7, 3).sigmoid(), draw(2, 7, 3)
    states, last = scan(decay, update, state)
    wanted = torch.zeros(2, 3) if state is None else state
    for t in range(7):
        wanted = decay[:, t] * wanted + update[:, t]
        assert torch.allclose(states[:, t], wanted, atol=1e-6)
    assert torch.equal(states[:, -1], last)
    assert last.untyped_storage().nbytes() == last.nbytes  # a cache that keeps it keeps nothing else


@pytest.mark.parametrize("width", [1, 2, 4])
@pytest.mark.parametrize("side", ["left", "right"])
def test_convolution_over_texts_of_any_length(width, side):
    """Texts of 5, 0 and 1 tokens, in pieces of two; the last piece may be shorter than what is kept."""
    weight, bias, lengths = draw(3, 1, width), draw(3), [5, 0, 1]
    texts = [draw(1, length, 3) for length in lengths]
    mask = torch.tensor([[True] * n + [False] * (6 - n) for n in lengths])
    mask = mask if side == "right" else mask.flip(1)
    x = torch.full((3, 6, 3), 9.0)
    x[mask] = torch.cat(texts, dim=1)[0]
    outs, before = [], None
    for start in (0, 2, 4):
        layout = Layout.of(x[:, start : start + 2], mask[:, start : start + 2].long())
        rows, aligned = layout.align(x[:, start : start + 2])
        rows, before = causal_conv(rows, weight, bias, aligned, before)
        outs.append(layout.unalign(rows))
    found = torch.cat(outs, dim=1)
    for i, text in enumerate(texts):
        late = F.pad(text, (0, 0, width - 1, 0))  # zeros come before it
        wanted = [(late[0, t : t + width] * weight[:, 0].T).sum(0) + bias for t in range(text.shape[1])]
        assert torch.allclose(found[i][mask[i]], torch.stack(wanted) if wanted else torch.empty(0, 3), atol=1e-6)
        assert torch.equal(before[i], late[0, text.shape[1] :])


def test_quiet():
    x = torch.ones(2, 3, 4)
    layout = Layout.of(x, torch.tensor([[1, 1, 0], [1, 1, 1]]))
    assert torch.equal(quiet(x, layout)[0, :, 0], torch.tensor([1.0, 1.0, 0.0]))
    assert torch.equal(quiet(x[..., 0], layout)[1], torch.ones(3))
    assert quiet(x, Layout.of(x)) is x
