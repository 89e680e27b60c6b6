"""Parameters moved off their initial values: a bias that is forgotten at zero would pass otherwise."""

import torch
from torch import nn


def perturb(model: nn.Module, by: float) -> None:
    """Move every parameter, norms and biases too, by random numbers of this standard deviation."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * by)
