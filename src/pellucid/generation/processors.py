"""What changes the scores of the next token before it is chosen.

A processor is a call: `(ids, scores) -> scores`. Ids are (R, L), what each of R rows has so far, and scores (R, V).
Those of this file get -1 in the place of padding, so that padding counts as nothing; a user's own get the ids as given.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from ..errors import InputError
from ..generation_config import GenerationConfig

Processor = Callable[[Tensor, Tensor], Tensor]
NEVER = float("-inf")


def lengths(ids: Tensor) -> Tensor:
    """Count each row's tokens, (R, 1)."""
    return (ids >= 0).sum(dim=-1, keepdim=True)


def occurring(ids: Tensor, vocabulary: int) -> Tensor:
    """Tell which tokens occur in each row, (R, V)."""
    there = torch.zeros(len(ids), vocabulary + 1, dtype=torch.bool, device=ids.device)
    return there.scatter_(1, ids.clamp(max=vocabulary - 1) + 1, True)[:, 1:]


def forbid(scores: Tensor, ids: Sequence[int]) -> Tensor:
    """Give tokens no chance."""
    return scores.index_fill(1, torch.tensor(ids, dtype=torch.long, device=scores.device), NEVER)


def force(scores: Tensor, ids: Sequence[int]) -> Tensor:
    """Give all but these tokens no chance, and these the same."""
    forced = torch.full_like(scores, NEVER)
    return forced.index_fill_(1, torch.tensor(ids, dtype=torch.long, device=scores.device), 0.0)


# --- repetition -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class RepetitionPenalty:
    """Makes what occurred less likely: scores above 0 are divided, others multiplied; below 1 it is the reverse."""

    penalty: float

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        penalised = torch.where(scores < 0, scores * self.penalty, scores / self.penalty)
        return torch.where(occurring(ids, scores.shape[1]), penalised, scores)


@dataclass(frozen=True)
class PromptRepetitionPenalty:
    """Makes what does not occur in the prompt less likely, which is to keep a text from inventing."""

    penalty: float
    prompt: Tensor  # (R, P)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        favoured = torch.where(scores < 0, scores / self.penalty, scores * self.penalty)
        return torch.where(occurring(self.prompt, scores.shape[1]), favoured, scores)


@dataclass(frozen=True)
class NoRepeatNgram:
    """Forbids what would end a sequence of `size` tokens that was there before, in the text or in the prompt alone."""

    size: int
    prompt: Tensor | None = None

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        before = ids if self.prompt is None else self.prompt
        if before.shape[1] < self.size or ids.shape[1] < self.size - 1:
            return scores
        grams = before.unfold(1, self.size, 1)  # (R, places, size)
        last = ids[:, None, ids.shape[1] - self.size + 1 :]
        again = (grams[..., :-1] == last).all(-1) & (grams >= 0).all(-1)  # (R, places)
        ends = torch.where(again, grams[..., -1], -1)
        return scores.masked_fill(occurring(ends, scores.shape[1]), NEVER)


# --- words ------------------------------------------------------------------------------------------------------------


class SequenceBias:
    """Adds to the score of a sequence's last token where the others stand before it."""

    def __init__(self, bias: dict[tuple[int, ...], float]):
        self.bias = bias

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        added = torch.zeros_like(scores)
        for (*before, last), bias in self.bias.items():
            if not before:
                added[:, last] += bias
            elif ids.shape[1] > len(before):
                here = (ids[:, -len(before) :] == torch.tensor(before, device=ids.device)).all(dim=-1)
                added[:, last] += torch.where(here, bias, 0.0)
        return scores + added


@dataclass(frozen=True)
class Suppress:
    """Forbids tokens; if `at` is given, only where rows have that many."""

    tokens: Sequence[int]
    at: Tensor | None = None  # (R, 1)

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        forbidden = forbid(scores, self.tokens)
        return forbidden if self.at is None else torch.where(lengths(ids) == self.at, forbidden, scores)


@dataclass(frozen=True)
class Force:
    """Allows only some tokens where rows have `at` tokens, (R, 1)."""

    tokens: Sequence[int]
    at: Tensor

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        return torch.where(lengths(ids) == self.at, force(scores, self.tokens), scores)


@dataclass(frozen=True)
class AtLeast:
    """Forbids the end of a text before it has `least` tokens, (R, 1)."""

    least: Tensor
    eos: Sequence[int]

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        return torch.where(lengths(ids) < self.least, forbid(scores, self.eos), scores)


