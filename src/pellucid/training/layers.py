"""The layers of a model, from outside: which they are, and running them in a way that needs less memory."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from torch import nn

from ..errors import InputError
from ..model import Model


def blocks(model: nn.Module) -> Iterator[nn.Module]:
    """Yield a model's layers, those of an encoder first.

    Raises:
        InputError: if it has no known stack of layers.
    """
    base = model.base_model if isinstance(model, Model) else None
    if base is None or not base.stack:
        raise InputError(f"{type(model).__name__} has no known stack of layers; use the models of this library.")
    for stack in filter(None, (base.source_stack, base.stack)):
        yield from base.get_submodule(stack).children()


@contextmanager
def recomputed(model: nn.Module, *, active: bool = True) -> Iterator[None]:
    """While active, a training model keeps only what goes into each layer, and computes the layer again going back.

    Paper: Chen et al., 2016, "Training Deep Nets with Sublinear Memory Cost", https://arxiv.org/abs/1604.06174
    """
    changed = list(blocks(model)) if active else []
    for block in changed:
        block.forward = _recomputing(block, block.forward)
    try:
        yield
    finally:
        for block in changed:
            del block.forward


def _recomputing(block: nn.Module, forward: Any) -> Any:
    from torch.utils.checkpoint import checkpoint

    def run(*args: Any, **inputs: Any) -> Any:
        if not block.training:
            return forward(*args, **inputs)
        return checkpoint(forward, *args, use_reentrant=False, **inputs)

    return run
