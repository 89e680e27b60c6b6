"""`Reader`: a model that reads a batch on, token by token."""

import sys
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from ..cache import Cache
from ..compiling import is_compiled, room
from ..errors import InputError, NonFiniteError
from ..model import Model
from ..rope import switch_of
from .request import Request


class Reader:
    """Feeds a model the prompts, then what is written; gives the scores of what follows.

    Attributes:
        cache: of what was read; None when everything is read anew in each step.
        step: how many times the model ran.
        output: what it returned last.
    """

    def __init__(self, request: Request, **wanted: Any):
        self.model, self.wanted = request.model, wanted
        self.side = "decoder_" if self.model.source_stack else ""  # before the names of what is written
        self.checked = not request.says("remove_invalid_values")
        self.ids, self.keep, self.inputs = request.ids, request.keep, dict(request.inputs)
        self.types: Tensor | None = self.inputs.pop("token_type_ids", None)
        self.prompt = self.ids.shape[1]
        self.by_ids = f"{self.side}inputs_embeds" not in self.inputs
        self.switch = switch_of(self.model.config) if self.by_ids else None
        self.padding = [0] if self.switch is None or self.keep is None else (~self.keep).sum(dim=1).tolist()
        self.step = 0
        self.output: Any = None
        self.cache: Cache | None = None
        if request.says("use_cache"):
            self.cache = _make_cache(request) if request.cache is None else request.cache
        elif not self.by_ids:
            raise InputError("inputs_embeds can not be followed by ids in one reading; leave use_cache=False out.")

    def first(self, rows: int = 1) -> Tensor:
        """Read the prompts, but for what the cache holds of them already; return scores, (B rows, V).

        Args:
            rows: how many continuations each prompt will have; it is read once for all of them.
        """
        start = 0 if self.cache is None or not self.by_ids else self._known(self.cache)
        logits = self._read(start)
        if self.side:  # the source is read once
            states, mask = self.output.encoder_last_hidden_state, self.inputs.get("attention_mask")
            self.inputs = {"encoder_outputs": (states,)} | ({} if mask is None else {"attention_mask": mask})
        if self.cache is not None:
            self.inputs = {}  # it holds all that the next steps need
        if rows == 1:
            return logits[:, -1]
        each = torch.arange(len(logits), device=logits.device).repeat_interleave(rows)
        self.reorder(each)
        for name in ("hidden_states", "attentions", "decoder_hidden_states", "decoder_attentions", "cross_attentions"):
            if (layers := self.output.get(name)) is not None:
                setattr(self.output, name, tuple(x[each] for x in layers))
        return logits[each, -1]

    def _known(self, cache: Cache) -> int:
        """Return how many of the prompts' tokens are in a cache, and cut off the others.

        The prompts' last tokens are read again, for what follows them.
        """
        held, length = len(cache), self.ids.shape[1]
        same, another = min(held, length), held > length
        if cache.ids is not None and cache.ids.shape[1] >= held > 0 and len(cache.ids) == len(self.ids):
            told, known = self._told(), cache.ids[:, :held]
            equal = (known[:, :same] == told[:, :same]).all(dim=0)
            same = int(equal.int().cumprod(dim=0).sum())
            another = bool((_first(known) != _first(told)).all())
        if another:
            raise InputError(
                f"The cache holds {held} tokens, with which this prompt of {length} does not begin; "
                "give all of the text, not only what is new, or no cache."
            )
        start = min(same, length - 1)
        if self.side or self._switches(start, length) or (start < held and (cache.recurrent or cache.sliding)):
            start = 0  # it may be of another source, or was read otherwise, or nothing can be cut off
        cache.crop(start)
        return start

    def _told(self) -> Tensor:
        return self.ids if self.keep is None else torch.where(self.keep, self.ids, -1)

    def _switches(self, start: int, end: int) -> bool:
        """Tell whether the first tokens of a text are read otherwise because there are more now."""
        return self.switch is not None and any(0 < start - pad <= self.switch < end - pad for pad in self.padding)

    def next(self, tokens: Tensor) -> Tensor:
        """Read one token a row, (R,), and return scores, (R, V)."""
        return self.several(tokens[:, None])[:, -1]

    def several(self, tokens: Tensor) -> Tensor:
        """Read some tokens a row, (R, n), and return the scores after each, (R, n, V)."""
        read, count = self.ids.shape[1], tokens.shape[1]
        self.ids = torch.cat([self.ids, tokens], dim=1)
        if self.keep is not None:
            self.keep = torch.cat([self.keep, torch.ones_like(tokens, dtype=torch.bool)], dim=1)
        if self.types is not None:
            self.types = torch.cat([self.types, self.types[:, -1:].expand(-1, count)], dim=1)
        if self.cache is None:
            return self._read(0, count)
        if self._switches(read, read + count):
            self.cache.crop(0)
            return self._read(0, count)
        return self._read(read, count)

    def crop(self, length: int) -> None:
        """Forget all but the first tokens of each text."""
        self.ids, self.keep = self.ids[:, :length], None if self.keep is None else self.keep[:, :length]
        self.types = None if self.types is None else self.types[:, :length]
        if self.cache is not None:
            self.cache.crop(length)

    @property
    def before_switch(self) -> int:
        """How many more tokens can be read at once so that none is read otherwise because of a later one."""
        if self.switch is None:
            return sys.maxsize
        left = [self.switch - self.ids.shape[1] + pad for pad in self.padding]
        return min((n for n in left if n > 0), default=sys.maxsize)

    def reorder(self, rows: Tensor) -> None:
        """Make row i what row `rows[i]` is now."""
        self.ids = self.ids[rows]
        self.keep = None if self.keep is None else self.keep[rows]
        self.types = None if self.types is None else self.types[rows]
        self.inputs = {name: _chosen(x, rows) for name, x in self.inputs.items()}
        if self.cache is not None:
            self.cache.reorder(rows)

    def _read(self, start: int, count: int = 1) -> Tensor:
        """Read all but what the cache holds; return the scores after each of the last tokens, (R, count, V)."""
        inputs = dict(self.inputs)
        if self.types is not None:
            inputs["token_type_ids"] = self.types[:, start:]
        if self.by_ids or self.step > 0:
            keep = None if self.keep is None or start >= self.prompt else self.keep[:, start:].long()
            ids = self.ids[:, start:].clone(memory_format=torch.contiguous_format)  # strides would tell steps apart
            inputs |= {f"{self.side}input_ids": ids, f"{self.side}attention_mask": keep}
        if self.cache is not None and self.by_ids:
            self.cache.ids = self._told()
        self.output, logits = read(
            self.model,
            **inputs,
            cache=self.cache,
            use_cache=self.cache is not None,
            logits_to_keep=count,
            step=self.step,
            checked=self.checked,
            **self.wanted,
        )
        self.step += 1
        return logits


