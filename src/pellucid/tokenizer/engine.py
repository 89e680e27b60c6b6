"""The Rust tokenizer behind a `Tokenizer`, made safe to share between threads."""

import os
import re
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

from tokenizers import AddedToken, Encoding, Regex, decoders, processors
from tokenizers import Tokenizer as RustTokenizer

from pellucid.errors import InputError, TokenizerError

from .inputs import Inputs, refuse_inputs

_KEPT_COPIES = 32


class Truncation(NamedTuple):
    """How to shorten; the fields are those of `tokenizers.Tokenizer.enable_truncation`."""

    max_length: int
    stride: int
    strategy: str
    direction: str


class Padding(NamedTuple):
    """How to fill up; the fields are those of `tokenizers.Tokenizer.enable_padding`."""

    length: int | None
    pad_to_multiple_of: int | None
    direction: str
    pad_id: int
    pad_type_id: int
    pad_token: str


class Engine:
    """A Rust tokenizer that nobody changes, and copies of it that truncate and pad.

    The library keeps truncation and padding as state of its tokenizer, where threads overwrite each other's. Here every
    combination gets its own copy, set once and then only read. A copy shares the model and takes microseconds.

    Args:
        rust: becomes the engine's own, with truncation and padding switched off.
    """

    rewrites = False  # whether a token can change the text of those before it

    def __init__(self, rust: RustTokenizer):
        _quiet_forks()
        rust.no_truncation()
        rust.no_padding()
        suffix = getattr(rust.model, "end_of_word_suffix", None)
        if suffix and isinstance(rust.decoder, decoders.ByteLevel):  # CLIP's files leave out that this is a space
            last = Regex(re.escape(suffix) + r"\z")
            steps = [rust.decoder, decoders.Replace(last, ""), decoders.Replace(suffix, " ")]
            rust.decoder = decoders.Sequence(steps)  # pyright: ignore[reportAttributeAccessIssue]
        self.rust = rust
        self._copies: dict[tuple[Truncation | None, Padding | None], RustTokenizer] = {(None, None): rust}

    @classmethod
    def from_json(cls, content: bytes, origin: str) -> "Engine":
        """Read the content of a tokenizer.json.

        Args:
            content: the bytes.
            origin: the file's path, for messages.

        Raises:
            TokenizerError: if it is broken.
        """
        try:
            return cls(RustTokenizer.from_buffer(content))
        except BaseException as error:
            if _is_fault(error):
                raise TokenizerError(
                    f"{origin} is not a readable tokenizer: {error}. Fetch or save it again."
                ) from None
            raise

    def __reduce__(self) -> tuple[Any, ...]:
        return Engine.from_json, (self.rust.to_str().encode(), "the pickled tokenizer")

    def encode(
        self, inputs: Inputs, *, truncation: Truncation | None, padding: Padding | None, add_special_tokens: bool
    ) -> list[Encoding]:
        """Encode every row.

        Raises:
            InputError: if a row is not a text, or the truncation asked for can not be reached.
            TokenizerError: if the tokenizer itself fails, for example in a regular expression.
        """
        try:
            rust = self._copies.get((truncation, padding)) or self._configure(truncation, padding)
            if inputs.batched:
                return rust.encode_batch(inputs.rows, inputs.split, add_special_tokens)
            text, pair = inputs.rows[0] if inputs.paired else (inputs.rows[0], None)
            return [rust.encode(text, pair, inputs.split, add_special_tokens)]
        except BaseException as error:
            if not _is_fault(error):
                raise
            refuse_inputs(inputs)
            if truncation is not None and "stride" in str(error):
                raise InputError(
                    f"stride={truncation.stride} is too large for this pair in max_length={truncation.max_length}: "
                    "a part is cut down to fewer. Take a smaller stride, or truncation='only_second'."
                ) from None
            if truncation is not None and "truncat" in str(error).lower():
                if truncation.strategy == "only_second" and not inputs.paired:
                    raise InputError("truncation='only_second' needs a text_pair to shorten.") from None
                raise InputError(
                    f"truncation={truncation.strategy!r} can not shorten this input to "
                    f"max_length={truncation.max_length}: the part that may be cut is shorter than what has to go. "
                    "Use truncation='longest_first', or a larger max_length."
                ) from None
            raise TokenizerError(f"the tokenizer failed on this input: {error}.") from error

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        """Turn ids into text.

        Raises:
            InputError: if an id is not in the vocabulary.
            TokenizerError: if the tokenizer itself fails.
        """
        try:
            if None in map(self.rust.id_to_token, set(ids)):
                raise ValueError("an id has no token")
            return self.rust.decode(ids, skip_special_tokens)
        except BaseException as error:
            if not _is_fault(error):
                raise
            self.refuse_ids(ids)
            raise TokenizerError(f"the tokenizer failed on these ids: {error}.") from error

    def join(self, tokens: Sequence[str]) -> str:
        """Join tokens to the text that they stand for."""
        decoder = self.rust.decoder
        return " ".join(tokens) if decoder is None else decoder.decode(list(tokens))

    def split_special_tokens(self, wanted: bool) -> None:
        """Say whether special tokens in a text are cut like other text; only for an engine that nobody shares yet."""
        self.rust.encode_special_tokens = wanted

    def refuse_ids(self, ids: Iterable[Any]) -> None:
        """Raise for the first id that is not in the vocabulary; return if all are.

        Raises:
            InputError: naming the id and the size of the vocabulary.
        """
        size = self.rust.get_vocab_size()
        for index, id in enumerate(ids):
            if not hasattr(id, "__index__"):
                raise InputError(f"item {index} of the ids is {id!r} ({type(id).__name__}), expected an integer.")
            if not 0 <= id < 2**32 or self.rust.id_to_token(id) is None:
                hint = (
                    " Labels use it for what the loss skips; replace it by the padding id first." if id == -100 else ""
                )
                raise InputError(f"the id {id} is not in the vocabulary, which has {size} entries.{hint}")

    def with_tokens(self, tokens: list[AddedToken]) -> "tuple[Engine, int]":
        """Return an engine with more tokens in its vocabulary, and how many of them were new."""
        added = {token.content: token for token in _added_tokens(self.rust)}
        for token in tokens:
            old = added.setdefault(token.content, token)
            old.special = old.special or token.special
        rust = copy(self.rust, list(added.values()))
        return Engine(rust), rust.get_vocab_size() - self.rust.get_vocab_size()

    @property
    def target(self) -> "Engine":
        """The engine for what a translator writes: the same, unless the two languages have models of their own."""
        return self

    def framed(self, make: Callable[[RustTokenizer], processors.TemplateProcessing]) -> "Engine":
        """Return an engine that puts other special tokens around texts."""
        rust = copy(self.rust)
        rust.post_processor = make(rust)  # pyright: ignore[reportAttributeAccessIssue]
        return Engine(rust)

    def files(self) -> dict[str, bytes]:
        """Return the files that hold the vocabulary, by name."""
        return {"tokenizer.json": self.rust.to_str(pretty=True).encode()}

    def _configure(self, truncation: Truncation | None, padding: Padding | None) -> RustTokenizer:
        rust = copy(self.rust)
        if truncation is not None:
            rust.enable_truncation(**truncation._asdict())
        if padding is not None:
            rust.enable_padding(**padding._asdict())
        if len(self._copies) >= _KEPT_COPIES:  # a program with ever new lengths must not collect copies for ever
            self._copies = {(None, None): self.rust}
        self._copies[truncation, padding] = rust
        return rust


