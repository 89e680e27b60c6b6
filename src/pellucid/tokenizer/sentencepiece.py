"""SentencePiece models: one protocol buffer with pieces, scores and a normalizer (T5, XLM-R, ALBERT, Llama and so on).

The format: https://github.com/google/sentencepiece/blob/master/src/sentencepiece_model.proto
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from pellucid.errors import MissingFileError, TokenizerError
from pellucid.folder import Folder

from .families import Family
from .languages import language_kind, language_tokens

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, BYTE = 1, 2, 3, 4, 6  # what a piece is
UNIGRAM, BPE = 1, 2  # what a model is

_SPACE = "\u2581"  # stands for a space in pieces
_HIDDEN = "\ufdd1"  # no character; before a piece that no text is to give


@dataclass
class SentencePieceModel:
    """What a `.model` file holds, as far as it decides about ids."""

    pieces: list[tuple[str, float, int]] = field(default_factory=list)
    """Text, score and kind of each piece, by id."""
    kind: int = UNIGRAM
    byte_fallback: bool = False
    charsmap: bytes = b""
    """A compiled table of character replacements; empty for none."""
    add_dummy_prefix: bool = True
    remove_extra_whitespaces: bool = True


def read_model(data: bytes, origin: str) -> SentencePieceModel:
    """Read the content of a `.model` file.

    Args:
        data: the content.
        origin: the file's path, for messages.

    Raises:
        TokenizerError: if it is broken.
    """
    model = SentencePieceModel()
    try:
        for number, value in _fields(data):
            if number == 1:
                model.pieces.append(_read_piece(value))
            elif number == 2:
                trainer = dict(_fields(value))
                model.kind = int(trainer.get(3, UNIGRAM))
                model.byte_fallback = bool(trainer.get(35, False))
            elif number == 3:
                spec = dict(_fields(value))
                model.charsmap = bytes(spec.get(2, b""))
                model.add_dummy_prefix = bool(spec.get(3, True))
                model.remove_extra_whitespaces = bool(spec.get(4, True))
    except (IndexError, ValueError, TypeError, struct.error) as error:
        raise TokenizerError(f"{origin} is no SentencePiece model, or damaged ({error}). Fetch it again.") from None
    if model.kind not in (UNIGRAM, BPE) or not model.pieces:
        raise TokenizerError(f"{origin} has {len(model.pieces)} pieces of model type {model.kind}; expected 1 or 2.")
    return model


def build(folder: Folder, settings: dict[str, Any], family: Family) -> RustTokenizer:
    """Build the tokenizer of a SentencePiece model.

    Args:
        folder: where the file is, under any name that ends in .model.
        settings: `add_prefix_space` (as the model says) and `legacy` (True) of BPE models; `do_lower_case` (False),
            `keep_accents` (ALBERT, XLNet), `extra_ids` (T5), `offset` (Pegasus), `language_codes` (M2M-100, PLBart),
            `split_at_whitespace` (True: white space that the model's own normalizer keeps separates words too, as the
            published tokenizers of most families have it).
        family: what stands before and after the model's own pieces.

    Raises:
        MissingFileError: if there is no such file.
        TokenizerError: if it is broken.
    """
    name = model_file(folder)
    origin = str(folder.path / name)
    model = read_model(folder.read_bytes(name), origin)
    head, tail = family.options.get("head", ()), family.options.get("tail", ())
    replaced = family.options.get("replaced", 0)
    if "offset" in settings:
        head, replaced = _pegasus_head(settings, origin)
    if kind := language_kind(family, settings):
        tail = (*language_tokens(kind).values(), *(tail if kind != "multi" else ()))
    own = model.pieces[replaced:]
    extra = reversed(sentinels(settings.get("extra_ids", 0)))
    known = {piece for piece, _, _ in own}
    before = [(piece, 0.0, CONTROL) for piece in head]
    after = [(piece, 0.0, CONTROL) for piece in (*tail, *extra) if piece not in known]
    pieces = [*before, *own, *after]
    rust = _from_pieces(model, pieces, settings, origin)
    roles = {settings.get(name) for name in family.special}  # which are added later, as the family has them
    rust.add_tokens(
        [
            AddedToken(piece, special=kind != USER_DEFINED, normalized=_SPACE in piece)  # normalized: after " " -> "_"
            for piece, _, kind in [*own, *after]
            if kind in (UNKNOWN, CONTROL, USER_DEFINED) and piece not in roles
        ]
    )
    return rust


def build_cutter(data: bytes, origin: str, special: Iterable[str]) -> tuple[RustTokenizer, dict[str, str | None]]:
    """Build a tokenizer that cuts texts as the library does, for vocabularies that give the pieces other ids.

    Args:
        data: the content of a `.model` or `.spm` file.
        origin: its path, for messages.
        special: tokens that are looked for before the model's pieces.

    Returns:
        The tokenizer, and the piece of each of its tokens; None for what stands for the unknown.

    Raises:
        TokenizerError: if the content is broken.
    """
    model = read_model(data, origin)
    pieces, plain = [], {}
    for piece, score, kind in model.pieces:
        token = piece if kind in (NORMAL, USER_DEFINED, BYTE) else f"{_HIDDEN}{piece}"
        pieces.append((token, score, kind))
        plain[token] = None if kind == UNKNOWN else piece
    rust = _from_pieces(model, pieces, {"split_at_whitespace": False}, origin)
    own = [AddedToken(piece, special=False, normalized=_SPACE in piece) for piece, _, k in pieces if k == USER_DEFINED]
    rust.add_tokens([*own, *(AddedToken(token, special=True, normalized=False) for token in special)])
    return rust, plain


def sentinels(count: Any) -> list[str]:
    """Return the tokens that stand for what T5 is to fill in.

    Raises:
        TokenizerError: if the number of them, the setting `extra_ids`, is impossible.
    """
    if not isinstance(count, int) or not 0 <= count <= 10_000:
        raise TokenizerError(f"extra_ids is {count!r}. Expected a number up to 10,000.")
    return [f"<extra_id_{index}>" for index in range(count)]


def unnamed_tokens(family: Family, settings: dict[str, Any], origin: str) -> list[str]:
    """Return the special tokens without a role that a family has by its settings, in the order of the original.

    Raises:
        TokenizerError: if a setting is impossible.
    """
    found = list(sentinels(settings.get("extra_ids", 0)))
    if "offset" in settings:
        head, _ = _pegasus_head(settings, origin)
        found += [piece for piece in head[2:] if piece != settings["mask_token"]]
    kind = language_kind(family, settings)
    return [*found, *(language_tokens(kind).values() if kind else ())]


def model_file(folder: Folder) -> str:
    """Return the name of the vocabulary in one file: SentencePiece's or tiktoken's.

    Raises:
        MissingFileError: if there is none, or several.
    """
    found = [name for name in folder.names() if name.endswith((".model", ".spm", ".tiktoken"))]
    if len(found) != 1:
        which = f"several vocabularies ({', '.join(found)})" if found else "no vocabulary (*.model, *.spm, *.tiktoken)"
        raise MissingFileError(f"{folder.path} has {which}. Expected one. Its files: {', '.join(folder.names())}.")
    return found[0]


def _pegasus_head(settings: dict[str, Any], origin: str) -> tuple[tuple[str, ...], int]:
    """Return the pieces before the model's own, and how many of those they stand for."""
    offset, sentence = settings["offset"], settings.get("mask_token_sent", "<mask_1>")
    if not isinstance(offset, int) or not (offset == 0 or 3 <= offset <= 10_000):
        raise TokenizerError(f"{origin}: offset is {offset!r}; expected 0, or 3 to 10,000, and 103 is usual.")
    if offset == 0 or sentence is None:
        return (), 0
    masks = (settings["pad_token"], settings["eos_token"], sentence, settings["mask_token"])
    return (*masks, *(f"<unk_{i}>" for i in range(2, offset))), 2


