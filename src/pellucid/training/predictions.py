"""What an evaluation gives: predictions and labels put together, or metrics that see a batch at a time."""

import copy
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ..errors import InputError
from ..outputs import LAST, ModelOutput
from .distributed import World
from .losses import IGNORED


class EvalPrediction(NamedTuple):
    """What `compute_metrics` is given.

    Attributes:
        predictions: of all rows, an array, or a tuple of arrays of a model that gives several.
        label_ids: their labels.
    """

    predictions: Any
    label_ids: Any


class PredictionOutput(NamedTuple):
    """What `predict` returns.

    Attributes:
        predictions: of all rows.
        label_ids: their labels; None without.
        metrics: the loss and others, by name.
    """

    predictions: Any
    label_ids: Any
    metrics: dict[str, float]


def predictions_of(outputs: Any, ignore: list[str] | None = None) -> Any:
    """Return what a model predicts: all of its output but the loss and what it computed on the way.

    Args:
        outputs: a model's.
        ignore: names of further parts to leave out.
    """
    if isinstance(outputs, Tensor):
        return outputs
    if isinstance(outputs, ModelOutput | Mapping):
        left_out = {"loss", *LAST, *(ignore or ())}
        parts = [v.float() for name, v in outputs.items() if name not in left_out and isinstance(v, Tensor)]
    else:
        parts = [part for part in outputs if isinstance(part, Tensor) and part.dim()]
    return parts[0] if len(parts) == 1 else tuple(parts) or None


class Predictions:
    """Takes predictions and labels, a batch at a time, and gives metrics at the end.

    Args:
        compute: a function of an `EvalPrediction`, for which all predictions are kept; or an object, whose
            `update(predictions, labels)` sees each batch and whose `compute()` gives the metrics; or None.
        keep: whether to keep predictions in any case.
    """

    def __init__(self, compute: Any = None, *, keep: bool = False):
        self.streaming = hasattr(compute, "update") and hasattr(compute, "compute")
        self.compute = copy.deepcopy(compute) if self.streaming else compute  # each evaluation counts from nothing
        self.keep = keep or (compute is not None and not self.streaming)
        self.predictions: list[Any] = []
        self.labels: list[Any] = []

    @property
    def wants_predictions(self) -> bool:
        """Whether anything would be done with predictions."""
        return self.keep or self.streaming

    def update(self, predictions: Any, labels: Any) -> None:
        """Take a batch, tensors or tuples of tensors."""
        if predictions is not None and labels is not None and self.streaming:
            self.compute.update(predictions, labels)
        if self.keep:
            self.predictions.append(_arrays(predictions))
            self.labels.append(_arrays(labels))

    def result(self) -> tuple[Any, Any, dict[str, float]]:
        """Return all predictions, all labels, and the metrics."""
        predictions, labels = _joined(self.predictions), _joined(self.labels)
        values: Any = {}
        if self.streaming:
            values = self.compute.compute()
            values = values if isinstance(values, Mapping) else {type(self.compute).__name__.lower(): values}
        elif self.compute is not None and predictions is not None and labels is not None:
            values = self.compute(EvalPrediction(predictions, labels))
            if not isinstance(values, Mapping):
                raise InputError(
                    f"compute_metrics returned a {type(values).__name__}; expected a dictionary of names and numbers."
                )
        return predictions, labels, {name: _number(value) for name, value in values.items()}


def gather_parts(value: Any, world: World) -> list[Any]:
    """Return what each process has, in order, for a tensor or a tuple of tensors."""
    if value is None:
        return [None] * world.size
    if isinstance(value, tuple):
        return list(zip(*(world.gather(part) for part in value), strict=True))
    return world.gather(value)


def speed(prefix: str, began: float, rows: int, steps: int) -> dict[str, float]:
    """Return the metrics that say how long something took."""
    seconds = time.perf_counter() - began
    return {
        f"{prefix}_runtime": round(seconds, 4),
        f"{prefix}_samples_per_second": round(rows / seconds, 3),
        f"{prefix}_steps_per_second": round(steps / seconds, 3),
    }


def prefixed(metrics: Mapping[str, Any], prefix: str) -> dict[str, Any]:
    """Return metrics with a prefix in front of those names that lack it."""
    return {name if name.startswith(f"{prefix}_") else f"{prefix}_{name}": v for name, v in metrics.items()}


def _number(value: Any) -> Any:
    return value.item() if hasattr(value, "item") and getattr(value, "size", 1) in (1, torch.Size([])) else value


def _each(function: Callable[..., Any], values: list[Any]) -> Any:
    first = values[0]
    if isinstance(first, tuple):
        return tuple(function([value[i] for value in values]) for i in range(len(first)))
    return function(values)


def _arrays(value: Any) -> Any:
    if isinstance(value, tuple):
        return tuple(_arrays(part) for part in value)
    return value.detach().cpu().numpy() if isinstance(value, Tensor) else value


def _joined(parts: list[Any]) -> Any:
    """Join arrays of batches; where batches are of different lengths, shorter ones are filled up with -100."""
    if not parts or any(part is None for part in parts):
        return None
    return _each(_concatenated, parts)


def _concatenated(parts: list[np.ndarray]) -> np.ndarray:
    parts = [np.atleast_1d(part) for part in parts]
    shape = np.max([part.shape[1:] for part in parts], axis=0).astype(int) if parts[0].ndim > 1 else ()
    filled = np.full((sum(len(part) for part in parts), *shape), IGNORED, dtype=parts[0].dtype)
    begin = 0
    for part in parts:
        filled[(slice(begin, begin + len(part)), *(slice(0, n) for n in part.shape[1:]))] = part
        begin += len(part)
    return filled