@dataclass(frozen=True)
class DecayLength:
    """Makes the end likelier with every token after `start`, (R, 1)."""

    start: Tensor
    factor: float
    eos: Sequence[int]

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        over = (lengths(ids) - self.start).clamp(min=0)
        ends = scores[:, list(self.eos)]
        changed = scores.clone()
        grown = ends + ends.abs() * (self.factor**over - 1)
        changed[:, list(self.eos)] = torch.where(ends == NEVER, ends, grown)
        return changed


@dataclass(frozen=True)
class PrefixAllowed:
    """Allows what a function says: `(row of the batch, ids so far) -> allowed ids`."""

    allowed: Callable[[int, Tensor], Sequence[int]]
    rows: int  # of each prompt

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        mask = torch.full_like(scores, NEVER)
        for row, text in enumerate(ids):
            tokens = list(self.allowed(row // self.rows, text))
            if not tokens:
                raise InputError(
                    f"prefix_allowed_tokens_fn allows nothing after {len(text)} tokens of prompt {row // self.rows}; "
                    "expected at least one id, for example that of the end."
                )
            mask[row, tokens] = 0
        return scores + mask


# --- sampling ---------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Temperature:
    """Divides scores: below 1 the likely become likelier."""

    temperature: float

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        return scores / self.temperature


@dataclass(frozen=True)
class TopK:
    """Allows the likeliest tokens."""

    count: int

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        least = scores.topk(min(self.count, scores.shape[1])).values[:, -1:]
        return scores.masked_fill(scores < least, NEVER)


@dataclass(frozen=True)
class TopP:
    """Allows the fewest likely tokens that have a probability of `share` together."""

    share: float
    least: int

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        ordered, order = scores.sort(descending=False)
        removed = ordered.softmax(dim=-1).cumsum(dim=-1) <= 1 - self.share
        removed[:, -self.least :] = False
        return scores.masked_fill(removed.scatter(1, order, removed), NEVER)


@dataclass(frozen=True)
class MinP:
    """Allows tokens that are at least `share` times as likely as the likeliest."""

    share: float
    least: int

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        probabilities = scores.softmax(dim=-1)
        removed = probabilities < self.share * probabilities.amax(dim=-1, keepdim=True)
        return scores.masked_fill(spare(removed, scores, self.least), NEVER)


@dataclass(frozen=True)
class TypicalP:
    """Allows those tokens nearest to the expected surprise that have a probability of `share` together."""

    share: float
    least: int

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        logs = scores.log_softmax(dim=-1)
        entropy = -(logs.exp() * logs).nansum(dim=-1, keepdim=True)
        distance, order = (-logs - entropy).abs().sort(descending=False)
        mass = scores.gather(-1, order).softmax(dim=-1).cumsum(dim=-1)
        last = (mass < self.share).sum(dim=1, keepdim=True).clamp(max=scores.shape[1] - 1)
        removed = distance > distance.gather(1, last)
        removed[:, : self.least] = False
        return scores.masked_fill(removed.scatter(1, order, removed), NEVER)


@dataclass(frozen=True)
class EpsilonCutoff:
    """Allows tokens of a probability of at least `epsilon`."""

    epsilon: float
    least: int

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        return scores.masked_fill(spare(scores.softmax(dim=-1) < self.epsilon, scores, self.least), NEVER)


@dataclass(frozen=True)
class EtaCutoff:
    """Allows tokens of a probability of at least `epsilon`, or less where much is possible."""

    epsilon: float
    least: int

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        logs = scores.log_softmax(dim=-1)
        entropy = -(logs.exp() * logs).nansum(dim=-1, keepdim=True)
        eta = (math.sqrt(self.epsilon) * torch.exp(-entropy)).clamp(max=self.epsilon)
        return scores.masked_fill(spare(logs.exp() < eta, scores, self.least), NEVER)


def spare(removed: Tensor, scores: Tensor, least: int) -> Tensor:
    """Take the likeliest tokens out of those to remove."""
    return removed & (scores < scores.topk(min(least, scores.shape[1])).values[:, -1:])


# --- the end ----------------------------------------------------------------------------------------------------------


def remove_invalid_values(ids: Tensor, scores: Tensor) -> Tensor:
    """Make NaN 0, and what is infinite finite."""
    limits = torch.finfo(scores.dtype)
    return torch.nan_to_num(scores, nan=0.0, posinf=limits.max, neginf=limits.min)


def renormalize(ids: Tensor, scores: Tensor) -> Tensor:
    """Make scores log-probabilities."""
    return scores.log_softmax(dim=-1)


def build(
    config: GenerationConfig,
    prompt: Tensor,
    limits: Tensor,
    prefix: PrefixAllowed | None = None,
    source: Tensor | None = None,
) -> list[Processor]:
    """Make the processors that a config asks for, in the order in which they apply.

    Args:
        config: the settings.
        prompt: (R, P) ids, -1 on padding.
        limits: how many tokens each row may have in the end, (R, 1).
        prefix: the function that says what may come, if there is one.
        source: (R, S) ids of what an encoder reads, likewise, instead of the prompt.
    """
    says, eos, begun = config.value, config.eos_ids, lengths(prompt)
    made: list[Any] = []
    read = prompt if source is None else source
    if config.sequence_bias:
        made.append(SequenceBias(biases(config.sequence_bias)))
    if says("encoder_repetition_penalty") != 1.0:
        made.append(PromptRepetitionPenalty(says("encoder_repetition_penalty"), read))
    if says("repetition_penalty") != 1.0:
        made.append(RepetitionPenalty(says("repetition_penalty")))
    if says("no_repeat_ngram_size"):
        made.append(NoRepeatNgram(says("no_repeat_ngram_size")))
    if says("encoder_no_repeat_ngram_size"):
        made.append(NoRepeatNgram(says("encoder_no_repeat_ngram_size"), read))
    if config.bad_words_ids:
        words = [tuple(word) for word in config.bad_words_ids if list(word) not in [[i] for i in eos]]
        made.append(SequenceBias(dict.fromkeys(words, NEVER)))
    least = torch.maximum(torch.full_like(begun, says("min_length")), begun + says("min_new_tokens"))
    if eos and bool((least > begun).any()):
        made.append(AtLeast(least, eos))
    if prefix is not None:
        made.append(prefix)
    if config.forced_bos_token_id is not None:
        made.append(Force([config.forced_bos_token_id], torch.ones_like(begun)))
    if config.forced_eos_token_id is not None:
        forced = config.forced_eos_token_id
        made.append(Force(forced if isinstance(forced, list) else [forced], limits - 1))
    if config.remove_invalid_values:
        made.append(remove_invalid_values)
    if config.exponential_decay_length_penalty is not None and eos:
        start, factor = config.exponential_decay_length_penalty
        made.append(DecayLength(begun + start, factor, eos))
    if config.suppress_tokens:
        made.append(Suppress(config.suppress_tokens))
    if config.begin_suppress_tokens:
        after_bos = (begun == 1) if config.forced_bos_token_id is not None else torch.zeros_like(begun)
        made.append(Suppress(config.begin_suppress_tokens, begun + after_bos))
    return made


def build_sampling(config: GenerationConfig) -> list[Processor]:
    """Make the processors that only sampling has; they come after all others."""
    says, made = config.value, []
    least = 1 + max(1, len(config.eos_ids)) if says("num_beams") > 1 else 1  # so that beams can go on
    if says("temperature") not in (0.0, 1.0):
        made.append(Temperature(says("temperature")))
    if says("top_k"):
        made.append(TopK(max(says("top_k"), least)))
    if says("top_p") < 1.0:
        made.append(TopP(says("top_p"), least))
    if says("min_p") is not None:
        made.append(MinP(says("min_p"), least))
    if says("typical_p") < 1.0:
        made.append(TypicalP(says("typical_p"), least))
    if 0.0 < says("epsilon_cutoff") < 1.0:
        made.append(EpsilonCutoff(says("epsilon_cutoff"), least))
    if 0.0 < says("eta_cutoff") < 1.0:
        made.append(EtaCutoff(says("eta_cutoff"), least))
    return made


def biases(given: Any) -> dict[tuple[int, ...], float]:
    """Read sequence_bias: {(1, 2): -5.0}, or, as JSON has it, [[[1, 2], -5.0]].

    Raises:
        InputError: if it is neither.
    """
    pairs = given.items() if isinstance(given, dict) else given
    try:
        read = {tuple(int(i) for i in words): float(bias) for words, bias in pairs}
        if () in read:
            raise ValueError
        return read
    except (TypeError, ValueError):
        raise InputError(f"sequence_bias is {given!r}; expected {{(1, 2): -5.0}}: ids, and what to add.") from None
