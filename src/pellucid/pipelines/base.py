"""`Pipeline`: three visible steps, run over one input or any number of them."""

import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import chain, repeat
from typing import Any, ClassVar

import torch
from torch import Tensor

from ..batching import FIRST_READ, LARGEST_READ, progress, run_in_batches
from ..errors import InputError, NonFiniteError, refuse_unknown
from ..hub import HubOptions
from ..layout import Layout
from ..model import Model
from ..outputs import ModelOutput
from ..tokenizer import Tokenizer
from .trace import Trace
from .windows import Piece


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
    # What the original's users pass and what there is nothing to choose about here: no batch is padded.
    ignored: ClassVar[frozenset[str]] = frozenset({"num_workers", "padding", "framework"})
    side_by_side: ClassVar[bool] = True  # whether several threads may run batches

    def __init__(self, model: Model, tokenizer: Tokenizer, **options: Any):
        self.model = model
        self.tokenizer = tokenizer
        self.defaults = self.read_options(dict(self.options) | {"batch_size": None}, options)

    @classmethod
    def read_beside(cls, name: str | os.PathLike, hub: HubOptions) -> tuple[dict[str, Any], HubOptions]:
        """Read what a task needs from beside a model's own files: (more options, where the model's own files are)."""
        return {}, hub

    # --- the three steps ----------------------------------------------------------------------------------------------

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Turn one input into one or more pieces of tokens, each short enough for the model."""
        raise TypeError(f"{type(self).__name__} does not say how to preprocess.")

    def forward(self, pieces: list[Piece], **options: Any) -> ModelOutput:
        """Run the model on pieces laid one after the other, without padding."""
        device = self.model.device
        inputs: dict[str, Any] = {
            name: torch.tensor(list(chain.from_iterable(piece[name] for piece in pieces)), device=device)[None]
            for name in pieces[0]
            if name in self.model.accepts and name != "attention_mask"
        }
        layout = Layout.packed([len(piece["input_ids"]) for piece in pieces], device)
        with torch.inference_mode():
            return self.model(**inputs, attention_mask=layout)

    def rows(self, output: ModelOutput, pieces: Sequence[Piece]) -> Sequence[Any]:
        """Split the model's result, packed or padded, into what `postprocess` needs of each piece."""
        return list(self.finite(output["logits"]))

    def cost(self, piece: Piece) -> int:
        """Return how many tokens of a batch's budget a piece takes."""
        return len(piece["input_ids"])

    def postprocess(self, pieces: list[Piece], rows: list[Any], **options: Any) -> Any:
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
        if self.is_one(inputs, settings):
            self.check(inputs, "the input", settings)
            return self.one(next(self._run([inputs], settings, lambda count: None)), inputs)
        if isinstance(inputs, list | tuple):
            for i, item in enumerate(inputs):
                self.check(item, f"item {i} of the list", settings)
            with progress(len(inputs)) as tell:
                return self.many(list(self._run(inputs, settings, tell)), settings)
        if (stream := _stream(inputs)) is not None:
            return self._lazily(stream, settings, _length(inputs))
        self.check(inputs, "the input", settings)
        raise InputError(f"{self.task} can not read a {type(inputs).__name__}.")

    def one(self, answer: Any, item: Any) -> Any:
        """Shape the answer to a single input as the task's users expect it."""
        return answer

    def many(self, answers: list[Any], settings: dict[str, Any]) -> Any:
        """Shape the answers to a list."""
        return answers

    def is_one(self, inputs: Any, settings: dict[str, Any]) -> bool:
        """Tell whether this is a single input."""
        return isinstance(inputs, str)

    def check(self, item: Any, where: str, settings: dict[str, Any]) -> None:
        """Raise unless this is something the task can read.

        Raises:
            InputError: saying what and where it is.
        """
        if not self.is_one(item, settings):
            where = where[0].upper() + where[1:]
            raise InputError(f"{where} is {item!r:.60} ({type(item).__name__}); expected a text (str).")

    def finite(self, logits: Tensor) -> Tensor:
        """Return logits in float32 on the CPU.

        Raises:
            NonFiniteError: if one is NaN or infinite.
        """
        logits = logits.float().cpu()
        if not bool(logits.isfinite().all()):
            raise NonFiniteError(
                f"The model's logits hold {logits[~logits.isfinite()][0].item()}; expected finite numbers. Its weights "
                f"may be damaged, or overflow in {self.model.dtype}: load it with dtype='float32'."
            )
        return logits

    def trace(self, inputs: Any, **options: Any) -> Trace:
        """Show the three steps for one input or a list: tokens and ids, hidden states and logits, and the answers."""
        settings = self.read_options(self.defaults, options)
        items = [inputs] if self.is_one(inputs, settings) else list(inputs)
        for i, item in enumerate(items):
            self.check(item, f"item {i}", settings)
        groups = [self.preprocess(item, **settings) for item in items]
        pieces = list(chain.from_iterable(groups))
        if not pieces:
            raise InputError("There is nothing to trace; expected one input or a list of them.")
        batch = self._padded(pieces)
        tensors = {name: tensor.to(self.model.device) for name, tensor in batch.items() if name in self.model.accepts}
        with torch.inference_mode():
            output = self.model(**tensors, output_hidden_states=True)
        rows = iter(self.rows_of_trace(output, pieces, settings))
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

    def rows_of_trace(self, output: ModelOutput, pieces: list[Piece], settings: dict[str, Any]) -> Sequence[Any]:
        """Return what `postprocess` needs of each piece, of the padded batch that a trace shows."""
        return self.rows(output, pieces)

    def note(self, groups: list[list[Piece]]) -> str:
        """Say in a sentence what was done about texts longer than the model reads; empty when nothing was."""
        windows = [len(group) for group in groups if len(group) > 1]
        return f"{len(windows)} long text(s) read in {sum(windows)} overlapping windows" if windows else ""

    def _padded(self, pieces: list[Piece]) -> dict[str, Any]:
        """Lay pieces under each other, filled up on the right: what the model takes, and the mask."""
        names = [name for name in pieces[0] if name in self.model.accepts]
        longest = max(len(piece["input_ids"]) for piece in pieces)
        fill = {"input_ids": self.tokenizer.pad_token_id or 0, "bbox": [0, 0, 0, 0]}
        rows = {name: [p[name] + [fill.get(name, 0)] * (longest - len(p[name])) for p in pieces] for name in names}
        rows["attention_mask"] = [[int(i < len(piece["input_ids"])) for i in range(longest)] for piece in pieces]
        return {name: torch.tensor(columns) for name, columns in rows.items()}

    def _checked(self, inputs: Iterable[Any], settings: dict[str, Any]) -> Iterator[Any]:
        for i, item in enumerate(inputs):
            self.check(item, f"item {i}", settings)
            yield item

    def _lazily(self, inputs: Iterable[Any], settings: dict[str, Any], total: int | None) -> Iterator[Any]:
        with progress(total) as tell:
            yield from self._run(self._checked(inputs, settings), settings, tell)

    def _run(self, items: Iterable[Any], settings: dict[str, Any], tell: Callable[[int], Any]) -> Iterator[Any]:
        """Answer every item in order, and tell how many more are done; pieces of neighbouring items share batches."""
        sizes: list[int] = []  # pieces of each item that has been read but not answered

        def pieces() -> Iterator[tuple[Piece, int]]:
            for item in items:
                group = self.preprocess(item, **settings)
                sizes.append(len(group))
                yield from zip(group, chain([1], repeat(0)), strict=False)  # an item is counted with its first piece

        def run(batch: list[tuple[Piece, int]]) -> list[tuple[Piece, Any]]:
            few = [piece for piece, _ in batch]
            return list(zip(few, self.rows(self.forward(few, **settings), few), strict=True))

        group: list[tuple[Piece, Any]] = []
        for done in run_in_batches(
            pieces(),
            run,
            length=lambda item: self.cost(item[0]),
            batch_size=settings["batch_size"],
            workers=self.workers,
            ran=lambda batch: tell(sum(count for _, count in batch)),
            ahead=LARGEST_READ if isinstance(items, list | tuple) else FIRST_READ,
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
        check_count("batch_size", settings["batch_size"])
        return settings

    @property
    def limit(self) -> int | None:
        """The most tokens the model reads at once; None when there is no limit."""
        limits = (self.model.config.max_tokens, self.tokenizer.model_max_length)
        return min((limit for limit in limits if limit is not None), default=None)

    @property
    def device(self) -> torch.device:
        """Where the model runs."""
        return self.model.device

    @property
    def workers(self) -> int:
        """How many batches run side by side: on a CPU as many as it has cores, which is faster than sharing each."""
        if not self.side_by_side or self.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
            return 1  # threads would not know of autocast
        return torch.get_num_threads()

    def save_pretrained(self, path: str | os.PathLike) -> None:
        """Write model and tokenizer into a folder."""
        self.model.save_pretrained(path)
        self.tokenizer.save_pretrained(path)


def token_rows(part: Tensor, pieces: Sequence[Piece]) -> list[Tensor]:
    """Split what a model says about tokens into one tensor a piece: packed, (1, N, ...), or padded, (B, T, ...)."""
    lengths = [len(piece["input_ids"]) for piece in pieces]
    if len(part) == 1:
        return list(part[0].split(lengths))
    return [row[:length] for row, length in zip(part, lengths, strict=True)]


def check_count(name: str, value: Any, *, least: int = 1) -> None:
    """Raise unless an option is None or a whole number of at least `least`.

    Raises:
        InputError: naming the option and the value.
    """
    if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < least):
        raise InputError(f"{name} is {value!r}; expected a whole number of at least {least}, or None.")


def _stream(inputs: Any) -> Iterable[Any] | None:
    """Return the items of an iterable or of a dataset that is read by index; None if it is neither."""
    if isinstance(inputs, Mapping | str | bytes):
        return None
    if isinstance(inputs, Iterable):
        return inputs
    if hasattr(inputs, "__len__") and hasattr(inputs, "__getitem__"):
        return (inputs[i] for i in range(len(inputs)))
    return None


def _length(inputs: Iterable[Any]) -> int | None:
    try:
        return len(inputs)  # type: ignore[arg-type]
    except TypeError:
        return None
