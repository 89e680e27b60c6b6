"""`attend`: the one door to attention kernels."""

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import Layout

_watcher: ContextVar[list[Tensor] | None] = ContextVar("watcher", default=None)


@contextmanager
def watch_attention() -> Iterator[list[Tensor]]:
    """Collect the attention weights, (B, H, T, T), of every `attend` inside the block, in the order of the calls.

    Only calls of the same thread are seen. The weights are computed by an explicit softmax, which gives the same output up
    to rounding and takes memory quadratic in the length.
    """
    weights: list[Tensor] = []
    token = _watcher.set(weights)
    try:
        yield weights
    finally:
        _watcher.reset(token)


def attend(q: Tensor, k: Tensor, v: Tensor, layout: Layout, *, dropout: float = 0.0) -> Tensor:
    """Let every token look at every real token of its own text: softmax(q k' / sqrt(D)) v.

    Args:
        q: (B, H, T, D).
        k: (B, H, T, D).
        v: (B, H, T, D).
        layout: where the tokens sit; padding and other texts are not looked at.
        dropout: the probability of dropping a weight; 0 outside training.

    Returns:
        (B, H, T, D). Rows of padding hold finite numbers without meaning.
    """
    watcher = None if torch.compiler.is_compiling() else _watcher.get()
    if watcher is not None:
        return _attend_watched(q, k, v, layout, dropout, watcher)
    if layout.lengths is not None:
        return _attend_packed(q, k, v, layout.lengths, dropout)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=_mask(layout), dropout_p=dropout)


def _mask(layout: Layout) -> Tensor | None:
    """True where a token may look, broadcastable to (B, H, T, T); None when everywhere."""
    if layout.sequence is not None:
        return (layout.sequence[:, :, None] == layout.sequence[:, None, :])[:, None]  # (1, 1, N, N)
    if layout.keep is None:
        return None
    empty = ~layout.keep.any(dim=-1, keepdim=True)  # a row of nothing but padding looks at itself: no NaN
    return (layout.keep | empty)[:, None, None, :]  # (B, 1, 1, T)


def _attend_packed(q: Tensor, k: Tensor, v: Tensor, lengths: tuple[int, ...], dropout: float) -> Tensor:
    """Run one kernel call for each run of neighbouring texts of equal length."""
    pieces, start, text = [], 0, 0
    while text < len(lengths):
        length, run = lengths[text], 1
        while text + run < len(lengths) and lengths[text + run] == length:
            run += 1
        rows = (x[0, :, start : start + run * length].unflatten(1, (run, length)).transpose(0, 1) for x in (q, k, v))
        out = F.scaled_dot_product_attention(*rows, dropout_p=dropout)  # (run, H, length, D)
        pieces.append(out.transpose(0, 1).flatten(1, 2))  # (H, run * length, D)
        start, text = start + run * length, text + run
    return torch.cat(pieces, dim=1)[None]


def _attend_watched(q: Tensor, k: Tensor, v: Tensor, layout: Layout, dropout: float, watcher: list[Tensor]) -> Tensor:
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, T, T)
    if (mask := _mask(layout)) is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    watcher.append(weights)
    return weights @ v
