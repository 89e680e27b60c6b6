"""`attend`: the one door to attention kernels; and `attend_blocks`, for architectures whose blocks see few others."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError
from .layout import Layout

SCORES = 2**24  # that are computed at a time where no kernel does it

# From q and k, and how many tokens each query is after each key, (B or 1, T, S), to what is added to their scores.
Bias = Callable[[Tensor, Tensor, Tensor], Tensor]


@dataclass
class Watched:
    """Attention weights, (B, H, T, S) each, in the order of the calls: of texts to themselves, and to a source."""

    own: list[Tensor] = field(default_factory=list)
    cross: list[Tensor] = field(default_factory=list)


_watcher: ContextVar[Watched | None] = ContextVar("watcher", default=None)


@contextmanager
def watch_attention(watched: Watched | None = None) -> Iterator[Watched]:
    """Collect the attention weights of every `attend` inside the block, in what is given, or in a new one.

    Only calls of the same thread are seen. The weights are computed by an explicit softmax, which gives the same output
    up to rounding and takes memory quadratic in the length.
    """
    watched = Watched() if watched is None else watched
    token = _watcher.set(watched)
    try:
        yield watched
    finally:
        _watcher.reset(token)


def report_attention(weights: Callable[[], Tensor]) -> None:
    """Show weights, (B, H, T, T), that an architecture computes without `attend`; called only when someone watches."""
    watcher = None if torch.compiler.is_compiling() else _watcher.get()
    if watcher is not None:
        watcher.own.append(weights())


def attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    layout: Layout,
    *,
    source: Layout | None = None,
    causal: bool = False,
    scale: float | None = None,
    bias: Bias | None = None,
    alibi: Tensor | None = None,
    window: int | None = None,
    softcap: float | None = None,
    sinks: Tensor | None = None,
    dropout: float = 0.0,
) -> Tensor:
    """Let every token look at the real tokens of its own text: softmax(scale q k' + bias) v.

    Args:
        q: (B, H, T, D).
        k: (B, K, S, D); each of its heads serves H / K neighbouring heads of q. S is T, or more with a cache.
        v: (B, K, S, D), or with heads of another size.
        layout: where the tokens sit; padding and other texts are not looked at.
        source: where the S tokens of another text sit, of which k and v are, as the encoder's beside a decoder. There
            may be fewer of these texts, each for as many neighbouring rows of q.
        causal: whether a token looks at itself and those before it only.
        scale: of the scores; 1 / sqrt(D) by default.
        bias: from the queries and keys of texts of one length, (B, H, T, D) and (B, K, S, D), and how many tokens each
            query is after each key, (B or 1, T, S), to what is added to their scores, (H, T, S) or (B, H, T, S), where
            an H of 1 stands for all; not beside a source.
        alibi: how much each head's scores grow from one key to the next, (H,).
        window: how many tokens to each side a token looks at most; None for all.
        softcap: the c of c tanh(scores / c), which keeps scores between -c and c before anything is added.
        sinks: one more score a head, (H,), that takes its share of the softmax and gives nothing.
        dropout: the probability of dropping a weight; 0 outside training.

    Returns:
        (B, H, T, D). Rows of padding hold finite numbers without meaning.
    """
    how = _Scoring(causal, scale, bias, alibi, window, softcap, sinks, dropout)
    watcher = None if torch.compiler.is_compiling() else _watcher.get()
    if source is not None:
        out, weights = _attend_source(q, k, v, layout, source, how, watcher is not None)
    else:
        attend_in = _attend_rows if layout.lengths is None else _attend_packed
        out, weights = attend_in(q, k, v, layout, how, watcher is not None)
    if watcher is not None and weights is not None:
        (watcher.own if source is None else watcher.cross).append(weights)
    return out


class _Scoring(NamedTuple):  # which is made in no time
    """The arguments of `attend` that say how much tokens look at each other."""

    causal: bool
    scale: float | None
    bias: Bias | None
    alibi: Tensor | None
    window: int | None
    softcap: float | None
    sinks: Tensor | None
    dropout: float


def _attend_rows(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, how: _Scoring, watched: bool
) -> tuple[Tensor, Tensor | None]:
    """Attend in a batch of one text a row; return the weights, too, if they are watched."""
    length, padded = q.shape[2], layout.keep is not None or layout.key_keep is not None
    if how.causal and how.window is not None and length == 1 and not padded and not watched:
        k, v = k[:, :, -how.window - 1 :], v[:, :, -how.window - 1 :]  # all that the last token sees
    near = how.window is None or how.window >= k.shape[2] - 1
    explicit = watched or how.softcap is not None or how.sinks is not None
    whole = how.causal and near and not padded and k.shape[2] == length and how.bias is None and how.alibi is None
    if whole and not explicit:  # the one mask that kernels know
        return _kernel(q, k, v, None, how, triangle=length > 1), None
    mask = _added(q, k, layout, _mask(layout, length, k.shape[2], how), how)
    return _explicit_kernel(q, k, v, mask, how, watched) if explicit else (_kernel(q, k, v, mask, how), None)


def _mask(layout: Layout, length: int, size: int, how: _Scoring) -> Tensor | None:
    """True where a token may look, (B or 1, 1, T or 1, S); None when everywhere.

    Padding may look anywhere: a row of scores that are all masked would become NaN.
    """
    keep = layout.keep if layout.key_positions is None else layout.key_keep
    if keep is None and how.window is None and (not how.causal or length == 1):
        return None
    if (not how.causal or length == 1) and how.window is None and keep is not None:  # one token is the last
        return (keep | ~keep.any(dim=-1, keepdim=True))[:, None, None, :]
    queries, keys = (x[:, None] for x in _places(layout, size, all_alike=keep is None))
    seen = keys <= queries + (0 if how.causal else how.window or 0)  # (B or 1, 1, T, S); differences would be large
    if how.window is not None:
        seen = seen & (keys >= queries - how.window)
    if keep is not None:
        seen = seen & keep[:, None, None, -size:]
    return seen if layout.keep is None else seen | ~layout.keep[:, None, :, None]


def _places(layout: Layout, size: int, all_alike: bool) -> tuple[Tensor, Tensor]:
    """Return the positions of queries, (B, T, 1), and of keys, (B, 1, S); a B of 1 where all rows are alike."""
    keys = layout.positions if layout.key_positions is None else layout.key_positions
    rows = 1 if all_alike else len(keys)
    return layout.positions[:rows, :, None], keys[:rows, None, -size:]


def _apart(layout: Layout, size: int, all_alike: bool) -> Tensor:
    """Return how many tokens each query is after each key, (B, T, S), or (1, T, S) where all rows are alike."""
    queries, keys = _places(layout, size, all_alike)
    return queries - keys


def _added(q: Tensor, k: Tensor, layout: Layout, mask: Tensor | None, how: _Scoring) -> Tensor | None:
    """Write what is added to the scores into the mask; one of true and false stays so when nothing is."""
    alike = layout.keep is None and layout.key_keep is None
    if how.bias is not None:
        added = how.bias(q, k, _apart(layout, k.shape[2], alike))
        added = added if added.dim() == 4 else added[None]  # (B or 1, H, T, S)
    elif how.alibi is not None:
        apart = _apart(layout, k.shape[2], alike)[:, None]  # small where it matters
        added = -how.alibi[:, None, None] * apart
    else:
        return mask
    added = added.to(q.dtype)
    return added if mask is None else torch.where(mask, added, float("-inf"))


def _attend_source(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, source: Layout, how: _Scoring, watched: bool
) -> tuple[Tensor, Tensor | None]:
    """Attend to other texts: all of each of them."""
    if layout.lengths is not None:
        return _attend_packed_source(q, k, v, layout.lengths, source.lengths or (), how, watched)
    times = len(q) // max(1, len(k))
    if times > 1:  # neighbouring rows are like more tokens of one
        q = q.unflatten(0, (len(k), times)).transpose(1, 2).flatten(2, 3)
    mask = None
    if source.keep is not None:
        mask = (source.keep | ~source.keep.any(dim=-1, keepdim=True))[:, None, None, :]
    explicit = watched or how.softcap is not None
    out, weights = _explicit_kernel(q, k, v, mask, how, watched) if explicit else (_kernel(q, k, v, mask, how), None)
    if times > 1:
        out = out.unflatten(2, (times, -1)).transpose(1, 2).flatten(0, 1)
        weights = None if weights is None else weights.unflatten(2, (times, -1)).transpose(1, 2).flatten(0, 1)
    return out, weights


def _attend_packed_source(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: tuple[int, ...],
    sources: tuple[int, ...],
    how: _Scoring,
    watched: bool,
) -> tuple[Tensor, Tensor | None]:
    """Attend from each text of a packed batch to the one of the same number in another."""
    if len(lengths) != len(sources):
        raise InputError(f"The packed batches have {len(lengths)} and {len(sources)} texts; expected as many.")
    explicit = watched or how.softcap is not None
    outs, blocks = [], []
    for row, key, value in zip(q.split(lengths, 2), k.split(sources, 2), v.split(sources, 2), strict=True):
        out, weights = (
            _explicit_kernel(row, key, value, None, how, watched)
            if explicit
            else (_kernel(row, key, value, None, how), None)
        )
        outs.append(out)
        blocks += [] if weights is None else [weights[0]]
    return torch.cat(outs, dim=2), _block_diagonal(blocks) if blocks else None


def _kernel(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: _Scoring, triangle: bool = False) -> Tensor:
    shape, groups = q.shape[:3], q.shape[1] // k.shape[1]
    if groups > 1 and q.shape[2] == 1:  # heads of one key head are like tokens that see the same: nothing is copied
        q = q.reshape(len(q), k.shape[1], groups, q.shape[3])
        if mask is not None and mask.shape[1] > 1:
            mask = mask.reshape(len(mask), k.shape[1], groups, mask.shape[3])
    elif groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    if mask is None and not triangle and not how.dropout and shape[2] > 1 and _is_short(q, k):
        scale = 1 / math.sqrt(q.shape[-1]) if how.scale is None else how.scale
        q, k, v = (x.flatten(0, 1) for x in (q, k, v))
        scores = torch.baddbmm(q.new_empty(1, 1, 1), q, k.transpose(1, 2), beta=0, alpha=scale)
        out = torch.bmm(scores.softmax(dim=-1), v)
    else:
        lone = q.shape[2] == 1 and q.dtype == torch.bfloat16  # the CPU's kernel is slow with a single row
        out = F.scaled_dot_product_attention(
            q.expand(-1, -1, 2, -1) if lone else q,
            k,
            v,
            attn_mask=mask,
            dropout_p=how.dropout,
            is_causal=triangle,
            scale=how.scale,
        )
        out = out[:, :, :1] if lone else out
    return out.reshape(*shape, out.shape[-1])


def _is_short(q: Tensor, k: Tensor) -> bool:
    """Tell whether products of whole matrices beat the CPU's kernel, as they do while the scores stay in its cache."""
    if q.device.type != "cpu" or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return False
    return k.shape[2] <= (512 if q.dtype == torch.bfloat16 else 48)


def _explicit_kernel(
    q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, how: _Scoring, watched: bool
) -> tuple[Tensor, Tensor | None]:
    """Compute and soften every score; some rows at a time, unless somebody watches."""
    groups, scale = q.shape[1] // k.shape[1], 1 / math.sqrt(q.shape[-1]) if how.scale is None else how.scale
    if groups > 1:
        k, v = k.repeat_interleave(groups, dim=1), v.repeat_interleave(groups, dim=1)
    step = q.shape[2] if watched else max(1, SCORES // (max(1, len(q)) * q.shape[1] * k.shape[2]))
    outs, weights = [], None
    for start in range(0, q.shape[2], step):
        rows = slice(start, start + step)
        scores = q[:, :, rows] @ k.transpose(-1, -2) * scale  # (B, H, some of T, S)
        if how.softcap is not None:
            scores = how.softcap * torch.tanh(scores / how.softcap)
        if mask is not None:
            some = mask[:, :, rows] if mask.shape[2] > 1 else mask
            scores = scores.masked_fill(~some, float("-inf")) if some.dtype == torch.bool else scores + some
        if how.sinks is not None:
            sinks = how.sinks.to(scores.dtype)[:, None, None].expand(*scores.shape[:-1], 1)
            weights = torch.cat([scores, sinks], dim=-1).softmax(dim=-1)[..., :-1]
        else:
            weights = scores.softmax(dim=-1)
        weights = F.dropout(weights, how.dropout)
        outs.append(weights @ v)
    return outs[0] if len(outs) == 1 else torch.cat(outs, dim=2), weights if watched else None


def _attend_packed(
    q: Tensor, k: Tensor, v: Tensor, layout: Layout, how: _Scoring, watched: bool
) -> tuple[Tensor, Tensor | None]:
    """Attend once for each run of neighbouring texts of equal length."""
    out = v.new_empty(1, q.shape[2], q.shape[1], v.shape[3]).transpose(1, 2)  # in the order in which heads are joined
    blocks, start = [], 0
    for run in layout.runs:
        texts, length = run.positions.shape
        span = slice(start, start + texts * length)
        rows = (x[0, :, span].unflatten(1, (texts, length)).transpose(0, 1) for x in (q, k, v))
        found, weights = _attend_rows(*rows, run, how, watched)  # (texts, H, length, D)
        out[0, :, span].unflatten(1, (texts, length)).copy_(found.transpose(0, 1))
        blocks += [] if weights is None else list(weights)
        start = span.stop
    return out, _block_diagonal(blocks) if blocks else None


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
