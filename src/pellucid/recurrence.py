"""What layers with a state share: short causal convolutions, running sums that fade, and attention written as one.

Rows begin with the first token of their text, as `Layout.align` lays them out; only padding follows. A state has read
the tokens of its text and nothing else: on padding, what would change it is set to 0 with `quiet`.
"""

import torch
import torch.nn.functional as F
from torch import Tensor

from .layout import Layout

CHUNK = 64  # tokens that are read at once; changes only rounding


def quiet(x: Tensor, layout: Layout) -> Tensor:
    """Set to 0 on padding, (B, T, ...)."""
    if layout.keep is None:
        return x
    return x.masked_fill(~layout.keep.view(*layout.keep.shape, *[1] * (x.dim() - 2)), 0)


def causal_conv(
    x: Tensor, weight: Tensor, bias: Tensor | None, layout: Layout, before: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Mix each channel of a token with those of the few tokens before it.

    Args:
        x: (B, T, C), aligned.
        weight: of K tokens, the present one last, (C, 1, K).
        bias: (C,).
        layout: of the aligned rows.
        before: the K - 1 tokens before these, (B, K - 1, C); None at the beginning of a text, which zeros precede.

    Returns:
        (B, T, C), and the last K - 1 tokens of each text, (B, K - 1, C).
    """
    width = weight.shape[-1]
    if before is None:
        before = x.new_zeros(len(x), width - 1, x.shape[2])
    x = torch.cat([before, x], dim=1)
    places = layout.spans[:, None] + torch.arange(width - 1, device=x.device)  # where a text ends, padding begins
    after = x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
    return F.conv1d(x.transpose(1, 2), weight, bias, groups=x.shape[2]).transpose(1, 2), after


def scan(decay: Tensor, update: Tensor, state: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return all states of state = decay * state + update, and the last by itself.

    Args:
        decay: (B, T, ...), 0 to 1.
        update: (B, T, ...).
        state: the one to begin with, (B, ...); None for 0.

    Returns:
        (B, T, ...), and (B, ...), which keeps none of the others in memory.
    """
    last = torch.zeros_like(update[:, 0]) if state is None else state
    states = []
    for fade, new in zip(decay.unbind(1), update.unbind(1), strict=True):
        last = torch.addcmul(new, fade, last)
        states.append(last)
    return torch.stack(states, dim=1), last


def linear_attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    log_decay: Tensor,
    state: Tensor | None = None,
    *,
    beta: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Attend without a softmax, by a state that tokens are written into and read from: out = q' state.

    A token fades the state and adds itself, state = decay * state + k v'. With `beta` it corrects what the state has
    under its key, instead: state = decay * state + beta k (v - decay * state' k)', the gated delta rule.

    Tokens are read in chunks. Inside one, a token looks at those before it as in attention, with scores (q' k) that
    have faded since; the corrections of a chunk depend on each other one after the other, which is a triangular system.
    Papers: Dao and Gu, 2024, https://arxiv.org/abs/2405.21060; Yang et al., 2024, https://arxiv.org/abs/2412.06464

    Args:
        q: (B, G, T, K).
        k: (B, G, T, K).
        v: (B, H, T, V); H / G neighbouring heads share a head of q and k.
        log_decay: the logarithm of each token's decay, (B, H, T), at most 0. On padding 0, as v or beta.
        state: (B, H, K, V); None for 0.
        beta: (B, H, T).

    Returns:
        (B, H, T, V), and the state after the last token.
    """
    groups, dtype = q.shape[1], v.dtype
    q, k = (x.float()[:, :, None] for x in (q, k))  # (B, G, 1, T, K)
    v, log_decay = (x.float().unflatten(1, (groups, -1)) for x in (v, log_decay))  # (B, G, H / G, T, ...)
    beta = None if beta is None else beta.float().unflatten(1, (groups, -1))[..., None]
    state = v.new_zeros(*v.shape[:3], k.shape[-1], v.shape[-1]) if state is None else state.unflatten(1, (groups, -1))
    outs = []
    for start in range(0, v.shape[3], CHUNK):
        some = (slice(None), slice(None), slice(None), slice(start, start + CHUNK))
        now = None if beta is None else beta[some]
        out, state = _read_chunk(q[some], k[some], v[some], log_decay[some], state, now)
        outs.append(out)
    return torch.cat(outs, dim=3).flatten(1, 2).to(dtype), state.flatten(1, 2)


def _read_chunk(
    q: Tensor, k: Tensor, v: Tensor, log_decay: Tensor, state: Tensor, beta: Tensor | None
) -> tuple[Tensor, Tensor]:
    after = torch.ones(q.shape[3], q.shape[3], dtype=torch.bool, device=q.device).tril(-1)
    # From behind token j to token i; differences of one running sum would cancel.
    sums = log_decay[..., None].masked_fill(~after, 0).cumsum(-2)  # (..., i, j)
    faded = sums.masked_fill(after.T, float("-inf")).exp()
    since = log_decay.cumsum(-1)[..., None].exp()  # from the chunk's beginning
    if beta is not None:
        known = since * (k @ state)  # of what the state had before the chunk
        system = beta * faded * (k @ k.transpose(-1, -2))  # its diagonal is taken to be 1
        v = torch.linalg.solve_triangular(system.tril(-1), beta * (v - known), upper=False, unitriangular=True)
    out = (faded * (q @ k.transpose(-1, -2))) @ v + since * (q @ state)
    state = since[..., -1:, :] * state + k.transpose(-1, -2) @ (faded[..., -1, :, None] * v)
    return out, state
