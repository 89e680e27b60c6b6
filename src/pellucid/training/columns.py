"""What the rows of a dataset hold: which columns a model takes, how long they are, whether their labels can be learned.

A dataset is a list of dictionaries, anything with `len` and rows by index, such as `datasets.Dataset`, or an iterable.
"""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, did_you_mean
from ..layout import Layout
from ..model import Model
from .losses import IGNORED

LABELS = ("label", "label_ids")  # what collators rename to `labels`
INPUTS = ("input_ids", "inputs_embeds")


def accepted_columns(model: nn.Module) -> tuple[str, ...] | None:
    """Return the names of the inputs that a model takes; None when it takes any."""
    if isinstance(model, Model):
        return model.accepts
    parameters = inspect.signature(model.forward).parameters.values()
    if any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters):
        return None
    return tuple(parameter.name for parameter in parameters)


def label_columns(model: nn.Module) -> list[str]:
    """Return the names of the inputs from which a model computes its loss."""
    names = accepted_columns(model) or ("labels",)
    if "start_positions" in names:
        return ["start_positions", "end_positions"]
    return [name for name in names if "label" in name]


class Row(dict):
    """The columns of a row that a model takes; the others are not among them, but can be asked for."""

    def __init__(self, whole: Mapping[str, Any], kept: Iterable[str]):
        super().__init__({name: whole[name] for name in kept if name in whole})
        self.whole = dict(whole)

    def __missing__(self, name: str) -> Any:
        return self.whole[name]

    def get(self, name: str, default: Any = None) -> Any:
        """Return a column, or `default` when the row has none of this name."""
        return self[name] if name in self or name in self.whole else default

    def pop(self, name: str, *default: Any) -> Any:
        """Remove a column and return it."""
        if name not in self:
            return self.whole.pop(name, *default)
        self.whole.pop(name, None)
        return super().pop(name)

    def __delitem__(self, name: str) -> None:
        self.pop(name)

    def __reduce__(self) -> tuple[Any, ...]:
        return Row, (self.whole | self, list(self))


def column_names(dataset: Any) -> list[str] | None:
    """Return the columns of a dataset; None when only reading it would tell."""
    if (names := getattr(dataset, "column_names", None)) is not None:
        return list(names)
    if hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__") and len(dataset):
        return list(first) if isinstance(first := dataset[0], Mapping) else None
    return None


def column(dataset: Any, name: str) -> Sequence[Any] | None:
    """Return a column if that costs little: of a list of dictionaries or a `datasets.Dataset`; else None."""
    if isinstance(dataset, list | tuple):
        return [row.get(name) for row in dataset if isinstance(row, Mapping)]
    if hasattr(dataset, "column_names") and hasattr(dataset, "__len__") and name in (column_names(dataset) or ()):
        return dataset[name]
    return None


def row_lengths(dataset: Any, name: str) -> list[int]:
    """Return the tokens of each row, from a column that says it or from what is tokenized.

    Args:
        dataset: with `len`.
        name: of the column that may say it.

    Raises:
        InputError: if the rows hold neither.
    """
    told = column(dataset, name) if name in (column_names(dataset) or ()) else None
    if told is not None:
        return [int(length) for length in told]
    ids = column(dataset, "input_ids")
    rows = ids if ids is not None else (dataset[i].get("input_ids") for i in range(len(dataset)))
    lengths = [len(row) if row is not None else -1 for row in rows]
    if len(lengths) != len(dataset) or -1 in lengths:
        raise InputError(
            f"Lengths are needed, and rows have no column 'input_ids'; they have: {_listed(column_names(dataset))}. "
            f"Tokenize first, or give a column {name!r} (length_column_name)."
        )
    return lengths


def check_columns(model: nn.Module, dataset: Any, what: str) -> None:
    """Check that rows have something to read and something to learn from.

    Args:
        model: that is to learn.
        dataset: training rows.
        what: its name in messages, such as "train_dataset".

    Raises:
        InputError: if the dataset is empty or has no column of the model's, with the nearest names.
    """
    if hasattr(dataset, "__len__") and not len(dataset):
        raise InputError(f"{what} is empty; expected at least one row.")
    names, takes = column_names(dataset), accepted_columns(model)
    if names is None or takes is None or not isinstance(model, Model):
        return
    inputs = [name for name in (*INPUTS, "pixel_values", "input_features") if name in takes]
    if inputs and not any(name in names for name in inputs):
        raise InputError(
            f"{what} has no column {' or '.join(map(repr, inputs))}{did_you_mean(inputs[0], names) or '.'} It has: "
            f"{_listed(names)}. Tokenize it first: dataset.map(lambda row: tokenizer(row['text'], truncation=True))."
        )


