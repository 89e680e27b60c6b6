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
        before = min(start, 1)  # the token that these go on from, without which a first space would be left out
        found = [self.found(self._after(row, before)) for row in ids[:, start - before :].tolist()]
        return torch.tensor([place is not None for place in found], dtype=torch.bool, device=ids.device)

    def _after(self, ids: list[int], before: int) -> str:
        """Return the text of tokens, less that of the first ones."""
        text, known = (self.tokenizer.decode(part, skip_special_tokens=False) for part in (ids, ids[:before]))
        return text[len(known) :]

    def found(self, text: str) -> int | None:
        """Return where the first of the texts begins, if any."""
        places = [place for string in self.strings if (place := text.find(string)) >= 0]
        return min(places, default=None)
