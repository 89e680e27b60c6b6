"""The texts given to a tokenizer call: one or many, single or in pairs, whole or in words."""

import re
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from pellucid.errors import InputError

_SURROGATE = re.compile("[\ud800-\udfff]")

_EXPECTED = (
    "Expected a text (str), a list of texts, or a list of pairs of texts; with is_split_into_words=True a list of "
    "words, or a list of such lists."
)


class Inputs(NamedTuple):
    """Texts in the form that the `tokenizers` library takes."""

    rows: list[Any]
    """What to encode, row by row: a text or a pair of texts; a text is a str or a list of words."""
    batched: bool
    """Whether a list of texts was given (True), or one (False)."""
    paired: bool
    """Whether the rows are pairs."""
    split: bool
    """Whether texts are lists of words."""


def read_inputs(text: Any, pair: Any, split: bool) -> Inputs:
    """Bring the first two arguments of a tokenizer call into one form.

    Raises:
        InputError: if the two do not fit together, or are not texts at all; what is inside lists is not looked at.
    """
    if isinstance(text, str) and not split:
        if pair is None:
            return Inputs([text], False, False, False)
        if not isinstance(pair, str):
            raise InputError(f"text is one text, so text_pair must be one too, but it is {_describe(pair)}.")
        return Inputs([(text, pair)], False, True, False)
    text = _as_list(text, "text")
    batched = not split or (bool(text) and not isinstance(text[0], str))
    if pair is None:
        paired = batched and not split and bool(text) and not isinstance(text[0], str)
        return Inputs(text if batched else [text], batched, paired, split)
    pair = _as_list(pair, "text_pair")
    if not batched:
        return Inputs([(text, pair)], False, True, split)
    if len(text) != len(pair):
        raise InputError(f"text has {len(text)} items and text_pair {len(pair)}. Give one pair for each text.")
    return Inputs(list(zip(text, pair, strict=True)), True, True, split)


def refuse_inputs(inputs: Inputs) -> None:
    """Raise for the first row that is not what a tokenizer can read; return if all are.

    Raises:
        InputError: naming the row, and what is wrong with it.
    """
    for index, row in enumerate(inputs.rows):
        where = f"item {index} of the texts" if inputs.batched else "the text"
        is_pair = isinstance(row, (list, tuple)) and (inputs.paired or not inputs.split)
        if is_pair and len(row) != 2:
            raise InputError(f"{where} is a list of {len(row)} items. {_EXPECTED}")
        for part in row if is_pair else (row,):
            if not inputs.split:
                _refuse_text(part, where)
            elif isinstance(part, str) or not isinstance(part, Iterable):
                raise InputError(
                    f"{where} is {_describe(part)}, and is_split_into_words=True asks for a list of words."
                )
            else:
                for word in part:
                    _refuse_text(word, f"a word of {where}")


def _refuse_text(text: Any, where: str) -> None:
    if not isinstance(text, str):
        raise InputError(f"{where} is {_describe(text)}. {_EXPECTED}")
    if found := _SURROGATE.search(text):
        raise InputError(
            f"{where} has the lone surrogate U+{ord(found[0]):04X} at character {found.start()}, which is no Unicode "
            "text and comes from a faulty decoding. Decode the source with errors='replace', or take the character out."
        )


def _as_list(value: Any, name: str) -> list[Any]:
    if isinstance(value, list):
        return value
    if isinstance(value, Iterable) and not isinstance(value, (str, bytes, bytearray, Mapping)):
        return list(value)
    raise InputError(f"{name} is {_describe(value)}. {_EXPECTED}")


def _describe(value: Any) -> str:
    if value is None:
        return "None"
    shown = repr(value)
    return f"{shown if len(shown) < 60 else shown[:57] + '...'} ({type(value).__name__})"
