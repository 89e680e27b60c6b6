"""The reference: the original's model of the same class, tiny, with every parameter moved off its initial value."""

import copy
import functools
import os
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file

from cases import CASES
from pellucid import auto

COMPUTED = ("inv_freq", "embed_positions.weight")  # what the original stores, though config.json says it


@functools.cache
def reference_class(architecture: str, head: str) -> Any:
    import transformers

    stem = auto.config_class(architecture.partition(":")[0]).__name__.removesuffix("Config")
    return getattr(transformers, stem + head)


@functools.cache
def reference(architecture: str, head: str) -> Any:
    """Return the original's model with dropout and every weight, bias and norm perturbed."""
    cls = reference_class(architecture, head)
    config = cls.config_class(**CASES[architecture], num_labels=3 if "Classification" in head else 2)
    torch.manual_seed(zlib.crc32(f"{architecture}{head}".encode()))
    model = cls(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:  # else it is computed from the configuration
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@functools.cache
def checkpoint(architecture: str, head: str) -> Path:
    """Return a folder that the original wrote."""
    folder = Path(tempfile.mkdtemp(dir=os.environ["HF_HOME"]))
    reference(architecture, head).save_pretrained(folder)
    return folder


def stored(architecture: str, head: str, folder: Path | None = None) -> dict[str, torch.Tensor]:
    """Return the tensors that the original wrote, under the names that the Hub has today."""
    tensors = load_file((folder or checkpoint(architecture, head)) / "model.safetensors")
    unread = (*COMPUTED, *our_class(architecture, head).unread)  # unless this very model reads it
    for old, new in our_class(architecture, head).legacy_names.items():
        tensors = {name.replace(old, new): tensor for name, tensor in tensors.items()}
    read = names(architecture, head)
    return {name: tensor for name, tensor in tensors.items() if name in read or not name.endswith(unread)}


@functools.cache
def names(architecture: str, head: str) -> frozenset[str]:
    """Return the names of our model's tensors."""
    return frozenset(ours(architecture, head).state_dict())


def stored_gradients(architecture: str, head: str) -> dict[str, torch.Tensor]:
    """Return the original's gradients as it would store them: in memory it names and splits some tensors otherwise."""
    original = reference(architecture, head)
    gradients = copy.deepcopy(original)
    for parameter, source in zip(gradients.parameters(), original.parameters(), strict=True):
        parameter.data = torch.zeros_like(source) if source.grad is None else source.grad
    with tempfile.TemporaryDirectory() as folder:
        gradients.save_pretrained(folder)
        return stored(architecture, head, Path(folder))


def our_class(architecture: str, head: str) -> Any:
    return auto.heads_of(architecture.partition(":")[0])[head]


def ours(architecture: str, head: str, **options: Any) -> Any:
    """Return our model, freshly loaded from the original's folder."""
    return our_class(architecture, head).from_pretrained(checkpoint(architecture, head), **options)
