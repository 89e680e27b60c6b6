"""Tables: CSV, JSON, Parquet, CoNLL and plain text files become a list of dictionaries, one a row."""

import csv
import io
import json
import os
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from itertools import groupby
from pathlib import Path
from typing import Any

from ..errors import InputError, MissingPackageError, did_you_mean

TAGGED = (".conll", ".iob", ".iob2", ".bio")
KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".parquet", ".txt", *TAGGED)
DOCUMENT_START = "-DOCSTART-"

Row = Mapping[str, Any]


def read_table(data: "str | os.PathLike | Iterable[Row]", *, tagged: bool = False) -> list[Row]:
    """Read a table.

    Args:
        data: a file, whose ending says what it is; or dictionaries, such as a `datasets.Dataset`.
        tagged: whether a .txt file has a word and its tag on each line; it has texts otherwise, with blank lines
            between them, or one a line where no line is blank.

    Raises:
        InputError: if there is no such file, it is empty or broken, with the line.
        MissingPackageError: for Parquet without pyarrow.
    """
    if not isinstance(data, str | os.PathLike):
        rows = list(data)
        wrong = next((i for i, row in enumerate(rows, 1) if not isinstance(row, Mapping)), None)
        if wrong is not None:
            raise InputError(f"Row {wrong} of the data is {rows[wrong - 1]!r:.60}; expected a dictionary of columns.")
    else:
        rows = _read_file(Path(data), tagged)
    if not rows:
        raise InputError(f"{_name(data)} has no rows; expected at least two.")
    return rows


def find_column(rows: Sequence[Row], argument: str, usual: Sequence[str], given: str | None = None) -> str:
    """Return the name of a column.

    Args:
        rows: the table.
        argument: what users name the column with.
        usual: names to look for, the likeliest first; case does not matter.
        given: what the user said.

    Raises:
        InputError: if there is no such column, or a row does not have it; with the nearest name.
    """
    names = [name for name in rows[0] if isinstance(name, str)]
    there = f"The columns are: {', '.join(map(repr, names))}."
    if given is None:
        lower = {name.lower(): name for name in reversed(names)}
        given = next((lower[name] for name in usual if name in lower), None)
        if given is None:
            nearest = next(filter(None, (did_you_mean(name, names) for name in usual)), "")
            expected = " or ".join(map(repr, usual))
            raise InputError(f"No column is called {expected}{nearest or '.'} {there} Name it with {argument}=.")
    elif given not in names:
        raise InputError(f"{argument} is {given!r}, which is no column{did_you_mean(given, names) or '.'} {there}")
    lacking = [i for i, row in enumerate(rows, 1) if given not in row]
    if lacking:
        raise InputError(f"Column {given!r} is missing in row {_listed(lacking)}; give every row all columns.")
    return given


def texts_of(rows: Sequence[Row], column: str) -> list[str]:
    """Return a column of texts.

    Raises:
        InputError: if one is empty or no text, with the rows.
    """
    values = [row[column] for row in rows]
    for fault, rule in (("is no text", lambda v: isinstance(v, str)), ("is empty", lambda v: bool(v.strip()))):
        wrong = [i for i, value in enumerate(values, 1) if not rule(value)]
        if wrong:
            raise InputError(f"Column {column!r} {fault} in row {_listed(wrong)}; correct or remove these rows.")
    return values


def classes_of(rows: Sequence[Row], column: str) -> list[str]:
    """Return a column of classes, which may be texts, whole numbers or booleans, as texts.

    Raises:
        InputError: if some are missing, of another kind, or of several kinds; with the rows.
    """
    return same_kind([(i, row[column]) for i, row in enumerate(rows, 1)], column)


def scores_of(rows: Sequence[Row], column: str) -> list[float]:
    """Return a column of numbers from 0 to 1, which files may hold as texts.

    Raises:
        InputError: if one is no such number, with its row.
    """
    scores: list[float] = []
    for i, row in enumerate(rows, 1):
        value = row[column]
        with suppress(ValueError):
            value = float(value) if isinstance(value, str | int | float) else value
        if not isinstance(value, float) or not 0 <= value <= 1:
            raise InputError(
                f"Column {column!r} is {row[column]!r:.60} in row {i}; expected numbers from 0 (unlike) to 1 (alike). "
                "Divide other scales by their largest value."
            )
        scores.append(value)
    return scores


def same_kind(values: Iterable[tuple[int, Any]], column: str) -> list[str]:
    """Return values, each with its row, as texts, if they are of one kind."""
    values = list(values)
    missing = [i for i, value in values if value is None or value != value or not str(value).strip()]
    if missing:
        raise InputError(f"Column {column!r} is empty in row {_listed(missing)}; correct or remove these rows.")
    first: dict[str, int] = {}
    for i, value in values:
        first.setdefault(type(value).__name__, i)
    if len(first) > 1:
        found = " and ".join(f"{kind} (row {i})" for kind, i in first.items())
        raise InputError(f"Column {column!r} mixes {found}; write all labels in one way.")
    if values and not isinstance(values[0][1], str | int):
        raise InputError(f"Column {column!r} holds {values[0][1]!r:.60}; expected labels, as texts or whole numbers.")
    return [str(value).strip() for _, value in values]