def _from_pieces(
    model: SentencePieceModel, pieces: list[tuple[str, float, int]], settings: dict[str, Any], origin: str
) -> RustTokenizer:
    return _unigram(model, pieces, settings, origin) if model.kind == UNIGRAM else build_bpe(model, pieces, settings)


def _unigram(
    model: SentencePieceModel, pieces: list[tuple[str, float, int]], settings: dict[str, Any], origin: str
) -> RustTokenizer:
    unknown = next((piece for piece, _, kind in model.pieces if kind == UNKNOWN), None)
    texts = [piece.removeprefix(_HIDDEN) for piece, _, _ in pieces]
    if unknown not in texts:
        raise TokenizerError(f"{origin} has no unknown piece.")
    scored = [(piece, score) for piece, score, _ in pieces]
    rust = RustTokenizer(models.Unigram(scored, texts.index(unknown), model.byte_fallback))
    steps: list[Any] = []
    if "keep_accents" in settings:  # ALBERT and XLNet wrote their own steps before the model's
        steps += [normalizers.Replace("``", '"'), normalizers.Replace("''", '"')]
        if not settings["keep_accents"]:
            steps += [normalizers.NFKD(), normalizers.StripAccents()]
    if settings.get("do_lower_case"):
        steps.append(normalizers.Lowercase())
    if model.charsmap:
        steps.append(normalizers.Precompiled(model.charsmap))
    space = pre_tokenizers.Metaspace(_SPACE, "always" if model.add_dummy_prefix else "never")
    rust.pre_tokenizer = space
    if model.remove_extra_whitespaces and settings.get("split_at_whitespace", True):
        rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), space])
    elif model.remove_extra_whitespaces:
        steps += _single_spaces()
    if steps:
        rust.normalizer = normalizers.Sequence(steps)
    rust.decoder = decoders.Metaspace(_SPACE, "always" if model.add_dummy_prefix else "never")
    if model.byte_fallback:
        rust.decoder = _byte_decoder(model.add_dummy_prefix)
    return rust


