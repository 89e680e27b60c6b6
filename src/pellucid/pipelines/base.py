"""`Pipeline`: three visible steps, run over one input or any number of them."""

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..batching import run_in_batches, with_progress
from ..errors import InputError, refuse_unknown
from ..layout import Layout
from ..model import Model
from ..outputs import ModelOutput
from ..tokenizer import Tokenizer
from .trace import Trace

Piece = dict[str, list[int]]  # one text's tokens: input_ids, and what else the tokenizer gives


class Pipeline:
    """The base of every task: `preprocess` text to tokens, `forward` tokens to logits, `postprocess` them to an answer.

    A pipeline holds no state between calls; threads may share it.

    Args:
        model: with the head of the task.
        tokenizer: that belongs to the model.
        options: of the task, as defaults for every call.
    """

    task: ClassVar[str] = ""
    options: ClassVar[dict[str, Any]] = {}  # the task's options and their defaults
    ignored: ClassVar[frozenset[str]] = frozenset(
        {"num_workers", "padding", "framework"}
    )  # the original's; nothing to choose here

    def __init__(self, model: Model, tokenizer: Tokenizer, **options: Any):
        self.model = model
        self.tokenizer = tokenizer
        self.defaults = self.read_options(dict(self.options) | {"batch_size": None}, options)

    # --- the three steps ----------------------------------------------------------------------------------------------

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Turn one input into one or more pieces of tokens, each short enough for the model."""
        raise TypeError(f"{type(self).__name__} does not say how to preprocess.")

    def forward(self, pieces: list[Piece]) -> ModelOutput:
        """Run the model on pieces laid one after the other, without padding: one row of the result a piece."""
        device = self.model.device
        inputs: dict[str, Any] = {
            name: torch.tensor(list(chain.from_iterable(piece[name] for piece in pieces)), device=device)[None]
            for name in pieces[0]
            if name in self.model.accepts and name != "attention_mask"
        }
        layout = Layout.packed([len(piece["input_ids"]) for piece in pieces], device)
        with torch.inference_mode():
            return self.model(**inputs, attention_mask=layout)

    def postprocess(self, pieces: list[Piece], rows: list[Tensor], **options: Any) -> Any:
        """Turn the model's rows for one input's pieces into the answer."""
        raise TypeError(f"{type(self).__name__} does not say how to postprocess.")

    # --- running them -------------------------------------------------------------------------------------------------

    def __call__(self, inputs: Any, **options: Any) -> Any:
        """Answer one input, a list of them, or, lazily, any iterable of them.

        Args:
            inputs: one input; a list or tuple, which gives a list; a generator, dataset or other iterable, which gives
                an iterator in the same order.
            options: of the task; `batch_size` fixes the number of pieces a batch, which is otherwise chosen by length.

        Raises:
            InputError: naming the input that is of the wrong kind.
            ArgumentError: for an option that does not exist.
        """
        settings = self.read_options(self.defaults, options)
        if self.is_one(inputs):
            return self.one(next(self._run([inputs], settings)), inputs, options)
        if isinstance(inputs, list | tuple):
            for i, item in enumerate(inputs):
                self.check(item, f"item {i} of the list")
            return list(with_progress(self._run(inputs, settings), len(inputs)))
        if isinstance(inputs, Iterable) and not isinstance(inputs, Mapping | bytes):
            return with_progress(self._run(self._checked(inputs), settings), _length(inputs))
        self.check(inputs, "the input")
        raise InputError(f"{self.task} can not read a {type(inputs).__name__}.")

    def one(self, answer: Any, item: Any, options: dict[str, Any]) -> Any:
        """Shape the answer to a single input as the task's users expect it."""
        return answer

    def is_one(self, inputs: Any) -> bool:
        """Tell whether this is a single input."""
        return isinstance(inputs, str)

    def check(self, item: Any, where: str) -> None:
        """Raise unless this is something the task can read.

        Raises:
            InputError: saying what and where it is.
        """
        if not self.is_one(item):
            raise InputError(
                f"{where[0].upper()}{where[1:]} is a {type(item).__name__} ({item!r:.60}); expected a text (str)."
            )

    def trace(self, inputs: Any, **options: Any) -> Trace:
        """Show the three steps for one input or a list: tokens and ids, hidden states and logits, and the answers."""
        settings = self.read_options(self.defaults, options)
        items = [inputs] if self.is_one(inputs) else list(inputs)
        for i, item in enumerate(items):
            self.check(item, f"item {i}")
        groups = [self.preprocess(item, **settings) for item in items]
        pieces = list(chain.from_iterable(groups))
        batch = self.tokenizer.pad({name: [p[name] for p in pieces] for name in pieces[0]}, return_tensors="pt")
        tensors = {name: tensor.to(self.model.device) for name, tensor in batch.items() if name in self.model.accepts}
        with torch.inference_mode():
            output = self.model(**tensors, output_hidden_states=True)
        rows = iter(self.rows(output))
        answers = [self.postprocess(group, [next(rows) for _ in group], **settings) for group in groups]
        return Trace(
            task=self.task,
            items=items,
            pieces=[len(group) for group in groups],
            tokens=[self.tokenizer.convert_ids_to_tokens(ids) for ids in batch["input_ids"].tolist()],
            inputs={name: tensor.cpu() for name, tensor in batch.items()},
            output=output,
            answers=answers,
            note=self.note(groups),
        )

    def note(self, groups: list[list[Piece]]) -> str:
        """Say in a sentence what was done about texts longer than the model reads; empty when nothing was."""
        return ""

    def rows(self, output: ModelOutput) -> Iterable[Tensor]:
        """Split the model's result into one row a piece."""
        return output["logits"]

    def _checked(self, inputs: Iterable[Any]) -> Iterator[Any]:
        for i, item in enumerate(inputs):
            self.check(item, f"item {i}")
            yield item

    def _run(self, items: Iterable[Any], settings: dict[str, Any]) -> Iterator[Any]:
        """Answer every item in order; the pieces of neighbouring items share batches."""
        sizes: list[int] = []  # pieces of each item that has been read but not answered

        def pieces() -> Iterator[Piece]:
            for item in items:
                group = self.preprocess(item, **settings)
                sizes.append(len(group))
                yield from group

        def run(batch: list[Piece]) -> list[tuple[Piece, Tensor]]:
            return list(zip(batch, self.rows(self.forward(batch)), strict=True))

        group: list[tuple[Piece, Tensor]] = []
        for done in run_in_batches(
            pieces(), run, length=lambda p: len(p["input_ids"]), batch_size=settings["batch_size"]
        ):
            group.append(done)
            if len(group) == sizes[0]:
                sizes.pop(0)
                yield self.postprocess([piece for piece, _ in group], [row for _, row in group], **settings)
                group = []

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Lay given options over the defaults; names that do not exist raise."""
        refuse_unknown(f"pipeline({self.task!r})", given, [*self.options, "batch_size", *self.ignored])
        settings = defaults | {name: value for name, value in given.items() if name not in self.ignored}
        size = settings["batch_size"]
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise InputError(
                f"batch_size is {size!r}; expected a whole number of at least 1, or None to choose by length."
            )
        return settings

    @property
    def limit(self) -> int | None:
        """The most tokens the model reads at once; None when there is no limit."""
        limits = (getattr(self.model.config, "max_position_embeddings", None), self.tokenizer.model_max_length)
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    def save_pretrained(self, path: str | os.PathLike) -> None:
        """Write model and tokenizer into a folder."""
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)


def _length(inputs: Iterable[Any]) -> int | None:
    try:
        return len(inputs)  # type: ignore[arg-type]
    except TypeError:
        return None
