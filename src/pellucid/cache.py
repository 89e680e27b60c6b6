"""`Cache`: what a model keeps of the tokens it has read, so that it need not read them again.

Attention layers keep keys and values, recurrent ones a state. Models only say `cache.update(layer, k, v)`, or
`cache.state(layer)` and `cache.set_state(layer, ...)`; how it is stored is decided here.
"""

import copy
import os
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from typing_extensions import Self

from .errors import InputError, WeightsError
from .layout import Layout

ROOM = 256  # tokens for which a full buffer makes room, at least
UNCOUNTED = -1  # tokens that a compiled layer has read: a count would be another program each step


@dataclass(frozen=True)
class Source:
    """What an encoder has read, for a decoder to look at.

    Attributes:
        states: the encoder's, (B, S, E).
        layout: where its tokens sit.
    """

    states: Tensor
    layout: Layout


class Cache:
    """The keys and values, (B, K, S, D) a layer, or the states of what was read; it grows as it is used.

    Attributes:
        capacity: tokens for which all is allocated at once, so that no shape ever changes; None to grow.
        sliding: whether a layer with a window forgets what it can not look at any more.
        source: what the encoder beside a decoder has read; None before the first forward.
        ids: of what was read, (B, S), -1 on padding, if whoever let a model read has said so.
    """

    def __init__(self, *, capacity: int | None = None, sliding: bool = False) -> None:
        if capacity is not None and (capacity < 1 or sliding):
            raise InputError(f"capacity is {capacity}; expected at least 1, and no sliding=True beside it.")
        self.capacity, self.sliding = capacity, sliding
        self.ids: Tensor | None = None
        self._length: int | Tensor = 0  # a tensor when nothing may be recompiled as it grows
        self._batch = 0
        self._past = self._due = 0  # tokens before and after the present forward, if it is not compiled
        self._positions: Tensor | None = None  # (B, S); None when nothing was padded
        self._keep: Tensor | None = None
        self._slots: Tensor | None = None  # where the present tokens go, when allocated at once
        self._keys: dict[int, _Keys] = {}
        self._states: dict[int, tuple[Tensor, ...]] = {}
        self._states_read: dict[int, int] = {}  # tokens that passed
        self.source: Source | None = None
        self._source_keys: dict[int, tuple[Tensor, Tensor]] = {}

    def __len__(self) -> int:
        return int(self._length)

    def __bool__(self) -> bool:
        return True  # an empty one is one

    def get_seq_length(self, layer: int = 0) -> int:
        """Return how many tokens of each text were read, padding included."""
        return len(self)

    @property
    def recurrent(self) -> bool:
        """Whether a layer keeps a state, from which nothing can be cut."""
        return bool(self._states)

    # --- for models ---------------------------------------------------------------------------------------------------

    def place(self, layout: Layout) -> Layout:
        """Take in where the next tokens sit, and return that as seen from the whole of what was read.

        Positions count the real tokens of each text, so that padding after a text makes no gap.

        Raises:
            InputError: if the batch is packed or of another size, does not fit, or an earlier forward broke off.
        """
        batch, new = layout.positions.shape
        self._check(layout, batch, new)
        self._batch = batch
        if self.capacity is not None:
            return self._place_fixed(layout, self.capacity)
        past, device = len(self), layout.positions.device
        self._length = past + new
        if self._keep is None and layout.keep is None:
            if past == 0:
                return layout
            places = torch.arange(past + new, device=device).expand(batch, -1)
            return Layout(places[:, past:], key_positions=places)
        if self._keep is None or self._positions is None:
            self._positions = torch.arange(past, device=device).expand(batch, -1)
            self._keep = torch.ones_like(self._positions, dtype=torch.bool)
        keep = torch.ones_like(layout.positions, dtype=torch.bool) if layout.keep is None else layout.keep
        positions = (self._keep.sum(-1, keepdim=True) + keep.cumsum(-1) - 1).clamp(min=0)
        self._positions = torch.cat([self._positions, positions], dim=1)
        self._keep = torch.cat([self._keep, keep], dim=1)
        return Layout(positions, layout.keep, key_positions=self._positions, key_keep=self._keep)

    def _place_fixed(self, layout: Layout, capacity: int) -> Layout:
        device = layout.positions.device
        if self._positions is None or self._keep is None or not isinstance(self._length, Tensor):
            self._positions = torch.zeros(self._batch, capacity, dtype=torch.long, device=device)
            self._keep = torch.zeros(self._batch, capacity, dtype=torch.bool, device=device)
            self._length = torch.zeros((), dtype=torch.long, device=device)
        keep = torch.ones_like(layout.positions, dtype=torch.bool) if layout.keep is None else layout.keep
        positions = (self._keep.sum(-1, keepdim=True) + keep.cumsum(-1) - 1).clamp(min=0)
        self._slots = self._length + torch.arange(positions.shape[1], device=device)
        self._positions.index_copy_(1, self._slots, positions)
        self._keep.index_copy_(1, self._slots, keep)
        self._length += positions.shape[1]
        return Layout(positions, layout.keep, key_positions=self._positions, key_keep=self._keep)

    def _check(self, layout: Layout, batch: int, new: int) -> None:
        if torch.compiler.is_compiling():
            return
        past = len(self)
        self._count()
        if past and batch != self._batch:
            raise InputError(f"The cache holds {self._batch} texts, the input {batch}; expected the same.")
        if self.capacity is not None and past + new > self.capacity:
            raise InputError(f"The cache holds {past} of {self.capacity} tokens; there is no room for {new} more.")
        self._past, self._due = past, past + new
        if self.sliding and layout.keep is not None:
            begun = layout.keep.any(dim=-1) if self._keep is None else (layout.keep.any(-1) | self._keep.any(-1))
            if bool((begun & ~layout.keep[:, -1]).any()):
                raise InputError("A sliding cache needs padding on the left: pad with padding_side='left'.")

    def _count(self) -> None:
        """Count what compiled layers have read."""
        for keys in self._keys.values():
            if keys.read == UNCOUNTED:
                keys.read = len(self)

    def _refuse_broken(self, read: int) -> None:
        """Raise unless a layer has read all that was to be read before."""
        if read != self._past:
            raise InputError(
                "The cache stopped in the middle of a forward; crop() it to where it was, or crop(0) and start anew."
            )

    def update(self, layer: int, k: Tensor, v: Tensor, window: int | None = None) -> tuple[Tensor, Tensor]:
        """Add a layer's keys and values of the present tokens, and return all it has.

        Args:
            layer: its number.
            k: (B, K, T, D).
            v: (B, K, T, D).
            window: how many tokens back the layer looks at most; None for all.
        """
        keys = self._keys.setdefault(layer, _Keys())
        if not torch.compiler.is_compiling():
            self._refuse_broken(keys.read)
        if self.capacity is not None and self._slots is not None:
            return keys.put(k, v, self._slots, self.capacity)
        return keys.append(k, v, window if self.sliding else None)

    def state(self, layer: int) -> tuple[Tensor, ...] | None:
        """Return the state that a recurrent layer left; None at the beginning."""
        state = self._states.get(layer)
        if not torch.compiler.is_compiling():
            self._refuse_broken(0 if state is None else self._states_read.get(layer, self._past))
        return state

    def set_state(self, layer: int, *state: Tensor) -> None:
        """Keep a recurrent layer's state: tensors whose first dimension is the batch."""
        self._states[layer] = state
        if torch.compiler.is_compiling():
            self._states_read.pop(layer, None)  # nobody counts
        else:
            self._states_read[layer] = self._due

    def source_keys(self, layer: int) -> tuple[Tensor, Tensor] | None:
        """Return a layer's keys and values of the source, (B, K, S, D) each; None before they are set."""
        return self._source_keys.get(layer)

    def set_source_keys(self, layer: int, k: Tensor, v: Tensor) -> None:
        """Keep a layer's keys and values of the source."""
        self._source_keys[layer] = k, v

    # --- for those who generate ---------------------------------------------------------------------------------------

    def crop(self, length: int) -> None:
        """Forget all but the first tokens of each text.

        Args:
            length: how many to keep, padding included; a negative number says how many to forget. 0 forgets
                all, the source, too, which is always possible.

        Raises:
            InputError: if they can not be told apart any more, in a sliding cache or a recurrent state.
        """
        self._count()
        length = max(0, len(self) + length) if length < 0 else length
        if length == 0:
            self._length, self.ids, self._positions, self._keep = 0, None, None, None
            self._keys, self._states, self._states_read = {}, {}, {}
            self.source, self._source_keys = None, {}
            return
        if length >= len(self) and all(keys.read == length for keys in self._keys.values()):
            return
        if self._states or any(keys.dropped for keys in self._keys.values()):
            raise InputError("A recurrent state or a sliding window can not be cropped; keep a copy() from before.")
        self.ids = None if self.ids is None else self.ids[:, :length]
        for keys in self._keys.values():
            keys.read = min(keys.read, length)
        if isinstance(self._length, Tensor):
            self._length.clamp_(max=length)
            if self._keep is not None:
                self._keep[:, length:] = False
        else:
            self._length = min(self._length, length)
            if self._keep is not None and self._positions is not None:
                self._positions, self._keep = self._positions[:, :length], self._keep[:, :length]

    def copy(self) -> "Cache":
        """Return an independent copy."""
        return self._mapped(torch.clone)

    def reorder(self, rows: Tensor) -> None:
        """Make row i what row `rows[i]` is now; there may be more rows or fewer than before.

        What belongs to a source is shared by neighbouring rows, and stays so as long as each keeps its source.
        """
        chosen = self._mapped(lambda x: x.index_select(0, rows))
        if self.source is not None:
            texts = len(self.source.states)
            own = rows // max(1, self._batch // max(1, texts))  # the source of each row
            times = len(rows) // max(1, texts)
            if not torch.equal(own, torch.arange(texts, device=rows.device).repeat_interleave(times)):
                chosen._take_sources(own)
        self.__dict__.update(chosen.__dict__)
        self._batch = len(rows)

    def seat(self, rows: Tensor, other: "Cache") -> None:
        """Put the rows of another cache into the place of some; then all texts end together, behind padding.

        Args:
            rows: the numbers of those that give way, as many as `other` has.
            other: of the same kind and model; without a source, and not allocated at once. It stays as it is.
        """
        length = max(len(self), len(other))
        (positions, keep), theirs = (cache._marks(length, rows.device) for cache in (self, other))
        self._positions, self._keep = positions.index_copy(0, rows, theirs[0]), keep.index_copy(0, rows, theirs[1])
        self._length, self.ids = length, None
        for layer, keys in self._keys.items():
            keys.seat(rows, other._keys[layer], length)
        for layer, state in self._states.items():
            pairs = zip(state, other._states[layer], strict=True)
            self._states[layer] = tuple(x.index_copy(0, rows, new) for x, new in pairs)
        self._states_read = dict.fromkeys(self._states, length)

    def trim(self, length: int) -> None:
        """Forget all but the last tokens of each text; what is before them must be padding."""
        if length >= len(self) or self._positions is None or self._keep is None:
            return
        self._positions, self._keep = self._positions[:, -length:], self._keep[:, -length:]
        self._length, self.ids = length, None
        for keys in self._keys.values():
            keys.trim(length)
        self._states_read = dict.fromkeys(self._states, length)

    def _marks(self, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
        """Return positions and which tokens are real, (B, length) each, with padding in front."""
        if self._positions is None or self._keep is None:
            positions = torch.arange(len(self), device=device).expand(self._batch, -1)
            keep = torch.ones_like(positions, dtype=torch.bool)
        else:
            positions, keep = self._positions, self._keep
        front = (length - len(self), 0)
        return F.pad(positions, front), F.pad(keep, front)

    def _take_sources(self, texts: Tensor) -> None:
        """Give each row a source of its own."""
        if self.source is None:
            return
        layout = self.source.layout
        keep = None if layout.keep is None else layout.keep.index_select(0, texts)
        states = self.source.states.index_select(0, texts)
        self.source = Source(states, replace(layout, positions=layout.positions.index_select(0, texts), keep=keep))
        pairs = {layer: [x.index_select(0, texts) for x in pair] for layer, pair in self._source_keys.items()}
        self._source_keys = {layer: (k, v) for layer, (k, v) in pairs.items()}

    def _mapped(self, change: Callable[[Tensor], Tensor]) -> Self:
        """Return a cache in which every tensor that has a row for each text is another."""
        other = copy.copy(self)
        other._length = self._length.clone() if isinstance(self._length, Tensor) else self._length
        other.ids = None if self.ids is None else change(self.ids)
        other._positions = None if self._positions is None else change(self._positions)
        other._keep = None if self._keep is None else change(self._keep)
        other._keys = {layer: keys.mapped(change) for layer, keys in self._keys.items()}
        other._states = {layer: tuple(map(change, state)) for layer, state in self._states.items()}
        other._states_read, other._source_keys = dict(self._states_read), dict(self._source_keys)
        return other

    def save(self, path: str | os.PathLike) -> None:
        """Write it to a safetensors file, all or nothing."""
        self._count()
        tensors: dict[str, Tensor] = {}
        for layer, keys in self._keys.items():
            for name, x in zip("kv", keys.held(), strict=True):
                tensors[f"keys.{layer}.{name}"] = x.contiguous()
        for layer, state in self._states.items():
            tensors |= {f"states.{layer}.{i}": x.contiguous() for i, x in enumerate(state)}
        if self._keep is not None and self._positions is not None:
            tensors |= {"keep": self._keep[:, : len(self)], "positions": self._positions[:, : len(self)]}
            tensors = {name: x.contiguous() for name, x in tensors.items()}
        if self.ids is not None:
            tensors["ids"] = self.ids.contiguous()
        for layer, pair in self._source_keys.items():
            tensors |= {f"source.{layer}.{name}": x.contiguous() for name, x in zip("kv", pair, strict=True)}
        if self.source is not None:
            tensors["states"] = self.source.states.contiguous()
            if self.source.layout.keep is not None:
                tensors["source_keep"] = self.source.layout.keep
        told = {"length": len(self), "batch": self._batch, "capacity": self.capacity or 0, "sliding": int(self.sliding)}
        part = f"{os.fspath(path)}.part"
        try:
            save_file(tensors, part, {name: str(value) for name, value in told.items()})
            os.replace(part, path)
        finally:
            if os.path.exists(part):
                os.remove(part)

    @classmethod
    def load(cls, path: str | os.PathLike, device: str | torch.device = "cpu") -> Self:
        """Read what `save` wrote.

        Raises:
            WeightsError: if the file is not such a one.
        """
        try:
            with safe_open(path, "pt", device=str(device)) as file:
                told = {name: int(value) for name, value in file.metadata().items()}
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            cache = cls(capacity=told["capacity"] or None, sliding=bool(told["sliding"]))
            cache._restore(told["length"], told["batch"], tensors)
        except (SafetensorError, KeyError, ValueError, AttributeError) as error:
            raise WeightsError(f"{os.fspath(path)} is no cache that save() wrote ({error}).") from None
        return cache

    def _restore(self, length: int, batch: int, tensors: dict[str, Tensor]) -> None:
        self._length, self._batch = length, batch
        self._positions, self._keep = tensors.pop("positions", None), tensors.pop("keep", None)
        self.ids = tensors.pop("ids", None)
        states, keep = tensors.pop("states", None), tensors.pop("source_keep", None)
        if states is not None:
            self.source = Source(states, Layout.of(states, None if keep is None else keep.long()))
        parts: dict[str, dict[int, list[Tensor]]] = {"keys": {}, "states": {}, "source": {}}
        for name in sorted(tensors, key=lambda name: name.rsplit(".", 1)[1].zfill(3)):
            kind, layer, _ = name.split(".")
            parts[kind].setdefault(int(layer), []).append(tensors[name])
        self._states = {layer: tuple(state) for layer, state in parts["states"].items()}
        self._states_read = dict.fromkeys(self._states, length)
        self._source_keys = {layer: (k, v) for layer, (k, v) in parts["source"].items()}
        for layer, (k, v) in parts["keys"].items():
            self._keys[layer] = _Keys()
            self._keys[layer].append(k, v, None)
            self._keys[layer].dropped = length - k.shape[2]
            self._keys[layer].read = length
        if self.capacity is not None and self._positions is not None and self._keep is not None:
            self._length = torch.tensor(length, device=self._keep.device)
            self._positions, self._keep = (_widen(x, self.capacity, 1) for x in (self._positions, self._keep))
            for keys in self._keys.values():
                keys.buffers = [_widen(x, self.capacity, 2) for x in keys.buffers]


class _Keys:
    """The keys and the values of one layer, (B, K, S, D) each."""

    def __init__(self) -> None:
        self.read = 0  # tokens that passed
        self.dropped = 0  # those among them that are out of the window
        self.buffers: list[Tensor] = []

    def held(self) -> list[Tensor]:
        return [x[:, :, : self.read - self.dropped] for x in self.buffers]

    def append(self, k: Tensor, v: Tensor, window: int | None) -> tuple[Tensor, Tensor]:
        """Add tokens and return all; then forget all but `window`."""
        start, end = self.read - self.dropped, self.read - self.dropped + k.shape[2]
        if not self.buffers:
            self.buffers = [k, v]  # no copy as long as nothing follows
        elif torch.is_grad_enabled() and k.requires_grad:
            self.buffers = [torch.cat([x, new], dim=2) for x, new in zip(self.held(), (k, v), strict=True)]
        else:
            if self.buffers[0].shape[2] < end:
                self.buffers = [_widen(x, end + max(ROOM, end // 2), 2) for x in self.held()]
            for buffer, new in zip(self.buffers, (k, v), strict=True):
                buffer[:, :, start:end] = new
        self.read += k.shape[2]
        k, v = self.held()
        if window is not None and end > window:
            self.dropped = self.read - window
            self.buffers = [x[:, :, end - window :] for x in (k, v)]
        return k, v

    def put(self, k: Tensor, v: Tensor, slots: Tensor, capacity: int) -> tuple[Tensor, Tensor]:
        """Write tokens into their slots of buffers that never change their size, and return these."""
        if not self.buffers:
            self.buffers = [x.new_zeros(*x.shape[:2], capacity, x.shape[3]) for x in (k, v)]
        for buffer, new in zip(self.buffers, (k, v), strict=True):
            buffer.index_copy_(2, slots, new)
        self.read = UNCOUNTED if torch.compiler.is_compiling() else self.read + k.shape[2]
        return self.buffers[0], self.buffers[1]

    def seat(self, rows: Tensor, other: "_Keys", length: int) -> None:
        """Put the rows of another into the place of some, so that all of the `length` tokens end together."""
        held, new = self.held(), other.held()
        size, count = held[0].shape[2], new[0].shape[2]
        if count > size:
            self.buffers = [_widen(F.pad(x, (0, 0, count - size, 0)), count + ROOM, 2) for x in held]
            size = count
        for buffer, x in zip(self.buffers, new, strict=True):
            buffer[:, :, size - count : size].index_copy_(0, rows, x)
        self.read, self.dropped = length, length - size

    def trim(self, length: int) -> None:
        """Forget all but the last tokens."""
        held = self.read - self.dropped
        size = min(held, length)
        self.buffers = [x[:, :, held - size :] for x in self.buffers]
        self.read, self.dropped = length, length - size

    def mapped(self, change: Callable[[Tensor], Tensor]) -> "_Keys":
        other: Any = copy.copy(self)
        other.buffers = [change(x) for x in self.buffers]
        return other


def _widen(x: Tensor, size: int, dim: int) -> Tensor:
    """Make room behind a tensor; zeros, because what is masked must still be a number."""
    shape = list(x.shape)
    shape[dim] = size
    wide = x.new_zeros(shape)
    wide.narrow(dim, 0, x.shape[dim]).copy_(x)
    return wide
