"""Rows of ids that are tokenized already, brought to one length."""

from collections.abc import Mapping, Sequence
from typing import Any

from pellucid.errors import InputError

from .engine import Padding


def pad_rows(encoded: Any, fill: Padding | None, mask: bool) -> dict[str, Any]:
    """Fill up the inputs that have one value a token.

    Args:
        encoded: a list of dictionaries, one a row; or one dictionary of lists of rows, or of a single row.
        fill: how; None changes no length.
        mask: whether to return "attention_mask" even if it is absent.

    Raises:
        InputError: if `encoded` is something else, or has no "input_ids".
    """
    if isinstance(encoded, Sequence) and not isinstance(encoded, (str, bytes)):
        for index, row in enumerate(encoded):
            if not isinstance(row, Mapping) or row.keys() != encoded[0].keys():
                raise InputError(f"row {index} to pad is not a dictionary with the same names as row 0.")
        encoded = {name: [row[name] for row in encoded] for name in (encoded[0] if encoded else ["input_ids"])}
    if not isinstance(encoded, Mapping) or "input_ids" not in encoded:
        has = ", ".join(map(repr, encoded)) if isinstance(encoded, Mapping) else repr(type(encoded).__name__)
        raise InputError(f"pad() needs dictionaries with 'input_ids'; what it was given has {has}.")
    columns = {name: _as_lists(value) for name, value in encoded.items()}
    single = bool(columns["input_ids"]) and not isinstance(columns["input_ids"][0], list)
    if single:
        columns = {name: [value] for name, value in columns.items()}
    lengths = [len(row) for row in columns["input_ids"]]
    if mask and "attention_mask" not in columns:
        columns["attention_mask"] = [[1] * length for length in lengths]
    if fill is not None and lengths:
        target = max(lengths) if fill.length is None else fill.length
        multiple = fill.pad_to_multiple_of or 1
        target = -(-target // multiple) * multiple
        fillers = {
            "input_ids": fill.pad_id,
            "attention_mask": 0,
            "token_type_ids": fill.pad_type_id,
            "special_tokens_mask": 1,
        }
        for name in fillers.keys() & columns.keys():
            columns[name] = [_fill(row, target, fillers[name], fill.direction) for row in columns[name]]
    return {name: rows[0] for name, rows in columns.items()} if single else columns


def _fill(row: list[Any], target: int, filler: int, side: str) -> list[Any]:
    missing = [filler] * (target - len(row))
    return row + missing if side == "right" else missing + row


def _as_lists(value: Any) -> Any:
    """Turn tensors, and lists of tensors, into lists."""
    if hasattr(value, "tolist"):
        return value.tolist()
    if isinstance(value, (list, tuple)):
        return [item.tolist() if hasattr(item, "tolist") else item for item in value]
    return value
