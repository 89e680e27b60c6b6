"""`attend`: the one door to attention kernels."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import Layout

Bias = Callable[[int], Tensor]  # from a length T to what is added to the scores, (H, T, T) or (1, T, T)

_watcher: ContextVar[list[Tensor] | None] = ContextVar("watcher", default=None)


@contextmanager
def watch_attention() -> Iterator[list[Tensor]]:
    """Collect the attention weights, (B, H, T, T), of every `attend` inside the block, in the order of the calls.

    Only calls of the same thread are seen. The weights are computed by an explicit softmax, which gives the same output
    up to rounding and takes memory quadratic in the length.
    """
    weights: list[Tensor] = []
    token = _watcher.set(weights)
    try:
        yield weights
    finally:
        _watcher.reset(token)


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    scale: float | None = None,
    bias: Bias | None = None,
    window: int | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Let every token look at the real tokens of its own text: softmax(scale q k' + bias) v.

    Args:
        q: (B, H, T, D).
        k: (B, H, T, D).
        v: (B, H, T, D).
        layout: where the tokens sit; padding and other texts are not looked at.
        scale: of the scores; 1 / sqrt(D) by default.
        bias: what is added to the scores of a text, by its length; it may depend on how far tokens are apart, not on
            where the text begins.
        window: how many tokens to each side a token looks at most; None for all.
        dropout: the probability of dropping a weight; 0 outside training.

    Returns:
        (B, H, T, D). Rows of padding hold finite numbers without meaning.
    """
    watcher = None if torch.compiler.is_compiling() else _watcher.get()
    kernel = _kernel if watcher is None else _watched_kernel
    if layout.lengths is None:
        out, weights = kernel(q, k, v, _mask(layout.keep, q.shape[2], window, q.device), bias, scale, dropout)
    else:
        out, weights = _attend_packed(kernel, q, k, v, layout.lengths, window, bias, scale, dropout)
    if watcher is not None and weights is not None:
        watcher.append(weights)
    return out


def _mask(keep: Tensor | None, length: int, window: int | None, device: torch.device) -> Tensor | None:
    """True where a token may look, broadcastable to (B, H, T, T); None when everywhere."""
    if window is None:
        if keep is None:
            return None
        empty = ~keep.any(dim=-1, keepdim=True)  # a row of nothing but padding looks at itself: no NaN
        return (keep | empty)[:, None, None, :]  # (B, 1, 1, T)
    places = torch.arange(length, device=device)
    apart = (places[:, None] - places[None, :]).abs()  # (T, T)
    if keep is None:
        return apart[None, None] <= window
    return ((apart <= window) & keep[:, None, None, :]) | (apart == 0)  # padding far from real tokens looks at itself


def _kernel(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Bias | None, scale: float | None, dropout: float
) -> tuple[Tensor, None]:
    if bias is not None:
        added = bias(q.shape[2]).to(q.dtype)[None]  # (1, H, T, T)
        mask = added if mask is None else added.masked_fill(~mask, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale), None


def _watched_kernel(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Bias | None, scale: float | None, dropout: float
) -> tuple[Tensor, Tensor]:
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)  # (B, H, T, T)
    if bias is not None:
        scores = scores + bias(q.shape[2]).to(q.dtype)
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    weights = F.dropout(scores.softmax(dim=-1), dropout)
    return weights @ v, weights


def _attend_packed(
    kernel: Callable[..., tuple[Tensor, Tensor | None]],
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: tuple[int, ...],
    window: int | None,
    *settings: object,
) -> tuple[Tensor, Tensor | None]:
    """Run one kernel call for each run of neighbouring texts of equal length."""
    pieces, blocks, start, text = [], [], 0, 0
    while text < len(lengths):
        length, run = lengths[text], 1
        while text + run < len(lengths) and lengths[text + run] == length:
            run += 1
        rows = (x[0, :, start : start + run * length].unflatten(1, (run, length)).transpose(0, 1) for x in (q, k, v))
        out, weights = kernel(*rows, _mask(None, length, window, q.device), *settings)  # (run, H, length, D)
        pieces.append(out.transpose(0, 1).flatten(1, 2))  # (H, run * length, D)
        blocks += [] if weights is None else list(weights)
        start, text = start + run * length, text + run
    return torch.cat(pieces, dim=1)[None], _block_diagonal(blocks) if blocks else None


def _block_diagonal(blocks: list[Tensor]) -> Tensor:
    """Lay (H, T, T) blocks along the diagonal of one (1, H, N, N)."""
    heads = [torch.block_diag(*(block[head] for block in blocks)) for head in range(blocks[0].shape[0])]
    return torch.stack(heads)[None]
