"""Calibration: of answers that are given with a probability of 80 %, are 80 % right?

Paper: Guo et al., 2017, "On Calibration of Modern Neural Networks", https://arxiv.org/abs/1706.04599

Shapes: N texts, L classes.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..model import Model

BINS = 15  # of probabilities, as in the paper
LEAST = 100  # texts, to fit a temperature
COLDEST, HOTTEST = 0.02, 50.0


class Bin(NamedTuple):
    """The answers whose probability lies in one interval.

    Attributes:
        answers: how many there are.
        confidence: the mean of their probabilities.
        accuracy: the share of them that is right.
    """

    answers: int
    confidence: float
    accuracy: float


class Calibration(NamedTuple):
    """How far probabilities can be believed, before and after all logits are divided by a temperature.

    Attributes:
        temperature: that fits best; 1 where nothing would be better.
        before: the answers, by their probability.
        after: the same with a temperature, fitted for each half of the texts on the other half.
        is_applied: whether the model divides its logits.
    """

    temperature: float
    before: list[Bin]
    after: list[Bin]
    is_applied: bool = False

    def metrics(self) -> dict[str, float]:
        """Return `ece`, the expected calibration error of the model; where it divides its logits, more of that."""
        if not self.is_applied:
            return {"ece": expected_error(self.before)}
        before, after = expected_error(self.before), expected_error(self.after)
        return {"ece": after, "ece_before_calibration": before, "temperature": self.temperature}

    def describe(self) -> str:
        """Say in a sentence what was found and done."""
        errors = f"the expected calibration error from {expected_error(self.before):.3f} to "
        errors += f"{expected_error(self.after):.3f}, measured on texts that it was not fitted on"
        if (count := sum(b.answers for b in self.before)) < LEAST:
            return f"{count} held-out texts are too few to calibrate probabilities; give {LEAST} or more."
        if self.temperature == 1:
            return "No temperature would make the probabilities better."
        if self.is_applied:
            return (
                f"The model's last layer was divided by the temperature {self.temperature:.3f}: no answer changes, and "
                f"probabilities can be believed more. It brings {errors}."
            )
        return f"Dividing logits by {self.temperature:.3f} would bring {errors}; the model does not do so."


def calibrate(logits: Tensor, labels: Tensor) -> Calibration:
    """Fit a temperature, and measure on texts that it was not fitted on what it brings.

    Args:
        logits: of texts that were not learned from, (N, L).
        labels: their classes, (N,).
    """
    logits, halves, scaled = logits.double(), torch.arange(len(labels)) % 2, logits.double().clone()
    if len(labels) < LEAST:
        bins = reliability(logits, labels)
        return Calibration(1.0, bins, bins)
    for half in (0, 1):
        scaled[halves == half] /= fit_temperature(logits[halves != half], labels[halves != half])
    if F.cross_entropy(scaled, labels) >= F.cross_entropy(logits, labels):
        bins = reliability(logits, labels)
        return Calibration(1.0, bins, bins)
    return Calibration(fit_temperature(logits, labels), reliability(logits, labels), reliability(scaled, labels))


def fit_temperature(logits: Tensor, labels: Tensor) -> float:
    """Return the temperature whose probabilities have the least cross-entropy.

    A class counts as true with a probability of 1 / (N + L) more than it was, so that texts that are all answered
    rightly do not ask for certainty (Platt, 1999, "Probabilistic Outputs for Support Vector Machines").

    Args:
        logits: (N, L).
        labels: (N,).
    """
    logits, (texts, classes) = logits.double(), logits.shape
    targets = (F.one_hot(labels, classes) * texts + 1) / (texts + classes)
    wanted = (targets * logits).sum()
    low, high = 1 / HOTTEST, 1 / COLDEST  # of 1 / temperature, in which the cross-entropy is convex
    for _ in range(60):
        middle = (low * high) ** 0.5
        slope = ((logits * middle).softmax(-1) * logits).sum() - wanted
        low, high = (middle, high) if slope < 0 else (low, middle)
    return 1 / low


def reliability(logits: Tensor, labels: Tensor) -> list[Bin]:
    """Sort answers by their probability into intervals of one size; return those that are not empty."""
    confidence, said = logits.double().softmax(-1).max(-1)
    right, place = (said == labels).double(), (confidence * BINS).ceil().long().clamp(1, BINS)
    inside = [place == i for i in range(1, BINS + 1)]
    return [Bin(int(i.sum()), float(confidence[i].mean()), float(right[i].mean())) for i in inside if i.any()]


def expected_error(bins: list[Bin]) -> float:
    """Return the expected calibration error, from 0 to 1: by how much probabilities are off, an answer in the mean."""
    return sum(b.answers * abs(b.confidence - b.accuracy) for b in bins) / sum(b.answers for b in bins)


def last_layer(model: Model) -> nn.Linear | None:
    """Return the linear map that alone can be what gives a classifier's logits; None if that is not clear."""
    inside = f"{model.prefix}."
    found = {
        name: module
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and module.out_features == model.config.num_labels
        and (".adapters." in name or not name.startswith(inside))
    }
    learned = {name: module for name, module in found.items() if ".whole" in name}  # beside one that is frozen
    layers = list((learned or found).values())
    return layers[0] if len(layers) == 1 else None


@torch.no_grad()
def divide_logits(layer: nn.Linear, temperature: float) -> None:
    """Divide what a layer gives by a temperature, which changes no answer, only its probability."""
    layer.weight.div_(temperature)
    if layer.bias is not None:
        layer.bias.div_(temperature)
