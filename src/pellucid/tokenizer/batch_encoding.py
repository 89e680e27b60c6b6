"""What a tokenizer call returns: the model's inputs by name, and the way back from tokens to the text."""

from collections import UserDict
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from pellucid.errors import InputError, MissingPackageError

if TYPE_CHECKING:
    from tokenizers import Encoding
    from typing_extensions import Self

FRAMEWORKS = {"pt": "torch", "np": "numpy", "tf": "tensorflow", "jax": "jax"}  # return_tensors -> package


class CharSpan(NamedTuple):
    """Characters `start` to `end` (exclusive) of a text."""

    start: int
    end: int


class TokenSpan(NamedTuple):
    """Tokens `start` to `end` (exclusive) of a row."""

    start: int
    end: int


class BatchEncoding(UserDict):
    """Tokenized texts: a dictionary of model inputs that also knows where each token came from.

    `batch["input_ids"]` and `batch.input_ids` are the same; `model(**batch)` works. An integer or a slice as the key
    gives the `tokenizers.Encoding` of those rows instead.

    In every method below the row may be left out when there is one: `batch.token_to_chars(3)` is
    `batch.token_to_chars(0, 3)`. `sequence_index` is 0 for the text and 1 for its pair. Words are those of the
    pre-tokenizer, or those given with `is_split_into_words=True`.

    Args:
        data: inputs by name.
        encodings: for each row, what the `tokenizers` library returned; None if the rows did not come from there.
        tensor_type: "pt", "np", "tf" or "jax" to turn every value into a tensor; None leaves lists.
    """

    def __init__(
        self,
        data: Mapping[str, Any] | None = None,
        encodings: "list[Encoding] | None" = None,
        *,
        tensor_type: str | None = None,
    ):
        self.data = dict(data or {})
        self._encodings = encodings
        if tensor_type is not None:
            self.convert_to_tensors(tensor_type)

    def __getitem__(self, key: Any) -> Any:
        if isinstance(key, str):
            return self.data[key]
        return self._rows()[key]

    def __getattr__(self, name: str) -> Any:
        # copy and pickle ask for attributes before there is any data
        data = self.__dict__.get("data", {})
        if name in data:
            return data[name]
        raise AttributeError(f"this BatchEncoding has no {name!r}; it has: {', '.join(data) or 'nothing'}.")

    @property
    def encodings(self) -> "list[Encoding] | None":
        """The `tokenizers.Encoding` of each row, or None."""
        return self._encodings

    @property
    def is_fast(self) -> bool:
        """Whether the rows know their texts, so that the methods below work."""
        return self._encodings is not None

    @property
    def n_sequences(self) -> int | None:
        """1 for single texts, 2 for pairs, None if unknown."""
        return self._encodings[0].n_sequences if self._encodings else None

    def tokens(self, batch_index: int = 0) -> list[str]:
        """Return the tokens of a row, special tokens and padding included."""
        return self._row(batch_index).tokens

    def word_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return the word that each token of a row belongs to; None for special tokens and padding."""
        return self._row(batch_index).word_ids

    words = word_ids

    def sequence_ids(self, batch_index: int = 0) -> list[int | None]:
        """Return 0 or 1, text or pair, for each token of a row; None for special tokens and padding."""
        return self._row(batch_index).sequence_ids

    def token_to_sequence(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return whether a token is of the text (0) or of the pair (1); None for special tokens and padding."""
        row, token = self._locate(batch_or_token_index, token_index, tokens=True)
        return row.sequence_ids[token]

    def token_to_word(self, batch_or_token_index: int, token_index: int | None = None) -> int | None:
        """Return the word of a token; None for special tokens and padding."""
        row, token = self._locate(batch_or_token_index, token_index, tokens=True)
        return row.token_to_word(token)

    def token_to_chars(self, batch_or_token_index: int, token_index: int | None = None) -> CharSpan | None:
        """Return the characters of a token in its text; None for special tokens and padding."""
        row, token = self._locate(batch_or_token_index, token_index, tokens=True)
        span = row.token_to_chars(token)
        return CharSpan(*span) if span is not None else None

    def word_to_tokens(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> TokenSpan | None:
        """Return the tokens of a word; None if the row has no such word (any more, after truncation)."""
        row, word = self._locate(batch_or_word_index, word_index)
        span = row.word_to_tokens(word, sequence_index)
        return TokenSpan(*span) if span is not None else None

    def word_to_chars(
        self, batch_or_word_index: int, word_index: int | None = None, sequence_index: int = 0
    ) -> CharSpan | None:
        """Return the characters of a word in its text; None if the row has no such word."""
        row, word = self._locate(batch_or_word_index, word_index)
        span = row.word_to_chars(word, sequence_index)
        return CharSpan(*span) if span is not None else None

    def char_to_token(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the token of a character; None if it is in none (white space, or truncated)."""
        row, char = self._locate(batch_or_char_index, char_index)
        return row.char_to_token(char, sequence_index)

    def char_to_word(
        self, batch_or_char_index: int, char_index: int | None = None, sequence_index: int = 0
    ) -> int | None:
        """Return the word of a character; None if it is in none."""
        row, char = self._locate(batch_or_char_index, char_index)
        return row.char_to_word(char, sequence_index)

    def to(self, device: Any, *, non_blocking: bool = False) -> "Self":
        """Move every tensor to a device, in place, and return this object."""
        self.data = {
            name: value.to(device, non_blocking=non_blocking) if hasattr(value, "to") else value
            for name, value in self.data.items()
        }
        return self

    def convert_to_tensors(self, tensor_type: str | None, prepend_batch_axis: bool = False) -> "Self":
        """Turn every value into a tensor, in place, and return this object.

        Args:
            tensor_type: "pt" (PyTorch), "np" (NumPy), "tf" (TensorFlow) or "jax"; None does nothing.
            prepend_batch_axis: put one more axis in front, for a single row.

        Raises:
            InputError: if rows differ in length, a value is not numbers, or the framework is unknown.
            MissingPackageError: if the framework is not installed.
        """
        if tensor_type is not None:
            make = _tensor_maker(tensor_type)
            self.data = {
                name: make(name, [value] if prepend_batch_axis else value) for name, value in self.data.items()
            }
        return self

    def _rows(self) -> "list[Encoding]":
        if self._encodings is None:
            raise InputError(
                "these rows were not made by calling a tokenizer on texts, so their tokens and places are unknown. "
                f"Use one of the names as the key: {', '.join(self.data) or 'there are none'}."
            )
        return self._encodings

    def _row(self, index: int) -> "Encoding":
        rows = self._rows()
        if not -len(rows) <= index < len(rows):
            raise InputError(f"there is no row {index}: this batch has {len(rows)}.")
        return rows[index]

    def _locate(self, first: int, second: int | None, *, tokens: bool = False) -> "tuple[Encoding, int]":
        """Read `(index,)` or `(row, index)`; with `tokens`, count negative indices from the end and check the range."""
        row, index = (self._row(0), first) if second is None else (self._row(first), second)
        if tokens:
            if not -len(row) <= index < len(row):
                raise InputError(f"there is no token {index}: this row has {len(row)}.")
            index %= len(row)
        elif index < 0:
            raise InputError(f"{index} is negative. Characters and words are counted from 0.")
        return row, index


def _tensor_maker(tensor_type: str) -> Any:
    """Return a function (name, lists) -> tensor of a framework."""
    if tensor_type not in FRAMEWORKS:
        raise InputError(f"return_tensors={tensor_type!r} is not one of {', '.join(map(repr, FRAMEWORKS))} or None.")
    import numpy as np

    convert: Any = None
    try:
        if tensor_type == "pt":
            from torch import from_numpy as convert  # far faster than torch.tensor on nested lists
        elif tensor_type == "tf":
            from pellucid.tensorflow_import import import_tensorflow

            convert = import_tensorflow().constant
        elif tensor_type == "jax":
            from jax.numpy import asarray as convert  # pyright: ignore[reportMissingImports]
    except ImportError:
        package = FRAMEWORKS[tensor_type]
        raise MissingPackageError(
            f"return_tensors={tensor_type!r} needs {package}, which is not installed. "
            f"Run `pip install {package}`, or ask for another of {', '.join(map(repr, FRAMEWORKS))}."
        ) from None

    def make(name: str, value: Any) -> Any:
        if type(value).__module__.partition(".")[0] == FRAMEWORKS[tensor_type]:  # a tensor already
            return value
        try:
            array = np.array(value) if len(value) else np.zeros((0, 0), np.int64)
        except ValueError:
            lengths = [len(row) for row in value if hasattr(row, "__len__")]
            raise InputError(
                f"{name!r} has rows of {min(lengths, default=0)} to {max(lengths, default=0)} items; a tensor needs "
                "rows of one length. Ask for padding=True (and truncation=True for long texts), or return_tensors=None."
            ) from None
        if array.dtype.kind not in "biuf":
            raise InputError(f"{name!r} holds {array.dtype} values, and a tensor holds numbers. Leave it out.")
        return array if convert is None else convert(array)

    return make
