"""The reference: the original's model of the same class, tiny, with every parameter moved off its initial value."""

import functools
import tempfile
import zlib
from pathlib import Path
from typing import Any

import torch

from cases import CASES
from pellucid import auto


@functools.cache
def reference_class(architecture: str, head: str) -> Any:
    import transformers

    stem = auto.config_class(architecture).__name__.removesuffix("Config")
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
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@functools.cache
def checkpoint(architecture: str, head: str) -> Path:
    """Return a folder that the original wrote."""
    folder = Path(tempfile.mkdtemp(prefix="pellucid-oracle-"))
    reference(architecture, head).save_pretrained(folder)
    return folder


def our_class(architecture: str, head: str) -> Any:
    return auto.heads_of(architecture)[head]


def ours(architecture: str, head: str, **options: Any) -> Any:
    """Return our model, freshly loaded from the original's folder."""
    return our_class(architecture, head).from_pretrained(checkpoint(architecture, head), **options)