class Guidance:
    """Moves scores away from what another prompt would give.

    Paper: Sanchez et al., 2023, "Stay on topic with Classifier-Free Guidance", https://arxiv.org/abs/2306.17806
    """

    def __init__(self, request: Request, negative: Tensor | None):
        ids = request.ids[:, -1:] if negative is None else negative
        if ids.shape[1] == 0:
            raise InputError("guidance_scale with inputs_embeds needs negative_prompt_ids; pass them.")
        if len(ids) != len(request.ids):
            raise InputError(f"There are {len(ids)} negative prompts for {len(request.ids)} prompts; expected as many.")
        request = replace(request, ids=ids, keep=None, inputs={}, cache=None)
        self.reader, self.scale, self.rows = Reader(request), request.says("guidance_scale"), request.rows

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Change the scores."""
        first = self.reader.step == 0
        other = self.reader.first(self.rows) if first else self.reader.next(ids[:, -1].clamp(min=0))
        scores, other = scores.log_softmax(dim=-1), other.log_softmax(dim=-1)
        return self.scale * (scores - other) + other


def read(model: Model, *, logits_to_keep: int, step: int, checked: bool, **inputs: Any) -> tuple[Any, Tensor]:
    """Run a model; return its output, and in float32 the scores after each of the last tokens, (R, count, V).

    Raises:
        NonFiniteError: if `checked` and the scores of a token are NaN or infinite; it names the step.
    """
    output = model(**inputs, logits_to_keep=logits_to_keep)
    logits = output.logits[:, -logits_to_keep:].float()
    if checked and not bool(logits.amax(dim=-1).isfinite().all()):
        raise NonFiniteError(
            f"The model's scores at step {step} are not finite numbers. Load it with dtype='float32' or "
            "'bfloat16', or check its weights; remove_invalid_values=True goes on regardless."
        )
    return output, logits


def _first(ids: Tensor) -> Tensor:
    """Return the first token of each row that is no padding, (R, 1)."""
    return ids.gather(1, (ids >= 0).int().argmax(dim=1, keepdim=True))


def _chosen(x: Any, rows: Tensor) -> Any:
    return tuple(part[rows] for part in x) if isinstance(x, tuple) else x[rows] if isinstance(x, Tensor) else x


def _make_cache(request: Request) -> Cache:
    kind = request.config.cache_implementation or "dynamic"
    compiled = is_compiled(request.model) and kind == "dynamic" and request.says("num_beams") == 1
    if kind == "static" or compiled:
        length = request.ids.shape[1] + int(request.room.max())
        words = request.inputs.get("inputs_embeds")
        length += 0 if words is None else words.shape[1]
        return Cache(capacity=room(length) if compiled else length)
    return Cache(sliding="sliding" in kind or "hybrid" in kind)  # of hybrid ones files know several kinds
