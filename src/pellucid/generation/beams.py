"""Beam search: several continuations of each prompt at once, the likeliest of which are followed.

Groups of beams that avoid each other's tokens: Vijayakumar et al., 2016, https://arxiv.org/abs/1610.02424

Shapes: N problems, one for each group of each prompt; K beams of each; C candidates of each; V vocabulary; L tokens.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from .decoding import NONE_MAY_FOLLOW
from .processors import NEVER
from .reader import Reader
from .request import Request

LOST = -1e9  # the score of a beam that is none


@dataclass
class Pool:
    """Beams of every problem.

    Attributes:
        tokens: what was written, (N, K, L).
        parents: the row from which each token came, (N, K, L).
        scores: (N, K).
        there: whether it is one, (N, K).
    """

    tokens: Tensor
    parents: Tensor
    scores: Tensor
    there: Tensor

    def pick(self, beams: Tensor) -> "Pool":
        """Choose beams, (N, any number)."""
        deep = beams[..., None].expand(-1, -1, self.tokens.shape[2])
        return Pool(
            self.tokens.gather(1, deep),
            self.parents.gather(1, deep),
            self.scores.gather(1, beams),
            self.there.gather(1, beams),
        )

    def beside(self, other: "Pool") -> "Pool":
        """Put other beams of the same problems next to these."""
        pairs = ((getattr(self, name), getattr(other, name)) for name in ("tokens", "parents", "scores", "there"))
        return Pool(*(torch.cat(pair, dim=1) for pair in pairs))


@dataclass
class Found:
    """The best finished beams of each prompt.

    Attributes:
        tokens: (B, returned, L), padded.
        parents: (B, returned, L), -1 after the end.
        scores: (B, returned).
        steps: what was recorded of each step: (logits, scores, the model's output).
    """

    tokens: Tensor
    parents: Tensor
    scores: Tensor
    steps: list[tuple[Tensor, Tensor, Any]]


def beam_search(request: Request, reader: Reader) -> Found:
    """Follow beams until better ones are unlikely, or there is no room."""
    search = BeamSearch(request)
    logits = reader.first(search.beams * search.groups)
    steps = []
    while True:
        scores = search.score(logits)
        steps.append((logits, scores, reader.output))
        rows, tokens = search.step(scores)
        if search.is_over:
            return search.best(steps)
        reader.reorder(rows)
        logits = reader.next(tokens)


class BeamSearch:
    """The state of a search.

    Attributes:
        prompts: B.
        groups: of each prompt.
        beams: of each group, K.
        running: beams that go on.
        finished: beams that have ended, ranked by their scores divided by a power of their lengths.
        is_over: whether the search has ended.
    """

    def __init__(self, request: Request):
        self.request = request
        self.prompts, self.groups = len(request.given), request.says("num_beam_groups")
        self.beams = request.says("num_beams") // self.groups
        problems, device = self.prompts * self.groups, request.given.device
        rows = (problems, self.beams)
        none = torch.zeros(*rows, 0, dtype=torch.long, device=device)
        scores = torch.full(rows, LOST, device=device)
        there = torch.zeros(rows, dtype=torch.bool, device=device)
        self.finished = Pool(none, none, scores, there)
        first = scores.clone()
        first[:, 0] = 0.0  # the others would be the same
        self.running = Pool(none, none, first, there | True)
        self.eos = torch.tensor(request.config.eos_ids, device=device)
        self.room = request.room.repeat_interleave(self.groups)[:, None]  # (N, 1)
        self.hopeful = torch.ones(problems, 1, dtype=torch.bool, device=device)
        self.history, self.text = request.history(), request.given.repeat_interleave(self.groups * self.beams, dim=0)
        self.is_over = False

    def score(self, logits: Tensor) -> Tensor:
        """Return the log-probabilities of the next tokens, (N K, V), after the processors."""
        if self.groups > 1:
            return logits.log_softmax(dim=-1)  # processed group by group
        return self._processed(logits.log_softmax(dim=-1))

    def _processed(self, scores: Tensor) -> Tensor:
        written = self.running.tokens.flatten(0, 1)
        return self.request.score(
            torch.cat([self.history, written], dim=1), torch.cat([self.text, written], dim=1), scores
        )

    def step(self, scores: Tensor) -> tuple[Tensor, Tensor]:
        """Go on by one token; return from which rows the running beams come, (N K,), and their tokens, (N K,)."""
        candidates, sources = self._candidates(scores)
        ended = self._ended(candidates)
        order = torch.where(ended, candidates.scores + LOST, candidates.scores).topk(self.beams).indices
        self.running, rows = candidates.pick(order), sources.gather(1, order)
        self._finish(candidates, ended)
        self._look_ahead(ended)
        return rows.flatten(), self.running.tokens[..., -1].flatten()

    def _candidates(self, scores: Tensor) -> tuple[Pool, Tensor]:
        """Return the best continuations of each problem, and the rows that they continue, (N, C)."""
        vocabulary, count = scores.shape[1], max(2, 1 + len(self.eos)) * self.beams
        if self.groups > 1:
            places, totals = self._in_groups(scores, count)
        else:
            total = (scores.view(-1, self.beams, vocabulary) + self.running.scores[..., None]).flatten(1)
            places, totals = self._take(total, count)
        beams, tokens = places // vocabulary, places % vocabulary
        first = torch.arange(len(places), device=places.device)[:, None] * self.beams
        taken = self.running.pick(beams)
        pool = Pool(
            torch.cat([taken.tokens, tokens[..., None]], dim=2),
            torch.cat([taken.parents, (first + beams)[..., None]], dim=2),
            totals,
            taken.there,
        )
        return pool, first + beams

    def _take(self, total: Tensor, count: int) -> tuple[Tensor, Tensor]:
        if self.request.samples:
            places = torch.multinomial(total.softmax(dim=-1), count, generator=self.request.generator)
            return places, total.gather(1, places)
        totals, places = total.topk(count)
        return places, totals

    def _in_groups(self, scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
        """Let one group after the other take its candidates; a token costs what earlier groups have taken of it."""
        penalty, vocabulary = self.request.says("diversity_penalty"), scores.shape[1]
        taken = scores.new_zeros(self.prompts, vocabulary)
        rows = torch.arange(len(scores), device=scores.device).view(self.prompts, self.groups, self.beams)
        chosen = []
        for group in range(self.groups):
            processed = self._processed(scores - penalty * taken.repeat_interleave(self.groups * self.beams, dim=0))
            own = processed[rows[:, group].flatten()].view(self.prompts, self.beams, vocabulary)
            total = (own + self.running.scores.view(self.prompts, self.groups, -1)[:, group, :, None]).flatten(1)
            places, totals = self._take(total, count)
            chosen.append((places, totals))
            tokens = places % vocabulary
            goes_on = ~torch.isin(tokens, self.eos)
            first = goes_on.int().argsort(dim=1, stable=True, descending=True)[:, : self.beams]
            taken.scatter_add_(1, tokens.gather(1, first), torch.ones_like(first, dtype=taken.dtype))
        places, totals = (torch.stack(part, dim=1).flatten(0, 1) for part in zip(*chosen, strict=True))
        return places, totals

    def _ended(self, candidates: Pool) -> Tensor:
        """Tell which candidates end here, (N, C)."""
        last = candidates.tokens[..., -1]
        ended = torch.isin(last, self.eos) | (candidates.tokens.shape[2] >= self.room)
        if self.request.criteria:
            count = last.shape[1]
            text = self.request.given.repeat_interleave(self.groups * count, dim=0)
            text = torch.cat([text, candidates.tokens.flatten(0, 1)], dim=1)
            ended = ended | self.request.is_done(text, candidates.scores.flatten()).view_as(ended)
        return ended

    def _finish(self, candidates: Pool, ended: Tensor) -> None:
        """Move the best of those that end to the finished ones."""
        power, early = self.request.says("length_penalty"), self.request.says("early_stopping")
        length = candidates.tokens.shape[2]
        scores = candidates.scores / length**power
        counts = ended & (torch.arange(ended.shape[1], device=ended.device) < self.beams) & self.hopeful
        if early is True:
            counts = counts & ~self.finished.there.all(dim=1, keepdim=True)
        ends = Pool(candidates.tokens, candidates.parents, torch.where(counts, scores, scores + LOST), counts)
        pad = self.finished.tokens.new_full((*self.finished.tokens.shape[:2], 1), self.request.pad)
        before = Pool(
            torch.cat([self.finished.tokens, pad], dim=2),
            torch.cat([self.finished.parents, torch.full_like(pad, -1)], dim=2),
            self.finished.scores,
            self.finished.there,
        )
        both = before.beside(ends)
        self.finished = both.pick(both.scores.topk(self.beams).indices)

    def _look_ahead(self, ended: Tensor) -> None:
        """Decide whether what runs can still be better than what has ended."""
        power, early = self.request.says("length_penalty"), self.request.says("early_stopping")
        length: Tensor | int = self.running.tokens.shape[2]
        if early == "never" and power > 0:
            length = self.room
        best = self.running.scores[:, :1] / length**power
        worst = torch.where(self.finished.there, self.finished.scores.amin(dim=1, keepdim=True), LOST)
        self.hopeful = self.hopeful & (best > worst).any(dim=1, keepdim=True)
        full = early is True and bool(self.finished.there.all())
        self.is_over = full or not bool(self.hopeful.any()) or bool(ended.all())

    def best(self, steps: list[tuple[Tensor, Tensor, Any]]) -> Found:
        """Return the best beams of each prompt; those that still run where none has ended."""
        any_ended = self.finished.there.any(dim=1)
        pools = []
        for name in ("tokens", "parents", "scores"):
            ended, runs = getattr(self.finished, name), getattr(self.running, name)
            where = any_ended.view(-1, *[1] * (ended.dim() - 1))
            pools.append(torch.where(where, ended, runs).view(self.prompts, self.groups * self.beams, *ended.shape[2:]))
        tokens, parents, scores = pools
        count = self.request.says("num_return_sequences")
        scores, order = scores.sort(dim=1, descending=True, stable=True)
        if bool((scores[:, :1] == NEVER).any()):
            raise InputError(NONE_MAY_FOLLOW)
        order = order[:, :count]
        deep = order[..., None].expand(-1, -1, tokens.shape[2])
        tokens, parents = tokens.gather(1, deep), parents.gather(1, deep)
        longest = int((parents >= 0).sum(dim=-1).amax()) if parents.numel() else 0
        return Found(tokens[..., :longest], parents[..., :longest], scores[:, :count], steps)
