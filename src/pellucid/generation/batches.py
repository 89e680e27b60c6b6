"""Writing after many prompts: where a text has ended, the next prompt takes its place at once."""

import sys
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

import torch
from torch import Tensor

from ..cache import Cache
from ..generation_config import GenerationConfig
from ..model import Model
from ..rope import switch_of
from .decoding import Rows, write
from .output import GenerateOutput
from .reader import Reader, read
from .writing import begin, evaluating

TOKENS, ROWS = 4096, 32  # of a batch, its tokens as many as there may be at the end; up to here a row costs little
SHARED = 16  # tokens with which a prompt begins as the one before did, to be read only from where they differ

Prompt = tuple[int, list[int]]  # its number, and its ids


def can_share(model: Any, config: GenerationConfig) -> bool:
    """Tell whether texts can be written beside others that began earlier, with these settings."""
    if not isinstance(model, Model):  # of another framework
        return False
    says = config.value
    ahead = config.prompt_lookup_num_tokens is not None or config.penalty_alpha is not None
    recorded = any(says(f"output_{name}") for name in ("scores", "logits", "attentions", "hidden_states"))
    whole = not says("use_cache") or config.cache_implementation == "static" or switch_of(model.config) is not None
    return not (model.source_stack or says("num_beams") > 1 or ahead or recorded or whole)


@torch.inference_mode()
def write_each(
    model: Model, prompts: Iterable[Sequence[int]], *, rows: int | None = None, seed: int | None = None, **options: Any
) -> Iterator[GenerateOutput]:
    """Continue many prompts, and give each one's answer in their order.

    It is the one that `generate` gives to a prompt alone; of the i-th prompt with the seed `seed + i`. Prompts are read
    one by one, but for the tokens with which the one before began, too; what follows is written together.

    Args:
        model: that predicts the next token; see `can_share`.
        prompts: their ids; the next is asked for when there is room for it.
        rows: how many are written at a time; by default as many as a budget of tokens allows.
        seed: of the random numbers; without, torch's own go on.
        options: settings of `generate`, `tokenizer`, and the form that the text must have.

    Raises:
        InputError: for settings that are impossible or contradict each other, and prompts that do not fit.
        NonFiniteError: if the model's scores are NaN or infinite.
    """
    batch, done, shown = _Batch(model, rows, seed, options), {}, 0
    waiting: Iterator[Prompt] = enumerate(map(list, prompts))
    with evaluating(model):
        while True:
            try:
                ended = batch.admit(waiting) + batch.step()
            except torch.OutOfMemoryError:
                if len(batch.texts) < 2:
                    raise
                waiting = chain(batch.give_up(), waiting)
                continue
            done |= {text.number: text.output() for text in ended}
            while shown in done:
                yield done.pop(shown)
                shown += 1
            if not batch.texts and not ended:
                return


class _Text:
    """A prompt and what is written after it."""

    def __init__(self, model: Model, prompt: Prompt, seed: int | None, options: dict[str, Any]):
        self.number, self.ids = prompt
        ids, seed = torch.tensor([self.ids], device=model.device), None if seed is None else seed + self.number
        self.request, _ = begin(model, ids, attention_mask=torch.ones_like(ids), seed=seed, **options)
        self.rows = Rows(self.request)
        self.cost = self.request.rows * (len(self.ids) + int(self.request.room))

    @property
    def tokens(self) -> Tensor:
        """What was written last, which is to be read next, (n,)."""
        return self.rows.text[:, -1].masked_fill(self.rows.done, 0)

    @property
    def read(self) -> int:
        """How many tokens were read."""
        return self.rows.text.shape[1] - 1

    def output(self) -> GenerateOutput:
        rows = self.rows
        self.request.check(rows.history[:, -rows.count :])
        return GenerateOutput(
            sequences=rows.text, finish_reason=tuple(rows.reasons), written=tuple(rows.written.tolist())
        )


