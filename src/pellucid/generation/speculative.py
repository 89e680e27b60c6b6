"""Guessing ahead: somebody proposes several tokens, and the model reads all of them at once.

Leviathan et al., 2022, "Fast Inference from Transformers via Speculative Decoding", https://arxiv.org/abs/2211.17192.
Here the model chooses its own token at each place, and keeps the guesses as long as they are the same, so the text is
the one that it would have written by itself, sampled or not.
"""

import sys
from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor

from ..errors import InputError
from ..model import Model
from .decoding import Rows, Step, choose
from .reader import Reader
from .request import Request, prepare


class Draft(Protocol):
    """What guesses."""

    def guess(self, text: Tensor, count: int) -> Tensor:
        """Return at most `count` tokens that may follow the text, (1, L): (1, n)."""
        ...


class LookUp:
    """Guesses what followed the same tokens earlier in the text.

    Source: Saxena, 2023, https://github.com/apoorvumang/prompt-lookup-decoding
    """

    def __init__(self, tokens: int, longest: int):
        self.tokens, self.longest = tokens, longest

    def guess(self, text: Tensor, count: int) -> Tensor:
        """Return what followed the last tokens where they stood first, for as many of them as possible."""
        count = min(count, self.tokens)
        for size in range(min(self.longest, text.shape[1] - 1), 0, -1):
            same = (text.unfold(1, size, 1)[0, :-1] == text[0, -size:]).all(dim=-1).nonzero()[:, 0]
            if len(same):
                start = int(same[0]) + size
                return text[:, start : start + count]
        return text[:, :0]


class Assistant:
    """Guesses what a smaller model would write."""

    def __init__(self, request: Request, model: Model):
        ids = request.ids if request.keep is None else request.ids[:, request.keep[0]]  # as `guess` gets them
        draft = prepare(model, ids, None, {"do_sample": False, "max_new_tokens": int(request.room.max())})
        self.tokens, self.reader = request.says("num_assistant_tokens"), Reader(draft)
        self.longest = model.config.max_tokens or sys.maxsize

    def guess(self, text: Tensor, count: int) -> Tensor:
        """Return the model's likeliest tokens."""
        count = min(count, self.tokens, self.longest - text.shape[1])
        if count < 1:
            return text[:, :0]
        if self.reader.step == 0:
            self.reader.first()
            _refuse_states(self.reader)
        known = min(self.reader.ids.shape[1], text.shape[1] - 1)
        self.reader.crop(known)
        logits = self.reader.several(text[:, known:])[:, -1]
        guesses = []
        for _ in range(count):
            guesses.append(logits.argmax(dim=-1))
            if len(guesses) < count:
                logits = self.reader.next(guesses[-1])
        return torch.stack(guesses, dim=1)


def draft_of(request: Request, assistant: Model | None) -> Draft | None:
    """Return who guesses, if anybody does.

    Raises:
        InputError: if several texts are written, the vocabularies differ, or nothing read can be forgotten.
    """
    tokens = request.config.prompt_lookup_num_tokens
    if assistant is None and tokens is None:
        return None
    if len(request.given) * request.rows != 1:
        raise InputError(f"Guessing ahead is for one text; there are {len(request.given) * request.rows}.")
    if not request.says("use_cache") or request.config.cache_implementation not in (None, "dynamic"):
        raise InputError("Guessing ahead needs use_cache=True and the cache that grows, from which guesses can be cut.")
    if assistant is not None:
        return _assistant(request, assistant)
    return None if tokens is None else LookUp(tokens, request.says("max_matching_ngram_size"))


def _assistant(request: Request, assistant: Model) -> Assistant:
    if not hasattr(assistant, "accepts"):
        raise InputError(f"assistant_model is a {type(assistant).__name__}; expected a model, as AutoModelForCausalLM.")
    if request.model.source_stack:
        raise InputError("An assistant_model is for models without an encoder; use prompt_lookup_num_tokens.")
    mine, other = (model.config.vocab_size for model in (request.model, assistant))
    if mine != other:
        raise InputError(
            f"The assistant has a vocabulary of {other} tokens, the model one of {mine}; "
            "an assistant must have the same tokenizer."
        )
    return Assistant(request, assistant)


def _refuse_states(reader: Reader) -> None:
    if reader.cache is not None and reader.cache.recurrent:
        raise InputError(f"{type(reader.model).__name__} keeps a recurrent state, from which guesses can not be cut.")


def decode_ahead(request: Request, rows: Rows, reader: Reader, draft: Draft) -> Iterator[Step]:
    """Write one text, several tokens a step where the guesses are right."""
    logits = reader.first()[:, None]  # (1, n, V), after the text and after each guess
    _refuse_states(reader)
    guesses = tokens = rows.text[:, :0]
    while True:
        for place in range(logits.shape[1]):
            scores = request.score(rows.history, rows.text, logits[:, place])
            tokens, written = rows.add(choose(rows, scores), scores)
            yield Step(tokens, written, logits[:, place], scores, reader.output)
            if rows.left == 0:
                return
            if place < guesses.shape[1] and int(guesses[0, place]) != int(tokens[0]):
                break
        reader.crop(rows.history.shape[1] - 1)  # all but the last token, which the model has not seen
        left = min(int(rows.room[0]) - rows.count, reader.before_switch) - 1
        real = rows.history[:, rows.history[0] >= 0]
        guesses = draft.guess(real, left) if left > 0 else real[:, :0]
        logits = reader.several(torch.cat([tokens[:, None], guesses], dim=1))
