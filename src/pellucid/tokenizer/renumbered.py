"""Vocabularies in two parts: one cuts texts into pieces, the other gives the pieces their ids."""

import json
from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import AddedToken, Encoding, models, processors
from tokenizers import Tokenizer as RustTokenizer

from pellucid.errors import TokenizerError
from pellucid.folder import Folder

from .engine import Engine, Padding, Truncation
from .inputs import Inputs


class RenumberedEngine(Engine):
    """An engine whose texts are cut by one Rust tokenizer, and whose ids are those of another.

    A vocab.json beside a SentencePiece model gives pieces ids of its own, lacks some, and may have more. So the model
    cuts, with its own ids and scores, and each piece is then looked up.

    Args:
        rust: the vocabulary, with the id of every token, which also decodes.
        cutter: cuts texts.
        pieces: what a token of the cutter is called in the vocabulary, where it is called otherwise; None for the one
            that stands for whatever the cutter does not know, which may be a piece of the vocabulary all the same.
        unknown: the id of what the vocabulary lacks.
        files: those that the two parts come from, by name.
        target: the engine for what a translator writes, where it is another one.
        size: how many tokens the files account for; all of them if None.
        numbers: the id of each of the cutter's, if it is known already.
    """

    def __init__(
        self,
        rust: RustTokenizer,
        cutter: Engine,
        pieces: Mapping[str, str | None],
        unknown: int,
        files: Mapping[str, bytes],
        target: "RenumberedEngine | None" = None,
        size: int | None = None,
        numbers: Mapping[int, int | None] | None = None,
    ):
        super().__init__(rust)
        self._cutter, self._pieces, self._unknown, self._files, self._target = cutter, pieces, unknown, files, target
        self._size = rust.get_vocab_size() if size is None else size
        if numbers is None:
            named = ((id, pieces.get(token, token)) for token, id in cutter.rust.get_vocab().items())
            numbers = {id: None if piece is None else self.number(piece) for id, piece in named}
        self._numbers = numbers

    def number(self, piece: str) -> int:
        """Return the id of a piece."""
        id = self.rust.token_to_id(piece)
        return self._unknown if id is None else id

    def renumber(self, row: Encoding) -> list[int]:
        """Return the ids of what was cut."""
        found = [self._numbers[id] for id in row.ids]
        if None not in found:
            return found  # type: ignore[return-value]
        return [self.number(text) if id is None else id for id, text in zip(found, row.tokens, strict=True)]

    def names(self, row: Encoding, ids: list[int]) -> list[str]:
        """Return the token of each id; of what the vocabulary lacks, the text."""
        named = zip(ids, row.tokens, strict=True)
        pieces, name = self._pieces, self.rust.id_to_token
        return [(pieces.get(x, x) if id == self._unknown else None) or name(id) or x for id, x in named]

    @property
    def target(self) -> Engine:
        """The engine for what a translator writes."""
        return self if self._target is None else self._target

    def encode(
        self, inputs: Inputs, *, truncation: Truncation | None, padding: Padding | None, add_special_tokens: bool
    ) -> list[Any]:
        """Encode every row; as `Engine.encode`."""
        if padding is not None:
            own = self._cutter.rust.token_to_id(padding.pad_token)
            padding = padding._replace(pad_id=padding.pad_id if own is None else own)
        options: dict[str, Any] = {"padding": padding, "add_special_tokens": add_special_tokens}
        return [self.row(row) for row in self._cutter.encode(inputs, truncation=truncation, **options)]

    def row(self, row: Encoding) -> "Renumbered":
        """Give a row that was cut its ids."""
        return Renumbered(row, self)

    def with_tokens(self, tokens: list[AddedToken]) -> tuple[Engine, int]:
        """Return an engine with more tokens in its vocabulary, and how many of them were new."""
        vocabulary, added = super().with_tokens(tokens)
        cutter, _ = self._cutter.with_tokens([_as_written(token) for token in tokens])
        target = None if self._target is None else self._target.with_tokens(tokens)[0]
        return self._like(vocabulary.rust, cutter, target), added

    def split_special_tokens(self, wanted: bool) -> None:
        """Say whether special tokens in a text are cut like other text."""
        super().split_special_tokens(wanted)
        for part in (self._cutter, self._target):
            if part is not None:
                part.split_special_tokens(wanted)

    def framed(self, make: Callable[[RustTokenizer], processors.TemplateProcessing]) -> Engine:
        """Return an engine that puts other special tokens around texts."""
        target = None if self._target is None else self._target.framed(make)
        return self._like(super().framed(make).rust, self._cutter.framed(make), target, self._numbers)

    def files(self) -> dict[str, bytes]:
        """Return the files that hold the vocabulary, by name; `added_tokens.json` has what was added to it."""
        ids = {token.content: id for id, token in self.rust.get_added_tokens_decoder().items() if id >= self._size}
        added = {"added_tokens.json": json.dumps(ids, ensure_ascii=False, indent=2).encode()} if ids else {}
        return {**self._files, **added}

    def _like(self, rust: RustTokenizer, cutter: Engine, target: Any, numbers: Any = None) -> "RenumberedEngine":
        return type(self)(rust, cutter, self._pieces, self._unknown, self._files, target, self._size, numbers)

    def __reduce__(self) -> tuple[Any, ...]:
        parts = (self.rust.to_str().encode(), self._cutter, self._pieces, self._unknown, self._files, self._target)
        parts = (*parts, self._size)
        return _restore, (type(self), *parts)


def _as_written(token: AddedToken) -> AddedToken:
    """Return a token that is looked for before the cutter changes a text."""
    flags = {name: getattr(token, name) for name in ("lstrip", "rstrip", "single_word", "special")}
    return AddedToken(token.content, normalized=False, **flags)


def _restore(cls: type[RenumberedEngine], rust: bytes, cutter: Engine, *parts: Any) -> RenumberedEngine:
    return cls(RustTokenizer.from_buffer(rust), cutter, *parts)


class Renumbered:
    """A row that was cut, with the ids of the vocabulary; everything else is as the `tokenizers.Encoding` has it."""

    def __init__(self, row: Encoding, engine: RenumberedEngine):
        self._row, self._engine = row, engine
        self.ids = engine.renumber(row)

    @property
    def tokens(self) -> list[str]:
        """The token of each id."""
        return self._engine.names(self._row, self.ids)

    @property
    def overflowing(self) -> list["Renumbered"]:
        """What truncation has cut off."""
        return [self._engine.row(row) for row in self._row.overflowing]

    def __len__(self) -> int:
        return len(self.ids)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__["_row"], name)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self._row, self._engine)


def vocabulary(ids: dict[str, int], unknown: str) -> RustTokenizer:
    """Return a tokenizer that knows tokens by name, and cuts nothing."""
    return RustTokenizer(models.WordLevel(ids, unk_token=unknown))


def read_ids(folder: Folder, name: str, special: list[str]) -> dict[str, int]:
    """Read a vocab.json.

    Raises:
        TokenizerError: if it is broken, or lacks a special token.
    """
    ids, origin = folder.read_json(name), folder.path / name
    if not ids or not all(isinstance(id, int) and not isinstance(id, bool) and 0 <= id < 2**31 for id in ids.values()):
        raise TokenizerError(f"{origin} is no vocabulary; expected an object with the id of each token.")
    if missing := [token for token in special if token not in ids]:
        raise TokenizerError(f"{origin} lacks {', '.join(map(json.dumps, missing))}. The files do not belong together.")
    return ids
