"""What is minimised: the items that a mean loss is the mean of, and losses other than a model's own.

A model's loss is the mean over its batch. Batches of a step, and the processes that share it, hold different numbers of
items: to be one step's loss their means are weighted by these numbers.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import InputError
from ..layout import Layout
from ..model import Model

IGNORED = -100  # the label of what there is nothing to learn from
DETECTORS = ("ElectraForPreTraining", "FunnelForPreTraining")  # which learn from all tokens but padding


def shifts_labels(model: nn.Module) -> bool:
    """Tell whether a model's loss compares the scores at each token with the label of the next one."""
    return any(
        kind.__name__.endswith(("ForCausalLM", "LMHeadModel")) and hasattr(sys.modules[kind.__module__], "causal_loss")
        for kind in type(model).__mro__  # of a class that a user or FSDP2 derived, too
    )


def aligned_labels(model: nn.Module, batch: Mapping[str, Any]) -> Tensor:
    """Return the label that each of a model's scores is compared with: `labels`, moved where the model moves them."""
    labels, mask = batch["labels"], batch.get("attention_mask")
    if any(kind.__name__ in DETECTORS for kind in type(model).__mro__) and isinstance(mask, Tensor):
        return labels.masked_fill(mask == 0, IGNORED)
    if not shifts_labels(model) or labels.dim() < 2:
        return labels
    tokens = batch["input_ids"] if batch.get("input_ids") is not None else batch["inputs_embeds"]
    positions = Layout.of(tokens, mask).positions
    ending = labels.new_full((len(labels), 1), IGNORED)
    return torch.cat([labels[:, 1:].masked_fill(positions[:, 1:] == 0, IGNORED), ending], dim=1)


def count_items(model: nn.Module, batch: Mapping[str, Any], class_weights: Tensor | None = None) -> float:
    """Return how much a batch counts: its labels other than -100; where there are no classes, its rows.

    Args:
        model: whose loss it is; one with several losses counts by its `labels`.
        batch: its inputs, with `labels` or others.
        class_weights: (L,), of a loss that weighs classes; a label counts as much as its class weighs.
    """
    labels = batch.get("labels")
    if not isinstance(labels, Tensor):
        return float(next((len(value) for value in batch.values() if isinstance(value, Tensor) and value.dim()), 1))
    if labels.is_floating_point():
        return float(len(labels))
    labels = aligned_labels(model, batch)
    counted = labels[labels != IGNORED]
    return float(len(counted)) if class_weights is None else float(class_weights.to(labels.device)[counted].sum())


def smoothed_loss(logits: Tensor, labels: Tensor, smoothing: float, class_weights: Tensor | None = None) -> Tensor:
    """The mean cross-entropy with a part of each target spread over all classes (Szegedy et al., 2015, section 7).

    Args:
        logits: (..., L).
        labels: (...), -100 where there is nothing to learn.
        smoothing: the part that is spread, from 0 to 1.
        class_weights: (L,), what an item of each class weighs.
    """
    weights = None if class_weights is None else class_weights.to(logits)
    return F.cross_entropy(logits.flatten(0, -2), labels.flatten(), weights, label_smoothing=smoothing)


def add_noise(embeddings: Tensor, alpha: float) -> Tensor:
    """Add uniform noise of the size alpha / sqrt(T E) to embedded texts, (B, T, E).

    Paper: Jain et al., 2023, "NEFTune: Noisy Embeddings Improve Instruction Finetuning", https://arxiv.org/abs/2310.05914
    """
    size = alpha / (embeddings.shape[-2] * embeddings.shape[-1]) ** 0.5
    return embeddings + torch.empty_like(embeddings).uniform_(-size, size)


@contextmanager
def noisy_embeddings(model: nn.Module, alpha: float | None) -> Iterator[None]:
    """While active, words that a model embeds in training get the noise of NEFTune; None or 0 adds none."""
    if not alpha:
        yield
        return
    size = getattr(getattr(model, "config", None), "vocab_size", None)
    base = model.base_model if isinstance(model, Model) else model
    words = next((m for m in base.modules() if isinstance(m, nn.Embedding) and m.num_embeddings == size), None)
    if words is None:
        raise InputError(
            f"neftune_noise_alpha is {alpha}, but {type(model).__name__} has no nn.Embedding of {size} words to add "
            "noise to; leave it out."
        )

    def noisy(module: nn.Module, _: Any, out: Any) -> Any:
        return add_noise(out, alpha) if module.training else out

    hook = words.register_forward_hook(noisy)
    try:
        yield
    finally:
        hook.remove()
