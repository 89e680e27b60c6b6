"""Rotary positions: how fast each pair of a head's dimensions turns, and the ways to stretch that over longer texts.

Paper: Su et al., 2021, "RoFormer", https://arxiv.org/abs/2104.09864. How a pair is turned is in each model's file; here
is the part of config.json that all share: `rope_parameters`, or in older files `rope_theta` and `rope_scaling`.

    default   the speeds of the paper
    linear    positions divided by a factor
    dynamic   a base that grows with the text once it is longer than those in training, https://arxiv.org/abs/2306.15595
    yarn      slow pairs as in linear, fast ones as in default, a ramp between, https://arxiv.org/abs/2309.00071
    llama3    the same idea by wavelength, https://arxiv.org/abs/2407.21783
    longrope  a factor for each pair, from one list for short texts and one for long, https://arxiv.org/abs/2402.13753
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .config import Config, shorten
from .errors import ConfigError
from .layout import Layout

KINDS = {  # kind -> the numbers it needs, and those it may have
    "default": ((), ()),
    "linear": (("factor",), ()),
    "dynamic": (("factor",), ("original_max_position_embeddings",)),
    "yarn": (
        ("factor",),
        (
            *("original_max_position_embeddings", "attention_factor", "beta_fast", "beta_slow", "mscale"),
            *("mscale_all_dim", "truncate"),
        ),
    ),
    "llama3": (("factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"), ()),
    "longrope": (
        ("short_factor", "long_factor"),
        (
            *("factor", "original_max_position_embeddings", "attention_factor"),
            *("short_mscale", "long_mscale"),
        ),
    ),
}
COMMON = ("rope_type", "type", "rope_theta", "partial_rotary_factor", "finetuned")  # the last says what was done


@dataclass(frozen=True)
class Rope:
    """What a config says about rotary positions. Build it with `Rope.of`.

    Attributes:
        kind: one of `KINDS`.
        theta: the base of the speeds.
        size: how many of a head's dimensions are turned.
        trained: tokens of the longest text that the model was trained on before it was stretched.
        longest: tokens of the longest text that it reads.
        numbers: what the kind needs.
    """

    kind: str
    theta: float
    size: int
    trained: int
    longest: int
    numbers: dict[str, Any]

    @classmethod
    def of(cls, config: Config, size: int, layer_type: str | None = None) -> "Rope":
        """Read it off a config.

        Args:
            config: with `rope_parameters`, or `rope_scaling` and `rope_theta`.
            size: dimensions of a head.
            layer_type: such as "sliding_attention", where each kind of layer has its own.
        """
        values = _values(config, layer_type)
        local = getattr(config, "rope_local_base_freq", None) if layer_type == "sliding_attention" else None
        longest = int(getattr(config, "max_position_embeddings", None) or 2048)
        before = values.get("original_max_position_embeddings") or getattr(
            config, "original_max_position_embeddings", None
        )
        part = values.get("partial_rotary_factor", getattr(config, "partial_rotary_factor", None))
        return cls(
            kind=_kind(values),
            theta=float(values.get("rope_theta") or local or getattr(config, "rope_theta", None) or 10000.0),
            size=int(size * (1.0 if part is None else part)),
            trained=int(before or longest),
            longest=longest,
            numbers={name: value for name, value in values.items() if name not in COMMON and value is not None},
        )

    @staticmethod
    def faults(config: Config, size: int, layer_type: str | None = None) -> Iterator[str]:
        """Yield what in a config is impossible or not implemented; see `of`."""
        values = _values(config, layer_type)
        kind = _kind(values)
        if kind not in KINDS:
            yield f"rope_type is {shorten(kind)}; expected one of {', '.join(KINDS)}"
            return
        needed, possible = KINDS[kind]
        if missing := [name for name in needed if values.get(name) is None]:
            yield f"rotary positions of the type {kind!r} need {', '.join(missing)}"
            return
        for name in needed + possible:
            if (value := values.get(name)) is not None and not _fits(name, value):
                yield f"{name} of the rotary positions is {shorten(value)}; expected a positive number or a list"
                return
        known = {*COMMON, *(name for kind in KINDS.values() for names in kind for name in names)}
        if unknown := [name for name in values if name not in known and values[name] is not None]:
            yield f"rotary positions have {', '.join(map(shorten, unknown))}, which is not implemented"
        if not isinstance(values.get("rope_theta", 1.0), int | float | None) or (values.get("rope_theta") or 1) <= 0:
            yield f"rope_theta is {shorten(values['rope_theta'])}; expected more than 0"
            return
        part = values.get("partial_rotary_factor")
        if part is not None and not _fits("partial_rotary_factor", part):
            yield f"partial_rotary_factor is {shorten(part)}; expected a share, more than 0 and at most 1"
            return
        rope = Rope.of(config, size, layer_type)
        if rope.size != size and "partial_rotary_factor" not in config.fields():
            yield f"partial_rotary_factor is {part}; {type(config).__name__} implements 1.0 alone"
        if rope.size % 2 or not 0 < rope.size <= size:
            yield f"{rope.size} of {size} dimensions of a head would be rotated; expected an even number of them"
        for name in ("short_factor", "long_factor"):
            if kind == "longrope" and len(values[name]) != rope.size // 2:
                yield f"{name} has {len(values[name])} numbers; expected {rope.size // 2}, one a pair of dimensions"

    def turn(self, layout: Layout, position_ids: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the cosines and sines by which tokens are turned, (B, 1, T, size / 2) each.

        Where speeds depend on the length, it is that of each text by itself, so that others beside it in a batch change
        nothing. What a cache holds stays turned as it was.

        Args:
            layout: where the tokens sit.
            position_ids: (B, T), instead of the layout's positions.
        """
        positions = layout.positions if position_ids is None else position_ids
        speeds, stretch = self._speeds(layout, positions)  # (size / 2,) or (B, T, size / 2)
        angles = (positions[..., None].float() * speeds)[:, None]
        if isinstance(stretch, Tensor):
            stretch = stretch[:, None]
        return angles.cos() * stretch, angles.sin() * stretch

    def turn_halves(self, layout: Layout, position_ids: Tensor | None, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return the same for heads whose dimensions i and i + size / 2 are a pair, (B, 1, T, size) each.

        Sines are negative in the first half: x is turned by x * cos + x.roll(size / 2) * sin, in few steps.
        """
        cos, sin = (part.to(dtype) for part in self.turn(layout, position_ids))
        return torch.cat([cos, cos], dim=-1), torch.cat([-sin, sin], dim=-1)

    def fixed(self) -> tuple[list[float], float]:
        """Return the speed of each pair, and what cosines and sines are multiplied with, for other frameworks.

        Raises:
            ConfigError: if they depend on how long a text is.
        """
        if self.kind in ("dynamic", "longrope"):
            raise ConfigError(f"rope_type is {self.kind!r}, which the PyTorch classes alone implement; use these.")
        one = torch.zeros(1, 1, dtype=torch.long)
        speeds, stretch = self._speeds(Layout(one), one)
        return speeds.tolist(), float(stretch)

    def _speeds(self, layout: Layout, positions: Tensor) -> tuple[Tensor, Tensor | float]:
        """Return the speed of each pair, and what cosines and sines are multiplied with."""
        given, device = self.numbers, positions.device
        pairs = torch.arange(0, self.size, 2, device=device).float() / self.size
        speeds, factor = self.theta**-pairs, float(given.get("factor") or 1.0)
        if self.kind == "linear":
            return speeds / factor, 1.0
        if self.kind == "dynamic":
            length = self._lengths(layout, positions).clamp(min=self.trained)  # (B, T, 1)
            base = self.theta * (factor * length / self.trained - (factor - 1)) ** (self.size / (self.size - 2))
            return base**-pairs, 1.0
        if self.kind == "llama3":
            return self._by_wavelength(speeds, factor), 1.0
        if self.kind == "yarn":
            return self._by_turns(speeds, factor, device), self._yarn_stretch(factor)
        if self.kind == "longrope":
            return self._by_list(speeds, layout, positions)
        return speeds, 1.0

    @staticmethod
    def _lengths(layout: Layout, positions: Tensor) -> Tensor:
        """Return how long each token's text is up to now, (B, T, 1)."""
        if layout.sequence is not None and layout.lengths is not None:
            ends = positions.new_zeros(len(layout.lengths)).scatter_reduce(
                0, layout.sequence[0], positions.expand_as(layout.sequence)[0], "amax"
            )
            return (ends[layout.sequence] + 1)[..., None]
        real = positions if layout.keep is None else positions.masked_fill(~layout.keep, 0)
        if real.shape[-1] == 0:
            return positions[..., None]
        return (real.amax(dim=-1, keepdim=True) + 1).expand_as(positions)[..., None]

    def _by_wavelength(self, speeds: Tensor, factor: float) -> Tensor:
        low, high = self.numbers["low_freq_factor"], self.numbers["high_freq_factor"]
        turns = self.trained * speeds / (2 * math.pi)  # that a pair makes in a text of training
        share = ((turns - low) / (high - low)).clamp(0, 1)
        return (1 - share) * speeds / factor + share * speeds

    def _by_turns(self, speeds: Tensor, factor: float, device: torch.device) -> Tensor:
        fast, slow = self.numbers.get("beta_fast") or 32, self.numbers.get("beta_slow") or 1

        def pair_that_makes(turns: float) -> float:
            return self.size * math.log(self.trained / (turns * 2 * math.pi)) / (2 * math.log(self.theta))

        low, high = pair_that_makes(fast), pair_that_makes(slow)
        if self.numbers.get("truncate", True):
            low, high = math.floor(low), math.ceil(high)
        low, high = max(low, 0), min(high, self.size - 1)
        ramp = (torch.arange(self.size // 2, device=device) - low) / max(high - low, 0.001)
        share = ramp.clamp(0, 1)
        return share * speeds / factor + (1 - share) * speeds

    def _yarn_stretch(self, factor: float) -> float:
        given = self.numbers.get("attention_factor")
        if given is not None:
            return float(given)

        def stretch(scale: float) -> float:
            return 1.0 if factor <= 1 else 0.1 * scale * math.log(factor) + 1.0

        scale, every = self.numbers.get("mscale"), self.numbers.get("mscale_all_dim")
        return stretch(scale) / stretch(every) if scale and every else stretch(1.0)

    def _by_list(self, speeds: Tensor, layout: Layout, positions: Tensor) -> tuple[Tensor, Tensor | float]:
        short, long = (speeds.new_tensor(self.numbers[name]) for name in ("short_factor", "long_factor"))
        is_long = self._lengths(layout, positions) > self.trained  # (B, T, 1)
        factor = float(self.numbers.get("factor") or self.longest / self.trained)
        stretch = 1.0 if factor <= 1 else math.sqrt(1 + math.log(factor) / math.log(self.trained))
        stretch = float(self.numbers.get("attention_factor") or stretch)
        if {"short_mscale", "long_mscale"} <= {*self.numbers}:
            stretch = torch.where(is_long, self.numbers["long_mscale"], self.numbers["short_mscale"])
        return speeds / torch.where(is_long, long, short), stretch


def switch_of(config: Config) -> int | None:
    """Return after how many tokens all those of a text are turned otherwise than before; None for never."""
    ropes = (Rope.of(config, 1, layer_type) for layer_type in (None, "full_attention"))
    return next((rope.trained for rope in ropes if rope.kind == "longrope"), None)


def _kind(values: dict[str, Any]) -> Any:
    kind = values.get("rope_type", values.get("type", "default"))
    return "longrope" if kind == "su" else kind  # as the first files called it


def _fits(name: str, value: Any) -> bool:
    if name == "truncate":
        return isinstance(value, bool)
    numbers = value if isinstance(value, list) and name in ("short_factor", "long_factor") else [value]
    return all(isinstance(x, int | float) and not isinstance(x, bool) and 0 < x < math.inf for x in numbers)


def _values(config: Config, layer_type: str | None) -> dict[str, Any]:
    """Return the rotary settings of a config, of one kind of layer where kinds differ."""
    values = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    if layer_type is not None and isinstance(values.get(layer_type), dict):
        values = values[layer_type]
    elif layer_type == "sliding_attention" and isinstance(values, dict):  # a window needs no stretching
        values = {"rope_theta": getattr(config, "rope_local_base_freq", values.get("rope_theta"))}
    return values if isinstance(values, dict) else {}
