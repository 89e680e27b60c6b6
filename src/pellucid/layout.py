"""Where each token of a batch sits: in which sequence, at which position, and what is padding.

A batch is *padded*, (B, T) with one text a row, or *packed*, (1, N) with several texts one after the other and no
padding.
A model file treats both alike: it takes positions from here, and hands the layout on to `attend`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from .errors import InputError, ShapeError

if TYPE_CHECKING:
    from .cache import Cache


@dataclass(frozen=True)
class Layout:
    """Where each token of a batch sits. Build it with `Layout.of` or `Layout.packed`.

    Attributes:
        positions: (B, T), counted from each text's own first real token; 0 on padding before it.
        keep: (B, T), true on real tokens; None when nothing is padded.
        lengths: tokens of each text of a packed batch; None when the batch is padded.
        sequence: (1, N), the text of each token of a packed batch; None when the batch is padded.
        key_positions: positions of all S tokens that may be looked at, (B, S), where a cache holds earlier ones; None
            when they are these T tokens.
        key_keep: (B, S), true on real ones among them; None when all are.
    """

    positions: Tensor
    keep: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    sequence: Tensor | None = None
    key_positions: Tensor | None = None
    key_keep: Tensor | None = None

    @staticmethod
    def of(tokens: Tensor, attention_mask: "Tensor | Layout | None" = None, cache: "Cache | None" = None) -> "Layout":
        """Read the layout off a batch and its mask.

        Args:
            tokens: ids, (B, T), or embeddings, (B, T, E).
            attention_mask: (B, T), 1 on real tokens and 0 on padding, which may be on either side; None when nothing is
                padded; or a layout, which is returned as it is. With a cache of P tokens, (B, P + T) will do, too.
            cache: the tokens that were read before; it is told about these.

        Raises:
            ShapeError: if `tokens` is not a batch.
            InputError: if the mask is not of the tokens' shape, or holds anything but 0 and 1.
        """
        if tokens.dim() < 2:
            raise ShapeError(
                f"input_ids has the shape {tuple(tokens.shape)}; expected a batch, (batch, length). "
                "For one text write input_ids[None], or tokenize with return_tensors='pt'."
            )
        batch, length = tokens.shape[:2]
        if isinstance(attention_mask, Layout):
            if attention_mask.positions.shape != (batch, length):
                raise InputError(
                    f"The layout is of {tuple(attention_mask.positions.shape)} tokens, the input of {(batch, length)}."
                )
            if cache is not None and attention_mask.lengths is not None:
                raise InputError("A packed batch has no cache: read each text by itself, or pad them.")
            return attention_mask
        layout = Layout._of_mask(batch, length, attention_mask, cache, tokens.device)
        return layout if cache is None else cache.place(layout)

    @staticmethod
    def _of_mask(
        batch: int, length: int, attention_mask: Tensor | None, cache: "Cache | None", device: torch.device
    ) -> "Layout":
        positions = torch.arange(length, device=device).expand(batch, length)
        if attention_mask is None:
            return Layout(positions)
        if not isinstance(attention_mask, Tensor):
            raise InputError(
                f"attention_mask is a {type(attention_mask).__name__}; expected a tensor, (batch, length)."
            )
        if cache is not None and attention_mask.shape == (batch, len(cache) + length):
            attention_mask = attention_mask[:, len(cache) :]  # the cache knows the rest
        if attention_mask.shape != (batch, length):
            raise InputError(
                f"attention_mask has the shape {tuple(attention_mask.shape)}, the input {(batch, length)}; "
                "expected the same."
            )
        keep = attention_mask.bool()
        if not torch.compiler.is_compiling():
            if bool((keep != attention_mask).any()):
                wrong = attention_mask[keep != attention_mask][0].item()
                raise InputError(f"attention_mask holds {wrong}; expected 1 on real tokens and 0 on padding.")
            if bool(keep.all()):
                return Layout(positions)  # a mask of ones costs a kernel its fast path and changes nothing
        first = keep.int().argmax(dim=-1, keepdim=True)  # (B, 1)
        return Layout((positions - first).clamp(min=0), keep)

    @staticmethod
    def packed(lengths: Sequence[int], device: torch.device | str | None = None) -> "Layout":
        """Lay several texts one after the other in one row, (1, N), without padding.

        Args:
            lengths: tokens of each text, each at least 1; their sum is N.
            device: where the model runs.
        """
        if not lengths or min(lengths) < 1:
            raise InputError(f"A packed batch needs texts of at least one token; got the lengths {list(lengths)}.")
        counts = torch.tensor(lengths, device=device)
        sequence = torch.repeat_interleave(torch.arange(len(lengths), device=device), counts)
        starts = (counts.cumsum(0) - counts)[sequence]
        positions = torch.arange(len(sequence), device=device) - starts
        return Layout(positions[None], None, tuple(lengths), sequence[None])

    @cached_property
    def runs(self) -> "list[Layout]":
        """The layouts of neighbouring texts of equal length in a packed batch, each as a batch of its own."""
        equal = [(length, len(list(texts))) for length, texts in groupby(self.lengths or ())]
        device = self.positions.device
        return [Layout(torch.arange(length, device=device).expand(texts, length)) for length, texts in equal]

    @property
    def starts(self) -> Tensor:
        """The index of each text's first real token in its row, (B,) or, packed, (texts,)."""
        if self.lengths is not None:
            counts = torch.tensor(self.lengths, device=self.positions.device)
            return counts.cumsum(0) - counts
        if self.keep is None:
            return self.positions.new_zeros(len(self.positions))
        return self.keep.int().argmax(dim=-1)

    @property
    def spans(self) -> Tensor:
        """How many tokens there are from each text's first real one to its last, (B,) or, packed, (texts,)."""
        if self.lengths is not None:
            return torch.tensor(self.lengths, device=self.positions.device)
        if self.keep is None:
            return self.positions.new_full((len(self.positions),), self.positions.shape[1])
        return ((self.positions + 1) * self.keep).amax(dim=-1)

    def first(self, x: Tensor) -> Tensor:
        """Pick the first real token of each text: (B, T, E) to (B, E), or packed (1, N, E) to (texts, E)."""
        if self.lengths is not None:
            return x[0, self.starts]
        if self.keep is None:
            return x[:, 0]
        return x[torch.arange(len(x), device=x.device), self.starts]

    def last(self, x: Tensor, marked: Tensor | None = None) -> Tensor:
        """Pick the last real token of each text, or the last of those marked.

        Args:
            x: (B, T, E) to (B, E), or packed (1, N, E) to (texts, E).
            marked: (B, T), true on the tokens that count; a text without any gives its first.
        """
        if marked is not None:
            real = marked if self.keep is None else marked & self.keep
            rows, there = self.unpack(x)[0], self.unpack(real)[0]  # of one text each
            places = (there * torch.arange(1, there.shape[1] + 1, device=x.device)).argmax(dim=-1)
            if self.lengths is None:
                places = torch.where(there.any(dim=-1), places, self.starts)
            return rows[torch.arange(len(rows), device=x.device), places]
        if self.lengths is not None:
            return x[0, self.starts + self.spans - 1]
        if self.keep is None:
            return x[:, -1]
        return x[torch.arange(len(x), device=x.device), self.starts + self.spans - 1]

    def sum(self, x: Tensor) -> Tensor:
        """Add up the real tokens of each text: (B, T, ...) to (B, ...), or packed (1, N, ...) to (texts, ...)."""
        if self.sequence is not None and self.lengths is not None:
            return x.new_zeros(len(self.lengths), *x.shape[2:]).index_add(0, self.sequence[0], x[0])
        if self.keep is not None:
            x = x * self.keep.view(*self.keep.shape, *[1] * (x.dim() - 2))
        return x.sum(1)

    def mean(self, x: Tensor) -> Tensor:
        """Average the real tokens of each text: (B, T, ...) to (B, ...), or packed (1, N, ...) to (texts, ...)."""
        count = self.sum(torch.ones_like(self.positions)).clamp(min=1)
        return self.sum(x) / count.view(-1, *[1] * (x.dim() - 2))

    def spread(self, x: Tensor) -> Tensor:
        """Give each token what its text has: (B, ...) to (B, T, ...), or packed (texts, ...) to (1, N, ...)."""
        if self.sequence is not None:
            return x[self.sequence]
        return x[:, None].expand(*self.positions.shape, *x.shape[1:])

    def unpack(self, x: Tensor) -> "tuple[Tensor, Layout]":
        """Give each text of a packed batch a row of its own: (1, N, ...) to (texts, T, ...) and the layout of that.

        Texts are padded on the right with zeros. A padded batch is returned as it is. For attention that is not a
        softmax over each token's own row of scores, and so can not go through `attend`.
        """
        if self.lengths is None:
            return x, self
        counts = torch.tensor(self.lengths, device=x.device)
        places = torch.arange(max(self.lengths), device=x.device)
        keep = places < counts[:, None]  # (texts, T)
        rows = x.new_zeros((*keep.shape, *x.shape[2:]))
        rows[keep] = x[0]
        even = min(self.lengths) == max(self.lengths)
        return rows, Layout(places.expand(keep.shape), None if even else keep)

    def pack(self, x: Tensor) -> Tensor:
        """Lay the rows that `unpack` made one after the other again: (texts, T, ...) to (1, N, ...)."""
        if self.lengths is None:
            return x
        return torch.cat([row[:length] for row, length in zip(x, self.lengths, strict=True)])[None]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Layout":
        """Return this layout on another device."""
        moved: dict[str, Any] = {
            name: value.to(device, non_blocking=non_blocking) if isinstance(value, Tensor) else value
            for name, value in vars(self).items()
        }
        return Layout(**moved)

    def align(self, x: Tensor) -> "tuple[Tensor, Layout]":
        """Give each text a row that begins with its first token, (texts, T, ...), and the layout of that.

        As `unpack`, but padding on the left moves to the right, too. For what counts tokens in groups.
        """
        if self.lengths is not None or self.keep is None:
            return self.unpack(x)
        keep = self._roll(self.keep, self.starts)
        places = torch.arange(keep.shape[1], device=x.device)
        return self._roll(x, self.starts), Layout(places.expand(keep.shape), keep)

    def unalign(self, x: Tensor) -> Tensor:
        """Put the rows that `align` made back into their places."""
        return self.pack(x) if self.lengths is not None or self.keep is None else self._roll(x, -self.starts)

    @staticmethod
    def _roll(x: Tensor, steps: Tensor) -> Tensor:
        """Move each row to the left by its own number of steps, (B,), and what falls out to its end."""
        rows, places = (torch.arange(size, device=x.device) for size in x.shape[:2])
        return x[rows[:, None], (places + steps[:, None]) % x.shape[1]]


def pick(x: Tensor, places: Tensor, allowed: Tensor, name: str) -> Tensor:
    """Take one token of each row: (B, T, E) and its places, (B,), to (B, E).

    Args:
        x: what to take from.
        places: which token of each row, counted from the row's first.
        allowed: (B, T), the tokens that may be taken.
        name: of the argument that holds the places, for the message.

    Raises:
        InputError: if a place is outside its row, or of a token that is not allowed.
    """
    rows = torch.arange(len(x), device=x.device)
    if not torch.compiler.is_compiling():
        inside = (places >= 0) & (places < x.shape[1])
        wrong = places[~(inside & allowed[rows, places.where(inside, 0)])]
        if len(wrong):
            raise InputError(
                f"{name} holds {int(wrong[0])}; expected a token of the row, 0 to {x.shape[1] - 1}, that is no padding "
                "and not ruled out by p_mask."
            )
    return x[rows, places]
