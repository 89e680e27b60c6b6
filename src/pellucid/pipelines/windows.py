"""Pieces of tokens, and how a text that is longer than the model reads is cut into overlapping ones."""

from collections.abc import Sequence
from typing import Any

from ..errors import InputError
from ..tokenizer import Tokenizer

# The tokens of a text, as lists of one value a token: the tokenizer's columns, and `part`, which text of a pair a token
# belongs to (None for special tokens), `word`, which word, and `span`, which characters. Then a few values about the
# whole, among them `first`, the number of the piece's first token within the part that was cut.
Piece = dict[str, Any]


def tokenize(tokenizer: Tokenizer, text: str | list[str], pair: str | list[str] | None = None, **options: Any) -> Piece:
    """Turn a text or a pair into one piece, however long."""
    encoded = tokenizer(text, pair, return_offsets_mapping=True, **options)
    piece = dict(encoded)
    piece["span"] = piece.pop("offset_mapping")
    return piece | {"part": encoded.sequence_ids(0), "word": encoded.word_ids(0), "first": 0}


def cut(piece: Piece, part: int, *, limit: int | None, overlap: int) -> list[Piece]:
    """Cut one part of a piece into windows; special tokens and the other part stand in each of them.

    Args:
        piece: from `tokenize`.
        part: 0 for a text or the first of a pair, 1 for the second.
        limit: tokens of a window; None for any number.
        overlap: tokens that neighbouring windows share, at most half of one; the last is moved back to be full.

    Raises:
        InputError: if the rest alone fills the limit.
    """
    places = [i for i, of in enumerate(piece["part"]) if of == part]
    size = len(piece["part"])
    if limit is None or size <= limit or not places:
        return [piece]
    begin, end = places[0], places[-1] + 1
    room = limit - (size - (end - begin))  # tokens of the part in each window
    if room < 1:
        raise InputError(
            f"What stands beside the long text has {size - (end - begin)} tokens, a window {limit} in all; shorten it."
        )
    step = max(room - overlap, (room + 1) // 2)
    starts = [*range(begin, end - room, step), end - room]
    return [_window(piece, begin, start, start + room, end) for start in starts]


def _window(piece: Piece, begin: int, start: int, stop: int, end: int) -> Piece:
    columns = {name: column for name, column in piece.items() if isinstance(column, list)}
    window = {name: column[:begin] + column[start:stop] + column[end:] for name, column in columns.items()}
    return piece | window | {"first": start - begin}


def join(pieces: Sequence[Piece], rows: Sequence[Any], part: int = 0) -> list[tuple[Piece, int, Any]]:
    """Put the windows of a text together again: (piece, place in it, row of the result) for each token of the part.

    Of a token that several windows show, the one counts that shows most to both sides of it.
    """
    best: dict[int, tuple[int, Piece, int, Any]] = {}
    for piece, row in zip(pieces, rows, strict=True):
        places = [i for i, of in enumerate(piece["part"]) if of == part]
        for number, place in enumerate(places):
            context = min(number, len(places) - 1 - number)
            token = piece["first"] + number
            if token not in best or context > best[token][0]:
                best[token] = (context, piece, place, row[place])
    return [best[token][1:] for token in sorted(best)]
