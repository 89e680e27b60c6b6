"""Greedy decoding and sampling: one token a step for each row."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .processors import NEVER
from .reader import Reader
from .request import Request

NONE_MAY_FOLLOW = "No token may follow: the settings or processors forbid all, or make their scores infinite."


@dataclass(frozen=True)
class Step:
    """One step of all rows.

    Attributes:
        tokens: the new tokens, (R,); the pad token in rows that had ended.
        written: whether a row's token is its own, (R,).
        logits: as the model gave them, (R, V).
        scores: as they were chosen by, (R, V).
        output: of the model.
    """

    tokens: Tensor
    written: Tensor
    logits: Tensor
    scores: Tensor
    output: Any


class Rows:
    """The rows of a batch as they grow: what they hold, which have ended and why, and how many are left."""

    def __init__(self, request: Request):
        self.request = request
        self.history = request.history()
        self.text = request.given.repeat_interleave(request.rows, dim=0)
        self.room = request.room.repeat_interleave(request.rows)
        self.eos = torch.tensor(request.config.eos_ids, device=self.text.device)
        self.done = torch.zeros(len(self.text), dtype=torch.bool, device=self.text.device)
        self.reasons = ["length"] * len(self.text)
        self.count, self.left = 0, len(self.text)
        self.written = torch.zeros_like(self.room)

    def add(self, tokens: Tensor, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Add a token to each row that has not ended; return (tokens, which rows they were added to)."""
        written = ~self.done
        tokens = tokens.masked_fill(self.done, self.request.pad)
        self.text = torch.cat([self.text, tokens[:, None]], dim=1)
        self.history = torch.cat([self.history, tokens.masked_fill(self.done, -1)[:, None]], dim=1)
        self.count += 1
        self.written += written
        stopped = torch.isin(tokens, self.eos)
        if self.request.criteria:
            stopped = stopped | self.request.is_done(self.text, scores)
        ended = written & (stopped | (self.room <= self.count))
        if bool(ended.any()):
            for row in ended.nonzero()[:, 0].tolist():
                self.reasons[row] = "stop" if bool(stopped[row]) else "length"
                self.left -= 1
            self.done = self.done | ended
        return tokens, written


def choose(rows: Rows, scores: Tensor) -> Tensor:
    """Take the likeliest token of each row, (R, V) to (R,), or draw one."""
    request = rows.request
    if request.changes_scores:
        scores = torch.where(rows.done[:, None], 0.0, scores)  # where anything goes
        best = scores.amax(dim=-1)
        if not bool((best.isfinite() if request.samples else best > NEVER).all()):
            raise InputError(NONE_MAY_FOLLOW)
    if not request.samples:
        return scores.argmax(dim=-1)
    return torch.multinomial(scores.softmax(dim=-1), 1, generator=request.generator)[:, 0]


def write(rows: Rows, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Write a token in each row, from scores after its last; return (scores it was chosen by, tokens, which rows)."""
    scores = rows.request.score(rows.history, rows.text, logits)
    tokens, written = rows.add(choose(rows, scores), scores)
    return scores, tokens, written


def decode(request: Request, rows: Rows, reader: Reader) -> Iterator[Step]:
    """Write, step by step, until every row has ended."""
    logits = reader.first(request.rows)
    is_token = request.pad < request.model.config.vocab_size  # what fills up rows that have ended
    while True:
        scores, tokens, written = write(rows, logits)
        yield Step(tokens, written, logits, scores, reader.output)
        if rows.left == 0:
            return
        logits = reader.next(tokens if is_token else torch.where(rows.done, 0, tokens))
