"""Streamers: what `generate(streamer=...)` tells of each token as it comes.

A streamer has `put`, which gets the ids of the prompt and then each new one, and `end`. A loop over `stream` needs no
streamer.
"""

import queue
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from torch import Tensor

from ..errors import InputError

if TYPE_CHECKING:
    from ..tokenizer import Tokenizer


class TextStreamer:
    """Prints text as it is written; no character is split.

    Args:
        tokenizer: of the model.
        skip_prompt: whether to leave out the prompt.
        options: those of `Tokenizer.decode_stream`, such as `skip_special_tokens=True`.
    """

    def __init__(self, tokenizer: "Tokenizer", skip_prompt: bool = False, **options: Any):
        options = {"skip_special_tokens": False} | options
        self.tokenizer, self.skip_prompt, self.options = tokenizer, skip_prompt, options
        self._begin()

    def _begin(self) -> None:
        self._decoder = self.tokenizer.decode_stream(**self.options)
        self._is_prompt = True

    def put(self, value: Tensor) -> None:
        """Take ids, (n,) or (1, n); the first are the prompt's.

        Raises:
            InputError: for several rows.
        """
        if value.dim() > 1 and len(value) != 1:
            raise InputError(f"A streamer shows one text; there are {len(value)}.")
        skip, self._is_prompt = self._is_prompt and self.skip_prompt, False
        if not skip:
            self._show("".join(map(self._decoder.step, value.flatten().tolist())), False)

    def end(self) -> None:
        """Show what was held back; another text may follow."""
        rest = self._decoder.flush()
        self._begin()
        self._show(rest, True)

    def _show(self, text: str, stream_end: bool) -> None:
        if text or stream_end:
            self.on_finalized_text(text, stream_end=stream_end)

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Print new text, and at the end a newline; made to be overridden."""
        print(text, flush=True, end="\n" if stream_end else "")


class TextIteratorStreamer(TextStreamer):
    """An iterator over text that another thread writes, with `generate(streamer=...)`.

    An exception in `generate` is raised here, too. `stream` gives the same text without a thread.

    Args:
        tokenizer: of the model.
        skip_prompt: whether to leave out the prompt.
        timeout: seconds to wait for a piece; None for ever.
        options: those of `Tokenizer.decode_stream`, such as `skip_special_tokens=True`.
    """

    def __init__(self, tokenizer: "Tokenizer", skip_prompt: bool = False, timeout: float | None = None, **options: Any):
        super().__init__(tokenizer, skip_prompt, **options)
        self.timeout = timeout
        self._pieces: queue.Queue[str | BaseException] = queue.Queue()

    def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
        """Hand new text, and at the end that this was all, to the reader."""
        if text:
            self._pieces.put(text)
        if stream_end:
            self._pieces.put(StopIteration())

    def fail(self, error: BaseException) -> None:
        """Let the reader raise an exception."""
        self._begin()
        self._pieces.put(error)

    def __iter__(self) -> Iterator[str]:
        return self

    def __next__(self) -> str:
        try:
            piece = self._pieces.get(timeout=self.timeout)
        except queue.Empty:
            raise queue.Empty(
                f"No text came for {self.timeout} seconds: is generate(streamer=...) still running in its thread?"
            ) from None
        if isinstance(piece, BaseException):
            raise piece
        return piece