def copy(rust: RustTokenizer, added: list[AddedToken] | None = None) -> RustTokenizer:
    """Return a tokenizer with its own settings and added tokens that shares the model of another.

    Args:
        rust: what to copy.
        added: its added tokens, those of `rust` if None.
    """
    twin = RustTokenizer(rust.model)
    for part in ("normalizer", "pre_tokenizer", "post_processor", "decoder"):
        if (value := getattr(rust, part)) is not None:
            setattr(twin, part, value)
    twin.add_tokens(_added_tokens(rust) if added is None else added)
    twin.encode_special_tokens = rust.encode_special_tokens
    return twin


def _added_tokens(rust: RustTokenizer) -> list[AddedToken]:
    return [token for _, token in sorted(rust.get_added_tokens_decoder().items())]


def _is_fault(error: BaseException) -> bool:
    """Tell a fault of the Rust library, panics included, from Ctrl-C and the like."""
    return isinstance(error, Exception) or type(error).__name__ == "PanicException"


_quieted = False


def _quiet_forks() -> None:
    """Let children of `fork` work without threads, quietly.

    After a fork the library's threads are gone, so it switches them off in the child, and prints a notice unless
    TOKENIZERS_PARALLELISM is set. It is set here while forking: in the child it stays ("false"), in the parent it goes.
    """
    global _quieted
    if _quieted or not hasattr(os, "register_at_fork"):
        return
    _quieted = True
    name = "TOKENIZERS_PARALLELISM"
    ours = []

    def before() -> None:
        if name not in os.environ:
            os.environ[name] = "false"
            ours.append(True)

    def after() -> None:
        if ours:
            ours.clear()
            del os.environ[name]

    os.register_at_fork(before=before, after_in_parent=after)
