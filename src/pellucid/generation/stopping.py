"""When to stop writing: `(ids, scores) -> (R,)`, true for the rows that are done."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from ..tokenizer import Tokenizer

Criterion = Callable[[Tensor, Tensor], "Tensor | bool"]


@dataclass
class MaxTime:
    """Ends all rows some seconds after it was made."""

    seconds: float
    began: float = field(default_factory=time.monotonic)

    def __call__(self, ids: Tensor, scores: Tensor) -> bool:
        """Tell whether the time is up."""
        return time.monotonic() - self.began > self.seconds


@dataclass
class StopStrings:
    """Ends a row as soon as what it has written contains one of some texts.

    A text may begin inside a token and end inside another. What was written is decoded from the last tokens that can
    hold it, so that the cost does not grow with the text.
    """

    strings: list[str]
    tokenizer: Tokenizer
    prompt: int  # tokens of the prompt, padding included

    def __call__(self, ids: Tensor, scores: Tensor) -> Tensor:
        """Tell which rows are done."""
        reach = max(map(len, self.strings)) + 8  # a token has a character or more, except parts of characters
        start = max(self.prompt, ids.shape[1] - 4 * reach)
        texts = [self.tokenizer.decode(row, skip_special_tokens=False) for row in ids[:, start:].tolist()]
        return torch.tensor([self.found(text) is not None for text in texts], dtype=torch.bool, device=ids.device)

    def found(self, text: str) -> int | None:
        """Return where the first of the texts begins, if any."""
        places = [place for string in self.strings if (place := text.find(string)) >= 0]
        return min(places, default=None)