def in_order(names: Iterable[str]) -> list[str]:
    """Return names once each: numbers by size, other names by letter."""
    different = sorted(set(names))
    return sorted(different, key=int) if all(name.isdecimal() for name in different) else different


# --- files ------------------------------------------------------------------------------------------------------------


def _read_file(path: Path, tagged: bool) -> list[Row]:
    kind = path.suffix.lower()
    if kind not in KINDS:
        raise InputError(
            f"{path} ends in {kind!r}; expected one of {', '.join(KINDS)}{did_you_mean(kind, KINDS) or '.'}"
        )
    if not path.is_file():
        beside = [entry.name for entry in path.parent.iterdir()] if path.parent.is_dir() else []
        raise InputError(f"There is no file {path}{did_you_mean(path.name, beside) or '.'}")
    if kind == ".parquet":
        return _parquet(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8: {error.reason} at byte {error.start}; save it as UTF-8.") from None
    except OSError as error:
        raise InputError(f"{path} can not be read: {error}.") from None
    if kind in (".csv", ".tsv"):
        return _separated(text, path)
    if kind == ".json":
        return _json(text, path)
    if kind in (".jsonl", ".ndjson"):
        return [_object(line, path, i) for i, line in enumerate(text.split("\n"), 1) if line.strip()]
    return _tagged(text, path) if tagged or kind in TAGGED else _plain(text)


def _separated(text: str, path: Path) -> list[Row]:
    """Read CSV; the separator is the one that the first line has most of."""
    header = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text), delimiter=max(",;\t", key=header.count), strict=True)
    rows: list[Row] = []
    try:
        twice = [name for name, count in Counter(reader.fieldnames or ()).items() if count > 1]
        if twice:
            raise InputError(f"{path}: {twice[0]!r} is the name of several columns; give each its own.")
        for row in reader:
            if None in row or None in row.values():
                count, found = len(reader.fieldnames or ()), "more" if None in row else "fewer"
                raise InputError(
                    f"{path}, line {reader.line_num}: {found} cells than the {count} columns of the first line; put "
                    "texts that contain the separator between quotes."
                )
            rows.append(row)
    except csv.Error as error:
        raise InputError(f"{path}, line {reader.reader.line_num}: {error}; correct it, or give JSON Lines.") from None
    return rows


def _object(line: str, path: Path, number: int) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InputError(f"{path}, line {number}: {error}; expected one JSON object a line.") from None
    if not isinstance(row, dict):
        raise InputError(f"{path}, line {number}: {line!r:.60} is no JSON object; expected one a line.")
    return row


def _json(text: str, path: Path) -> list[Row]:
    """Read a list of objects, which may be called "data", as in SQuAD's files."""
    try:
        value = json.loads(text) if text.strip() else []
    except ValueError as error:
        raise InputError(f"{path}: {error}; lines of one object each belong into a .jsonl file.") from None
    value = value.get("data") if isinstance(value, dict) else value
    if not isinstance(value, list) or not all(isinstance(row, dict) for row in value):
        raise InputError(f"{path} has no list of objects; expected one, alone or as 'data'.")
    return value


def _parquet(path: Path) -> list[Row]:
    try:
        from pyarrow import parquet  # type: ignore[import-not-found]
    except ImportError:
        raise MissingPackageError(f"{path.name} needs pyarrow: pip install 'pellucid[train]'.") from None
    try:
        return parquet.read_table(path).to_pylist()
    except (OSError, ValueError) as error:
        raise InputError(f"{path} can not be read as Parquet: {error}.") from None


def _blocks(lines: Iterable[str]) -> list[list[str]]:
    return [list(block) for filled, block in groupby(lines, key=lambda line: bool(line.strip())) if filled]


def _plain(text: str) -> list[Row]:
    blocks = _blocks(text.split("\n"))
    texts = ["\n".join(block) for block in blocks] if len(blocks) > 1 else [line for lines in blocks for line in lines]
    return [{"text": part} for part in texts]


def _tagged(text: str, path: Path) -> list[Row]:
    """Read CoNLL: a word first and its tag last on a line, a blank line after each sentence."""
    rows: list[Row] = []
    numbered = [f"{i} {line}" if line.strip() else "" for i, line in enumerate(text.split("\n"), 1)]
    for block in _blocks(numbered):
        words, tags = [], []
        for number, line in (entry.split(" ", 1) for entry in block):
            cells = line.strip().split("\t") if "\t" in line else line.split()
            if cells[0] == DOCUMENT_START:
                continue
            if len(cells) < 2:
                raise InputError(f"{path}, line {number}: {line!r:.60} is no word with a tag behind it.")
            words.append(cells[0])
            tags.append(cells[-1].strip())
        rows += [{"tokens": words, "tags": tags}] if words else []
    return rows


def _name(data: Any) -> str:
    return str(data) if isinstance(data, str | os.PathLike) else "The data"


def _listed(numbers: Sequence[int]) -> str:
    return ", ".join(map(str, numbers[:8])) + (f" and {len(numbers) - 8} more" if len(numbers) > 8 else "")
