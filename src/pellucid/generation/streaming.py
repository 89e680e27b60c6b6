"""`stream`: what a model writes, piece by piece, as it is written."""

from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..errors import InputError
from ..model import Model
from .prompt import prompt_ids
from .stopping import StopStrings
from .writing import Writing, begin, evaluating

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer

CONTEXT = 64  # tokens of the prompt that can matter for the text of what follows it


class Stream(Iterator[Any]):
    """The pieces of one text as it is written: text, or ids without a tokenizer.

    Attributes:
        finish_reason: "stop", at an end token or a stop string, or "length"; None before the end.
    """

    def __init__(self, writing: Writing, tokenizer: "Tokenizer | None"):
        self.finish_reason: str | None = None
        self._rows = writing.rows
        self._pieces = _ids(writing) if tokenizer is None else _texts(writing, tokenizer)

    def __next__(self) -> Any:
        try:
            return next(self._pieces)
        except StopIteration as end:
            self.finish_reason = end.value or self.finish_reason
            raise

    def close(self) -> None:
        """End the work; no piece follows."""
        self._pieces.close()

    @property
    def ids(self) -> list[int]:
        """The ids of the prompt and of what was written so far, without padding."""
        return [id for id in self._rows.history[0].tolist() if id >= 0]


@torch.no_grad()
def _ids(writing: Writing) -> Generator[int, None, str]:
    with evaluating(writing.request.model):
        for step in writing.steps():
            yield int(step.tokens)
    return writing.rows.reasons[0]


@torch.no_grad()
def _texts(writing: Writing, tokenizer: "Tokenizer") -> Generator[str, None, str]:
    """Give text that no later token can change, up to a stop string."""
    stops = [string for stop in writing.request.criteria if isinstance(stop, StopStrings) for string in stop.strings]
    held = ""
    with evaluating(writing.request.model):
        for piece in _decoded(writing, tokenizer):
            text, held, found = _up_to(stops, held + piece)
            if text:
                yield text
            if found:
                return "stop"
    if held:
        yield held
    return writing.rows.reasons[0]


def _decoded(writing: Writing, tokenizer: "Tokenizer") -> Iterator[str]:
    """Give the text that each token makes certain, and at the end the rest.

    It is read as what follows the prompt, where a first space belongs to it.
    """
    prompt = [id for id in writing.rows.history[0].tolist() if id >= 0][-CONTEXT:]
    decoder = tokenizer.decode_stream(skip_special_tokens=True)
    certain = sum(len(decoder.step(id)) for id in prompt)
    skip = len(tokenizer.decode(prompt, skip_special_tokens=True)) - certain  # what is held back of the prompt
    for step in writing.steps():
        piece = decoder.step(int(step.tokens))
        yield piece[skip:]
        skip = max(0, skip - len(piece))
    yield decoder.flush()[skip:]


def _up_to(stops: list[str], text: str) -> tuple[str, str, bool]:
    """Split text into (what is before a stop string, what may be the beginning of one, whether there is one)."""
    places = [place for stop in stops if (place := text.find(stop)) >= 0]
    if places:
        return text[: min(places)], "", True
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for place in range(max(0, len(text) - longest), len(text)):
        if any(stop.startswith(text[place:]) for stop in stops):
            return text[:place], text[place:], False
    return text, "", False


def stream(model: Model, inputs: Any = None, *, tokenizer: "Tokenizer | None" = None, **options: Any) -> Stream:
    """Continue one prompt, and give each piece as soon as it is certain.

    ```python
    for piece in stream(model, "Once upon a time", tokenizer=tokenizer, max_new_tokens=50):
        print(piece, end="", flush=True)
    ```

    Nothing runs between two pieces, in no thread: when the loop is left, the work has ended.

    Args:
        model: that predicts the next token.
        inputs: a prompt's ids, (1, P); with a tokenizer also a text, or the messages of a conversation, which go
            through the tokenizer's chat template.
        tokenizer: to get text; ids without. A piece of text never splits a character. Special tokens, stop strings and
            the prompt are left out.
        options: all others that `generate` takes.

    Raises:
        InputError: for what `generate` refuses, for several prompts or continuations, and for beams, which are not
            certain of a token before the end.
        ArgumentError: for a keyword that is neither a setting nor an input of the model.
    """
    if tokenizer is not None and inputs is not None and not isinstance(inputs, Tensor):
        inputs = torch.tensor([prompt_ids(tokenizer, inputs)], dtype=torch.long, device=model.device)
    request, draft = begin(model, inputs, tokenizer=tokenizer, **options)
    if request.says("num_beams") > 1:
        raise InputError("Beams are not certain of any token before the end; stream with num_beams=1, or use generate.")
    if len(request.given) * request.rows != 1:
        raise InputError(
            f"A stream is one text; there are {len(request.given)} prompts with {request.rows} continuations each. "
            "Open a stream for each, or use generate."
        )
    return Stream(Writing(request, draft), tokenizer)
