"""Contrastive search: of the likeliest tokens, that whose meaning is least like anything before it.

Paper: Su et al., 2022, "A Contrastive Framework for Neural Text Generation", https://arxiv.org/abs/2202.06417
"""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from .decoding import Rows, Step
from .reader import Reader
from .request import Request


def contrastive_search(request: Request, rows: Rows, reader: Reader) -> Iterator[Step]:
    """Write, step by step, until every row has ended."""
    alpha, count = request.says("penalty_alpha"), request.says("top_k")
    reader.wanted = reader.wanted | {"output_hidden_states": True}
    if reader.cache is not None:
        reader.cache.crop(0)  # it has no hidden states, of which those of all that was read are needed
    logits = reader.first(request.rows)
    output = reader.output
    states = _states(output)  # (R, P, E), of all that was read
    keep = None if request.keep is None else request.history()[:, -states.shape[1] :] >= 0
    while True:
        scores = request.score(rows.history, rows.text, logits)
        likely, tokens = scores.softmax(dim=-1).topk(min(count, scores.shape[1]))  # (R, k)
        size = tokens.shape[1]
        spread = torch.arange(len(tokens), device=tokens.device).repeat_interleave(size)
        reader.reorder(spread)
        next_logits = reader.next(tokens.flatten())
        new = _states(reader.output)[:, -1].unflatten(0, (-1, size))  # (R, k, E)
        best = (likely * (1 - alpha) - alpha * _likeness(new, states, keep)).argmax(dim=-1)  # (R,)
        each = torch.arange(len(best), device=best.device)
        chosen, written = rows.add(tokens[each, best], scores)
        taken = each * size + best
        reader.reorder(taken)
        yield Step(chosen, written, logits, scores, output)
        if rows.left == 0:
            return
        logits, output = next_logits[taken], reader.output
        states = torch.cat([states, new[each, best][:, None]], dim=1)
        keep = None if keep is None else F.pad(keep, (0, 1), value=True)


def _states(output: Any) -> Tensor:
    return (output.get("decoder_hidden_states") or output.hidden_states)[-1]


def _likeness(new: Tensor, states: Tensor, keep: Tensor | None) -> Tensor:
    """Return the greatest cosine between candidates, (R, k, E), and what was before, (R, S, E): (R, k)."""
    cosines = F.normalize(new, dim=-1) @ F.normalize(states, dim=-1).transpose(1, 2)  # (R, k, S)
    return (cosines if keep is None else cosines.masked_fill(~keep[:, None], -1.0)).amax(dim=-1)