def build_bpe(
    model: SentencePieceModel, pieces: list[tuple[str, float, int]], settings: dict[str, Any]
) -> RustTokenizer:
    """Build a tokenizer that merges pieces by their scores.

    Args:
        model: how texts are normalised.
        pieces: text, score and kind of each token, by id.
        settings: as in `build`.
    """
    vocabulary = {piece: id for id, (piece, _, _) in enumerate(pieces)}
    unknown = next((piece for piece, _, kind in (*pieces, *model.pieces) if kind == UNKNOWN), None)
    rust = RustTokenizer(
        models.BPE(
            vocabulary,
            _merges(pieces, vocabulary),
            unk_token=unknown if unknown in vocabulary else None,
            fuse_unk=True,
            byte_fallback=model.byte_fallback,
        )
    )
    prefix = settings.get("add_prefix_space", model.add_dummy_prefix)
    steps: list[Any] = [normalizers.Precompiled(model.charsmap)] if model.charsmap else []
    if model.remove_extra_whitespaces:
        steps += _single_spaces()
    if prefix and settings.get("legacy") is False:  # newer checkpoints: no space after a special token inside a text
        rust.pre_tokenizer = pre_tokenizers.Metaspace(_SPACE, "first", split=False)
    else:
        steps += [normalizers.Prepend(_SPACE)] if prefix else []
        steps += [normalizers.Replace(" ", _SPACE)]
    if steps:
        rust.normalizer = normalizers.Sequence(steps)
    rust.decoder = _byte_decoder(bool(prefix))
    return rust


def _single_spaces() -> list[normalizers.Normalizer]:
    return [normalizers.Replace(Regex(r"\A +| +\z"), ""), normalizers.Replace(Regex(" {2,}"), " ")]


def _byte_decoder(strip: bool) -> decoders.Decoder:
    steps: list[Any] = [decoders.Replace(_SPACE, " "), decoders.ByteFallback(), decoders.Fuse()]
    return decoders.Sequence([*steps, decoders.Strip(" ", 1, 0)] if strip else steps)


def _merges(pieces: list[tuple[str, float, int]], vocabulary: dict[str, int]) -> list[tuple[str, str]]:
    """Return the pairs that make up each piece, best piece first.

    SentencePiece joins the neighbours whose joint piece has the best score; the library wants a ranked list of pairs.
    """
    ranked = []
    for piece, score, kind in pieces:
        if kind != NORMAL:
            continue
        for cut in range(1, len(piece)):
            left, right = vocabulary.get(piece[:cut]), vocabulary.get(piece[cut:])
            if left is not None and right is not None:
                ranked.append((-score, left, right, piece[:cut], piece[cut:]))
    ranked.sort()
    return [(left, right) for _, _, _, left, right in ranked]


def _read_piece(data: bytes | int) -> tuple[str, float, int]:
    text, score, kind = "", 0.0, NORMAL
    for number, value in _fields(data):
        if number == 1:
            text = bytes(value).decode()
        elif number == 2:
            (score,) = struct.unpack("<f", value)  # pyright: ignore[reportArgumentType]
        elif number == 3:
            kind = int(value)
    return text, score, kind


def _fields(data: Any) -> Iterator[tuple[int, Any]]:
    """Yield (number, value) of each field of a protocol buffer; a value is an integer, or bytes."""
    place, end = 0, len(data)
    while place < end:
        key, place = _varint(data, place)
        kind = key & 7
        if kind == 0:
            value, place = _varint(data, place)
            yield key >> 3, value
            continue
        if kind == 2:
            size, place = _varint(data, place)
        else:
            size = {1: 8, 5: 4}[kind] if kind in (1, 5) else -1
        if size < 0 or place + size > end:
            raise ValueError(f"a field ends after the data, at byte {place}")
        yield key >> 3, data[place : place + size]
        place += size


def _varint(data: bytes, place: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[place]
        place += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, place
        shift += 7
        if shift > 63:
            raise ValueError(f"a number is too long, at byte {place}")
