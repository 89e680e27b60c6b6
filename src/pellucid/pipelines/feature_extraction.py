"""Feature extraction: the hidden states of a text's tokens."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..outputs import ModelOutput
from .base import Pipeline, token_rows
from .windows import Piece, cut, join, tokenize


class FeatureExtractionPipeline(Pipeline):
    """Gives the last hidden state of each token, 1 x T x E, as nested lists or a tensor.

    A text of any length is read in overlapping windows; a token counts where a window shows most around it. One vector
    a text is what the task "embedding" gives.

    Options:
        return_tensors: whether to return tensors instead of lists.
        truncation: whether to read only the beginning of a long text.
        tokenize_kwargs: the original's place for `truncation`, as a dictionary.
    """

    task = "feature-extraction"
    options = {"return_tensors": False, "truncation": False}

    def read_options(self, defaults: dict[str, Any], given: dict[str, Any]) -> dict[str, Any]:
        """Unfold `tokenize_kwargs`."""
        given = dict(given)
        return super().read_options(defaults, (given.pop("tokenize_kwargs", None) or {}) | given)

    def preprocess(self, item: Any, **options: Any) -> list[Piece]:
        """Tokenize; cut what is too long into windows, or truncate it."""
        self.check(item, "the input", options)
        limit = self.limit
        if options.get("truncation") and limit is not None:
            return [tokenize(self.tokenizer, item, truncation=True, max_length=limit)]
        return cut(tokenize(self.tokenizer, item), 0, limit=limit, overlap=(limit or 0) // 4)

    def rows(self, output: ModelOutput, pieces: Sequence[Piece]) -> list[Tensor]:
        """Hidden states, (T, E), for each piece."""
        return token_rows(self.finite(output["last_hidden_state"]), pieces)

    def postprocess(self, pieces: list[Piece], rows: list[Tensor], **options: Any) -> Any:
        """Lay the windows together: special tokens from the first and last, the others from where they are central."""
        hidden = rows[0]
        if len(pieces) > 1:
            parts = pieces[0]["part"]
            before = next(i for i, part in enumerate(parts) if part is not None)
            after = sum(part is None for part in parts) - before
            inner = [row for _, _, row in join(pieces, rows)]
            hidden = torch.stack([*rows[0][:before], *inner, *rows[-1][len(rows[-1]) - after :]])
        return hidden[None] if options.get("return_tensors") else [hidden.tolist()]
