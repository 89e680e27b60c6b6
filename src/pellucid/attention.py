"""`attend`: the one door to attention kernels; and `attend_blocks`, for architectures whose blocks see few others."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import Layout

Bias = Callable[[Tensor, Tensor], Tensor]  # from q and k to what is added to their scores, (H, T, T) or (B, H, T, T)

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


def report_attention(weights: Callable[[], Tensor]) -> None:
    """Show weights, (B, H, T, T), that an architecture computes without `attend`; called only when someone watches."""
    watcher = None if torch.compiler.is_compiling() else _watcher.get()
    if watcher is not None:
        watcher.append(weights())


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
        bias: from the queries and keys of texts of one length, (B, H, T, D) each, to what is added to their scores,
            (H, T, T) or (B, H, T, T), where an H of 1 stands for all; it may depend on how far tokens are apart, not
            on where the text begins.
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
        added = bias(q, k).to(q.dtype)
        added = added if added.dim() == 4 else added[None]  # (B or 1, H, T, T)
        mask = added if mask is None else added.masked_fill(~mask, float("-inf"))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask, dropout_p=dropout, scale=scale), None


def _watched_kernel(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, bias: Bias | None, scale: float | None, dropout: float
) -> tuple[Tensor, Tensor]:
    scores = q @ k.transpose(-1, -2) * (1 / math.sqrt(q.shape[-1]) if scale is None else scale)  # (B, H, T, T)
    if bias is not None:
        scores = scores + bias(q, k).to(q.dtype)
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


# --- blocks -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Blocks:
    """Which blocks of a text see which; blocks are counted from its first token.

    Attributes:
        size: tokens of a block.
        seen: (texts, H, N, K), the numbers of the K blocks that each of N sees; one that is there twice counts twice.
        counts: (texts, H, N, K), false on what only fills up.
        ends: (texts, 2), the numbers of the first and the last block, which see all.
    """

    size: int
    seen: Tensor
    counts: Tensor
    ends: Tensor


def attend_blocks(q: Tensor, k: Tensor, v: Tensor, layout: Layout, blocks: Blocks) -> Tensor:
    """Let every token look at the real tokens that its block sees: softmax(q k' / sqrt(D)) v.

    Args:
        q: (B, H, T, D).
        k: (B, H, T, D).
        v: (B, H, T, D).
        layout: where the tokens sit; padding and other texts are not looked at.
        blocks: what sees what.

    Returns:
        (B, H, T, D). Rows of padding hold finite numbers without meaning.
    """
    aligned = layout.align(layout.positions)[1]
    real = torch.ones_like(aligned.positions, dtype=torch.bool) if aligned.keep is None else aligned.keep
    fill = -real.shape[1] % blocks.size
    q, k, v = (F.pad(layout.align(x.transpose(1, 2))[0].transpose(1, 2), (0, 0, 0, fill)) for x in (q, k, v))
    real = F.pad(real, (0, fill))
    out = _attend_aligned_blocks(q, k, v, real | ~real.any(dim=-1, keepdim=True), blocks)  # all padding: no NaN
    report_attention(lambda: _block_weights(q, k, real, layout, blocks))
    return layout.unalign(out[:, :, : out.shape[2] - fill].transpose(1, 2)).transpose(1, 2)


def _attend_aligned_blocks(q: Tensor, k: Tensor, v: Tensor, real: Tensor, blocks: Blocks) -> Tensor:
    """Attend in rows that begin with their text and are whole blocks; `real`, (B, T), is true on tokens."""
    row = torch.arange(len(q), device=q.device)[:, None, None, None]
    head = torch.arange(q.shape[1], device=q.device)[:, None, None]
    near = [x.unflatten(2, (-1, blocks.size)) for x in (q, k, v)]  # (B, H, N, S, D)
    near[1:] = [x[row, head, blocks.seen].flatten(3, 4) for x in near[1:]]  # (B, H, N, K S, D)
    mask = (real.unflatten(1, (-1, blocks.size))[row, blocks.seen] & blocks.counts[..., None]).flatten(3)
    out = F.scaled_dot_product_attention(*(x.flatten(0, 1) for x in near), attn_mask=mask.flatten(0, 1)[:, :, None])
    places = blocks.ends[..., None] * blocks.size + torch.arange(blocks.size, device=q.device)  # (B, 2, S)
    places = places.flatten(1)[:, None, :, None].expand(-1, q.shape[1], -1, q.shape[3])
    far = F.scaled_dot_product_attention(q.gather(2, places), k, v, attn_mask=real[:, None, None])
    return out.view(q.shape).scatter(2, places, far)


def _block_weights(q: Tensor, k: Tensor, real: Tensor, layout: Layout, blocks: Blocks) -> Tensor:
    """Write the weights of aligned blocks as one matrix of the batch's tokens, (B, H, T, T)."""
    shape = (*blocks.seen.shape[:3], blocks.seen.shape[2])
    times = q.new_zeros(shape).scatter_add(-1, blocks.seen, blocks.counts.to(q.dtype))  # (texts, H, N, N)
    times = times.scatter(2, blocks.ends[:, None, :, None].expand(-1, shape[1], -1, shape[3]), 1.0)
    times = times.repeat_interleave(blocks.size, dim=2).repeat_interleave(blocks.size, dim=3)
    scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1]) + times.log()
    weights = scores.masked_fill(~real[:, None, None], float("-inf")).softmax(dim=-1)
    if layout.lengths is not None:
        return _block_diagonal([row[:, :n, :n] for row, n in zip(weights, layout.lengths, strict=True)])
    length = layout.positions.shape[1]
    weights = weights[:, :, :length, :length]
    for dim in (2, 3):
        weights = layout.unalign(weights.transpose(1, dim)).transpose(1, dim)
    return weights
