"""A vocabulary: tokens, their ids, and the text that they stand for."""

from collections.abc import Iterable, Sequence
from typing import Any, overload

from tokenizers import AddedToken
from tokenizers import Tokenizer as RustTokenizer

from pellucid.errors import InputError, refuse_unknown

from .engine import copy
from .special_tokens import SpecialTokens
from .stream import DecodeStream

_DECODE_ARGUMENTS = ("token_ids", "skip_special_tokens", "clean_up_tokenization_spaces")
_CLEANED = (" .", " ?", " !", " ,", " ' ", " n't", " 'm", " 's", " 've", " 're")


def clean_up(text: str) -> str:
    """Take out the spaces before punctuation and contractions."""
    for spaced in _CLEANED:
        text = text.replace(spaced, spaced.strip())
    return text


class Vocabulary(SpecialTokens):
    """Tokens, their ids, and the text that they stand for."""

    clean_up_tokenization_spaces: bool
    model_max_length: Any  # a property of Tokenizer

    @overload
    def decode(self, token_ids: int | list[int], skip_special_tokens: bool = False, **options: Any) -> str: ...
    @overload
    def decode(self, token_ids: Any, skip_special_tokens: bool = False, **options: Any) -> Any: ...
    def decode(
        self,
        token_ids: Any,
        skip_special_tokens: bool = False,
        *,
        clean_up_tokenization_spaces: bool | None = None,
        **unknown: Any,
    ) -> Any:
        """Turn ids into text, or several rows of ids into a list of texts.

        Args:
            token_ids: an id, a list of ids, a list of such lists, or a tensor of 0 to 2 dimensions.
            skip_special_tokens: whether to leave out special tokens.
            clean_up_tokenization_spaces: whether to take out spaces before punctuation and contractions; None does what
                the files say (and without their word, does so for WordPiece only). It never applies to BPE, whose
                tokens carry the text's own spaces.
            unknown: nothing; a misspelt name raises.

        Raises:
            ArgumentError: if an argument does not exist.
            InputError: if an id is not in the vocabulary.
        """
        refuse_unknown("decode", unknown, _DECODE_ARGUMENTS)
        ids: Any = token_ids.tolist() if hasattr(token_ids, "tolist") else token_ids
        ids = [ids] if isinstance(ids, int) else list(ids)
        if ids and not isinstance(ids[0], int):  # rows, or numbers of a tensor library
            ids = [id.tolist() if hasattr(id, "tolist") else id for id in ids]
        if ids and isinstance(ids[0], (list, tuple)):
            options = {"clean_up_tokenization_spaces": clean_up_tokenization_spaces}
            return [self.decode(row, skip_special_tokens, **options) for row in ids]
        text = self._engine.target.decode(ids, skip_special_tokens)
        return clean_up(text) if self._cleans(clean_up_tokenization_spaces) else text

    def _cleans(self, asked: bool | None) -> bool:
        wanted = self.clean_up_tokenization_spaces if asked is None else asked
        return wanted and type(self._engine.rust.model).__name__ != "BPE"

    def decode_stream(
        self, skip_special_tokens: bool = False, *, clean_up_tokenization_spaces: bool | None = None
    ) -> DecodeStream:
        """Return an object that turns ids into text as they come: `step(id)` for each, and `flush()` at the end.

        Args:
            skip_special_tokens: as in `decode`.
            clean_up_tokenization_spaces: as in `decode`; with it the text comes a word late.
        """
        clean = clean_up if self._cleans(clean_up_tokenization_spaces) else None
        return DecodeStream(self, skip_special_tokens, clean)

    def batch_decode(self, sequences: Any, skip_special_tokens: bool = False, **options: Any) -> list[str]:
        """Turn rows of ids into texts; the options are those of `decode`."""
        rows = sequences.tolist() if hasattr(sequences, "tolist") else sequences
        return [self.decode(row, skip_special_tokens, **options) for row in rows]

    def convert_tokens_to_ids(self, tokens: Any) -> Any:
        """Return the id of a token, or a list of ids for a list of tokens.

        A token that the vocabulary lacks has the id of `unk_token`, or None if there is no such token.
        """
        if isinstance(tokens, str):
            id = self._engine.rust.token_to_id(tokens)
            return self.unk_token_id if id is None else id
        if tokens is None or not isinstance(tokens, Iterable):
            raise InputError(f"{tokens!r} is neither a token (str) nor a list of tokens.")
        return [self.convert_tokens_to_ids(token) for token in tokens]

    def convert_ids_to_tokens(self, ids: Any, skip_special_tokens: bool = False) -> Any:
        """Return the token of an id, or a list of tokens for a list of ids.

        Raises:
            InputError: if an id is not in the vocabulary.
        """
        ids = ids.tolist() if hasattr(ids, "tolist") else ids
        many = [ids] if isinstance(ids, int) else list(ids)
        self._engine.refuse_ids(many)
        if isinstance(ids, int):
            return self._engine.rust.id_to_token(ids)
        skipped = set(self.all_special_ids) if skip_special_tokens else ()
        return [self._engine.rust.id_to_token(id) for id in many if id not in skipped]

    def convert_tokens_to_string(self, tokens: Sequence[str]) -> str:
        """Join tokens to the text that they stand for."""
        return self._engine.target.join(tokens)

    # --- the vocabulary -----------------------------------------------------------------------------------------------

    @property
    def vocab_size(self) -> int:
        """The number of tokens, without the added ones; `len(tokenizer)` counts all."""
        return self._engine.rust.get_vocab_size(with_added_tokens=False)

    def __len__(self) -> int:
        return self._engine.rust.get_vocab_size()

    def __bool__(self) -> bool:
        return True

    def get_vocab(self) -> dict[str, int]:
        """Return every token with its id, added ones included."""
        return self._engine.rust.get_vocab()

    @property
    def vocab(self) -> dict[str, int]:
        """Every token with its id, added ones included; made anew each time."""
        return self.get_vocab()

    def get_added_vocab(self) -> dict[str, int]:
        """Return the tokens that are looked for before everything else, with their ids."""
        return {token.content: id for id, token in sorted(self._engine.rust.get_added_tokens_decoder().items())}

    @property
    def added_tokens_encoder(self) -> dict[str, int]:
        """The same as `get_added_vocab()`."""
        return self.get_added_vocab()

    @property
    def added_tokens_decoder(self) -> dict[int, AddedToken]:
        """The tokens that are looked for before everything else, by id."""
        return self._engine.rust.get_added_tokens_decoder()

    @property
    def is_fast(self) -> bool:
        """Whether the tokenizer is written in Rust: always."""
        return True

    @property
    def backend_tokenizer(self) -> RustTokenizer:
        """A copy of the `tokenizers.Tokenizer` inside; changing it changes nothing here."""
        return copy(self._engine.rust)

    def vocabulary_files(self) -> dict[str, bytes]:
        """Return the files that `save_pretrained` writes of the vocabulary, by name: tokenizer.json, or older ones."""
        return self._engine.files()

    @property
    def max_len_single_sentence(self) -> int | None:
        """How much of `model_max_length` is left for a text."""
        return None if self.model_max_length is None else self.model_max_length - self.num_special_tokens_to_add(False)

    @property
    def max_len_sentences_pair(self) -> int | None:
        """How much of `model_max_length` is left for a pair of texts."""
        return None if self.model_max_length is None else self.model_max_length - self.num_special_tokens_to_add(True)

    def num_special_tokens_to_add(self, pair: bool = False) -> int:
        """Return how many special tokens go around a text, or a pair of texts."""
        return self._engine.rust.num_special_tokens_to_add(pair)

    def build_inputs_with_special_tokens(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Put the special tokens around the ids of a text, or of a pair."""
        return [id for id, _, _ in self._arrange(token_ids_0, token_ids_1)]

    def create_token_type_ids_from_sequences(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None
    ) -> list[int]:
        """Return the token type of every id that `build_inputs_with_special_tokens` returns."""
        return [type_id for _, type_id, _ in self._arrange(token_ids_0, token_ids_1)]

    def get_special_tokens_mask(
        self, token_ids_0: list[int], token_ids_1: list[int] | None = None, already_has_special_tokens: bool = False
    ) -> list[int]:
        """Return 1 where a special token is, 0 elsewhere.

        Args:
            token_ids_0: the ids of a text.
            token_ids_1: the ids of its pair.
            already_has_special_tokens: whether the special tokens are among the ids; if not, the result is for what
                `build_inputs_with_special_tokens` returns.
        """
        if already_has_special_tokens:
            special = set(self.all_special_ids)
            return [int(id in special) for id in token_ids_0]
        return [int(special) for _, _, special in self._arrange(token_ids_0, token_ids_1)]

    def _arrange(self, first: list[int], second: list[int] | None) -> list[tuple[int, int, bool]]:
        """Return (id, type id, special?) of a text's or a pair's ids with the special tokens around them."""
        sample = self._engine.rust.encode("a", None if second is None else "a")
        arranged: list[tuple[int, int, bool]] = []
        placed = None
        for id, type_id, sequence in zip(sample.ids, sample.type_ids, sample.sequence_ids, strict=True):
            if sequence is None:
                arranged.append((id, type_id, True))
            elif sequence != placed:  # the first token of the sample text: all of the ids go here
                arranged += [(id, type_id, False) for id in ((second or []) if sequence else first)]
            placed = sequence
        return arranged