def check_labels(model: nn.Module, dataset: Any, what: str) -> None:
    """Check the labels of a dataset whose columns can be read cheaply: their kind, and that the model has the classes.

    Raises:
        InputError: if labels are of several kinds, are text, or lie outside of what the model knows.
    """
    names = column_names(dataset) or ()
    name = next((name for name in ("labels", *LABELS) if name in names), None)
    values = column(dataset, name) if name else None
    if values is None or not len(values):
        return
    kinds: dict[str, int] = {}
    limit, outside = _classes(model), None
    for row, value in enumerate(values):
        flat, kind = _flat(value)
        kinds.setdefault(kind, row)
        if kind in ("text", "nothing") or len(kinds) > 1:
            break
        if limit is not None and outside is None and kind.startswith("whole"):
            outside = next(((row, label) for label in flat if not 0 <= label < limit and label != IGNORED), None)
    _refuse_kinds(kinds, name, what)
    if limit is not None and outside is not None:
        raise InputError(
            f"{what}: row {outside[0]} has the label {outside[1]}; the model has {limit} classes, 0 to {limit - 1}. "
            "Load it with num_labels=..., number the labels from 0, and say -100 where there is nothing to learn."
        )


def _refuse_kinds(kinds: dict[str, int], name: str | None, what: str) -> None:
    if len(kinds) > 1:
        (one, row), (other, later) = list(kinds.items())[:2]
        raise InputError(
            f"{what}: the labels in column {name!r} are of several kinds: {one} in row {row}, {other} in row {later}; "
            "expected one kind throughout."
        )
    if "text" in kinds:
        raise InputError(
            f"{what}: the labels in column {name!r} are text; number them with the model's config.label2id first."
        )
    if "nothing" in kinds:
        raise InputError(f"{what}: row {kinds['nothing']} has no label in column {name!r}; leave such rows out.")


def _classes(model: nn.Module) -> int | None:
    """Return how many classes a label may name; None when it names none."""
    config = getattr(model, "config", None)
    if config is None or getattr(config, "problem_type", None) not in (None, "single_label_classification"):
        return None
    name = type(model).__name__
    if name.endswith(("ForSequenceClassification", "ForTokenClassification")):
        return config.num_labels if config.num_labels > 1 else None
    if name.endswith(("ForMaskedLM", "ForCausalLM", "LMHeadModel", "ForConditionalGeneration")):
        return getattr(config, "vocab_size", None)
    return None


def _flat(value: Any) -> tuple[list[Any], str]:
    """Return the labels of a row, and their kind."""
    if isinstance(value, Tensor) or hasattr(value, "tolist"):
        value = value.tolist()
    listed = isinstance(value, list | tuple)
    flat = list(value) if listed else [value]
    while flat and isinstance(flat[0], list | tuple):
        flat = [label for part in flat for label in part]
    if any(isinstance(label, str) for label in flat):
        return flat, "text"
    if not flat or any(label is None for label in flat):
        return flat, "nothing"
    kind = "numbers" if any(isinstance(label, float) for label in flat) else "whole numbers"
    return flat, f"{kind} in lists" if listed else kind


def _listed(names: Iterable[str] | None) -> str:
    return ", ".join(map(repr, names)) if names else "none that is known"


@dataclass(frozen=True)
class Collate:
    """Makes batches of rows, of which a collator sees the columns that the model takes.

    Attributes:
        collator: from a list of rows to a batch.
        kept: those columns; None for all.
    """

    collator: Callable[[list[Any]], Any]
    kept: tuple[str, ...] | None

    def __call__(self, rows: list[Any]) -> Any:
        """Make a batch of copies, which collators may change."""
        if all(isinstance(row, Mapping) for row in rows):
            rows = [dict(row) if self.kept is None else Row(row, self.kept) for row in rows]
        return self.collator(rows)


def to_device(batch: Any, device: torch.device) -> Any:
    """Bring the tensors of a batch to a device."""
    if isinstance(batch, Tensor):
        return batch.to(device)
    if isinstance(batch, Layout) and batch.lengths is not None:
        return Layout.packed(batch.lengths, device)
    if isinstance(batch, Mapping):
        return {name: to_device(value, device) for name, value in batch.items()}
    if isinstance(batch, list | tuple):
        return type(batch)(to_device(value, device) for value in batch)
    return batch