class _Batch:
    """Texts that are written together, each in a seat of the cache that they share.

    A seat is as many neighbouring rows as each text has; one without a text goes on with tokens that nobody wants.
    """

    def __init__(self, model: Model, most: int | None, seed: int | None, options: dict[str, Any]):
        self.model, self.seed, self.options = model, seed, options
        self.most, self.budget = (ROWS, TOKENS) if most is None else (most, sys.maxsize)
        self.texts: dict[int, _Text] = {}  # by their seats
        self.seats = self.steps = 0
        self.cache: Cache | None = None
        self.before: tuple[list[int], Cache] | None = None  # the last prompt that was read

    def admit(self, waiting: Iterator[Prompt]) -> list[_Text]:
        """Read as many prompts as there is room for; return those whose texts are at their end already."""
        texts = [*self.texts.values()]
        while len(texts) < self.most and sum(text.cost for text in texts) < self.budget:
            if (prompt := next(waiting, None)) is None:
                break
            texts.append(_Text(self.model, prompt, self.seed, self.options))
        new = sorted(texts[len(self.texts) :], key=lambda text: -len(text.ids))  # a longer one would move the others
        if len(texts) > self.seats or 2 * len(texts) <= self.seats:
            self._move(len(texts))
        free = [seat for seat in range(self.seats) if seat not in self.texts]
        begun = dict(zip(free, new, strict=False))
        self.texts |= begun
        for seat, text in begun.items():
            self._read(seat, text)
        return self._ended()

    def step(self) -> list[_Text]:
        """Write a token in every text; return those that are at their end."""
        if self.cache is None or not self.texts:
            return []
        self.cache.trim(max(text.read for text in self.texts.values()))
        first = next(iter(self.texts.values()))
        each = first.request.rows
        tokens = torch.zeros(self.seats, each, dtype=torch.long, device=self.model.device)
        for seat, text in self.texts.items():
            tokens[seat] = text.tokens
        self.steps += 1
        _, logits = read(
            self.model,
            input_ids=tokens.view(-1, 1),
            cache=self.cache,
            use_cache=True,
            logits_to_keep=1,
            step=self.steps,
            checked=not first.request.says("remove_invalid_values"),
        )
        for seat, text in self.texts.items():
            write(text.rows, logits[seat * each : (seat + 1) * each, -1])
        return self._ended()

    def give_up(self) -> list[Prompt]:
        """Return the prompts of all texts, to be begun anew, fewer at a time."""
        prompts = sorted((text.number, text.ids) for text in self.texts.values())
        self.most, self.texts, self.seats, self.cache, self.before = len(prompts) // 2, {}, 0, None, None
        return prompts

    def _ended(self) -> list[_Text]:
        ended = [text for text in self.texts.values() if text.rows.left == 0]
        self.texts = {seat: text for seat, text in self.texts.items() if text.rows.left}
        return ended

    def _move(self, seats: int) -> None:
        """Change the number of seats, and let all texts move up."""
        kept, self.texts, self.seats = [*self.texts], dict(enumerate(self.texts.values())), seats
        if self.cache is None or not kept:
            self.cache = None
            return
        each = next(iter(self.texts.values())).request.rows
        order = torch.tensor(kept + [0] * (seats - len(kept)), device=self.model.device)
        self.cache.reorder(_rows_of(order, each))

    def _read(self, seat: int, text: _Text) -> None:
        """Read a prompt, and write the first token after it."""
        request, each = text.request, text.request.rows
        if self.before is not None and self.before[0][:SHARED] == text.ids[:SHARED]:
            request.cache = self.before[1]
        reader = Reader(request)
        write(text.rows, reader.first(each))
        if reader.cache is None:
            return
        if self.cache is None:
            self.cache = reader.cache.copy()
            self.cache.reorder(torch.arange(each, device=self.model.device).repeat(self.seats))
        else:
            self.cache.seat(_rows_of(torch.tensor([seat], device=self.model.device), each), reader.cache)
        if each > 1:
            reader.cache.reorder(torch.zeros(1, dtype=torch.long, device=self.model.device))
        self.before = text.ids, reader.cache


def _rows_of(seats: Tensor, each: int) -> Tensor:
    return (seats[:, None] * each + torch.arange(each, device=seats.device)).flatten()
