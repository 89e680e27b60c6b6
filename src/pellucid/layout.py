"""Where each token of a batch sits: in which sequence, at which position, and what is padding.

A batch is *padded*, (B, T) with one text a row, or *packed*, (1, N) with several texts one after the other and no padding.
A model file treats both alike: it takes positions from here, and hands the layout on to `attend`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .errors import InputError, ShapeError


@dataclass(frozen=True)
class Layout:
    """Where each token of a batch sits. Build it with `Layout.of` or `Layout.packed`.

    Attributes:
        positions: (B, T), counted from each text's own first real token; 0 on padding before it.
        keep: (B, T), true on real tokens; None when nothing is padded.
        lengths: tokens of each text of a packed batch; None when the batch is padded.
        sequence: (1, N), the text of each token of a packed batch; None when the batch is padded.
    """

    positions: Tensor
    keep: Tensor | None = None
    lengths: tuple[int, ...] | None = None
    sequence: Tensor | None = None

    @staticmethod
    def of(tokens: Tensor, attention_mask: "Tensor | Layout | None" = None) -> "Layout":
        """Read the layout off a batch and its mask.

        Args:
            tokens: ids, (B, T), or embeddings, (B, T, E).
            attention_mask: (B, T), 1 on real tokens and 0 on padding, which may be on either side; None when nothing is
                padded; or a layout, which is returned as it is.

        Raises:
            ShapeError: if `tokens` is not a batch.
            InputError: if the mask is not of the tokens' shape.
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
            return attention_mask
        positions = torch.arange(length, device=tokens.device).expand(batch, length)
        if attention_mask is None:
            return Layout(positions)
        if attention_mask.shape != (batch, length):
            raise InputError(
                f"attention_mask has the shape {tuple(attention_mask.shape)}, the input {(batch, length)}; expected the same."
            )
        keep = attention_mask.bool()
        if not torch.compiler.is_compiling() and bool(keep.all()):
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

    @property
    def starts(self) -> Tensor:
        """The index of each text's first real token in its row, (B,) or, packed, (texts,)."""
        if self.lengths is not None:
            counts = torch.tensor(self.lengths, device=self.positions.device)
            return counts.cumsum(0) - counts
        if self.keep is None:
            return self.positions.new_zeros(len(self.positions))
        return self.keep.int().argmax(dim=-1)

    def first(self, x: Tensor) -> Tensor:
        """Pick the first real token of each text: (B, T, E) to (B, E), or packed (1, N, E) to (texts, E)."""
        if self.lengths is not None:
            return x[0, self.starts]
        if self.keep is None:
            return x[:, 0]
        return x[torch.arange(len(x), device=x.device), self.starts]

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
