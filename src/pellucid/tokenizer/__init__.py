"""Text to token ids and back: `Tokenizer` over the `tokenizers` library, and readers of every vocabulary format."""

from typing import Any

from .batch_encoding import BatchEncoding, CharSpan, TokenSpan
from .loading import AutoTokenizer, tokenizer_class
from .tokenizer import Tokenizer

__all__ = ["AutoTokenizer", "BatchEncoding", "CharSpan", "TokenSpan", "Tokenizer", "tokenizer_class"]


def __getattr__(name: str) -> Any:
    """Resolve class names such as `BertTokenizer`; pickles of tokenizers find their class this way."""
    found = tokenizer_class(name)
    if found is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}.")
    return found
