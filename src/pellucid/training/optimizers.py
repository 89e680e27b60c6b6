"""The optimizer: which parameters it changes, how fast each, and with how much decay."""

from typing import Any

import torch
from torch import nn

from ..errors import InputError
from ..model import Model
from .arguments import TrainingArguments
from .distributed import whole


def parameter_groups(
    model: nn.Module, *, learning_rate: float, weight_decay: float = 0.0, layer_decay: float = 1.0
) -> list[dict[str, Any]]:
    """Group the parameters that learn, for an optimizer: matrices decay, biases and norms do not.

    Args:
        model: whose parameters they are; those that are frozen are left out.
        learning_rate: of the head.
        weight_decay: of matrices.
        layer_decay: what the learning rate of each layer is multiplied with to get that of the one below it; below the
            first are the embeddings.

    Raises:
        InputError: if no parameter learns, or if `layer_decay` is asked of a model without a known stack of layers.
    """
    learning = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if not learning:
        raise InputError(
            f"{type(model).__name__} has no parameter that learns: all have requires_grad=False; unfreeze its head."
        )
    groups: dict[tuple[float, float], list[nn.Parameter]] = {}
    for name, parameter in learning.items():
        rate = learning_rate if layer_decay == 1 else learning_rate * layer_decay ** _layers_above(model, name)
        groups.setdefault((rate, weight_decay if parameter.dim() > 1 else 0.0), []).append(parameter)
    return [{"params": group, "lr": rate, "weight_decay": decay} for (rate, decay), group in groups.items()]


def _layers_above(model: nn.Module, name: str) -> int:
    """Return how many steps down from the head a parameter is."""
    if not isinstance(model, Model) or not model.base_model.stack:
        raise InputError(f"layerwise_lr_decay needs a model with one stack of layers; {type(model).__name__} has none.")
    base = model.base_model
    inner = name.removeprefix(f"{model.prefix}.") if base is not model else name
    if base is not model and inner == name:
        return 0  # the head
    for stack in filter(None, (base.stack, base.source_stack)):
        if inner.startswith(f"{stack}."):
            depth = len(list(base.get_submodule(stack).children()))
            return depth - int(inner.removeprefix(f"{stack}.").split(".")[0])
    embeds = isinstance(model.get_submodule(name.rpartition(".")[0]), nn.Embedding) or "embed" in inner
    return 1 + len(list(base.get_submodule(base.stack).children())) if embeds else 0


def build_optimizer(model: nn.Module, args: TrainingArguments) -> torch.optim.Optimizer:
    """Build the optimizer that the arguments ask for; AdamW is fused where the device can."""
    groups = parameter_groups(
        model, learning_rate=args.learning_rate, weight_decay=args.weight_decay, layer_decay=args.layerwise_lr_decay
    )
    if args.optim == "sgd":
        return torch.optim.SGD(groups, lr=args.learning_rate)
    plain = all(type(p) is nn.Parameter and p.is_floating_point() for group in groups for p in group["params"])
    return torch.optim.AdamW(
        groups,
        lr=args.learning_rate,
        betas=(args.adam_beta1, args.adam_beta2),
        eps=args.adam_epsilon,
        fused=(plain and args.device.type in ("cpu", "cuda")) or None,
    )


def gradient_norm(model: nn.Module, limit: float) -> float:
    """Shorten gradients that are longer than `limit`, all together, and return how long they were; 0 is no limit."""
    groups: dict[Any, list[torch.Tensor]] = {}
    for parameter in model.parameters():
        if parameter.grad is not None:  # those that are split in different ways can not be added up as they are
            groups.setdefault(getattr(parameter.grad, "device_mesh", None), []).append(parameter.grad)
    norms = [whole(nn.utils.get_total_norm(group)) for group in groups.values()]
    norm = torch.stack(norms).norm().item() if norms else 0.0
    if limit and norm > limit:
        for group in groups.values():
            for gradient in group:
                gradient.mul_(limit / (norm + 1e-6))
    return norm
