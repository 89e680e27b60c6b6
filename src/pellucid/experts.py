"""Mixtures of experts: who is sent where, products by group, and how experts are stored.

A model's file says how tokens choose their experts and what an expert computes; here is what moves them.
"""

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class Experts(nn.Module):
    """The base of a layer's experts: one stack a weight, (experts, out, in), that checkpoints hold expert by expert.

    Attributes:
        stored: for each stack, the names of an expert's weights in a checkpoint that lie in it one below the other:
            `{"gate_up_proj": ("w1", "w3"), "down_proj": ("w2",)}` reads `0.w1.weight` and `0.w3.weight` into
            `gate_up_proj[0]`.
        stem: what stands there before an expert's number.
    """

    stem: ClassVar[str] = ""
    stored: ClassVar[dict[str, tuple[str, ...]]] = {}

    def _save_to_state_dict(self, destination: dict[str, Any], prefix: str, keep_vars: bool) -> None:
        for name, parts in self.stored.items():
            for expert, stack in enumerate(getattr(self, name)):
                for part, weight in zip(parts, stack.chunk(len(parts)), strict=True):
                    destination[f"{prefix}{self.stem}{expert}.{part}.weight"] = weight if keep_vars else weight.detach()

    def _load_from_state_dict(
        self,
        state_dict: dict[str, Any],
        prefix: str,
        local_metadata: dict[str, Any],
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        own: dict[str, Any] = {}
        self._save_to_state_dict(own, prefix, keep_vars=False)
        for name, weight in own.items():
            if name not in state_dict:
                missing_keys.append(name)
            elif (given := state_dict[name]).shape != weight.shape:
                error_msgs.append(f"{name} is {tuple(given.shape)}; expected {tuple(weight.shape)}.")
            else:
                weight.copy_(given)
        if strict:
            unexpected_keys += [name for name in state_dict if name.startswith(prefix) and name not in own]


@dataclass(frozen=True)
class Dispatch:
    """Tokens on their way to experts and back, sorted by expert. Build it with `Dispatch.to`.

    Attributes:
        order: the places in a flat list of all choices, sorted by expert, (N K,).
        experts: the expert of each, in that order, (N K,).
        choices: how many experts each token has, K.
        counts: how many choices each expert has; None while compiling, where no shape may depend on numbers.
    """

    order: Tensor
    experts: Tensor
    choices: int
    counts: list[int] | None

    @staticmethod
    def to(chosen: Tensor, experts: int) -> "Dispatch":
        """Send tokens to experts.

        Args:
            chosen: each token's experts, (N, K).
            experts: how many there are.
        """
        sorted_experts, order = chosen.flatten().sort(stable=True)
        if torch.compiler.is_compiling():
            return Dispatch(order, sorted_experts, chosen.shape[1], None)
        counts = torch.bincount(sorted_experts, minlength=experts).tolist()
        return Dispatch(order, sorted_experts, chosen.shape[1], counts)

    def gather(self, x: Tensor) -> Tensor:
        """Lay out a row for each choice, sorted by expert: (N, E) to (N K, E)."""
        return x[self.order // self.choices]

    def linear(self, rows: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Multiply each row with its expert's weight, (experts, out, in), and add its bias, (experts, out)."""
        if self.counts is None:
            rows = torch.bmm(weight[self.experts], rows[..., None])[..., 0]
        else:
            used = [(expert, part) for expert, part in enumerate(rows.split(self.counts)) if len(part)]
            parts = [F.linear(part, weight[expert]) for expert, part in used]
            rows = torch.cat(parts) if parts else rows.new_zeros(0, weight.shape[1])
        return rows if bias is None else rows + bias[self.experts]

    def combine(self, rows: Tensor, weights: Tensor) -> Tensor:
        """Add up each token's rows: (N K, E), and their weights, (N, K), to (N, E)."""
        rows = rows * weights.flatten()[self.order, None].to(rows.dtype)
        out = rows.new_zeros(len(weights), rows.shape[1])
        return out.index_add(0, self.order // self.choices, rows)
