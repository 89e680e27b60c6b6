"""Marian: a SentencePiece model for each of two languages, and a `vocab.json` of both."""

from typing import Any

from tokenizers import AddedToken, decoders

from pellucid.errors import InputError, did_you_mean
from pellucid.folder import Folder

from .engine import Engine, Padding, Truncation
from .families import Family
from .inputs import Inputs
from .renumbered import RenumberedEngine, read_ids, vocabulary
from .sentencepiece import build_cutter

_MARK = "\ufdd0"  # no character; in a language code it stands for the first ">", so that only a text's start gives one


class MarianEngine(RenumberedEngine):
    """Texts of one language; `>>fr<<` before a text asks for a translation into that language."""

    @property
    def codes(self) -> list[str]:
        """The languages that the model writes, `>>fr<<` and so on; empty if it is one, which needs no code."""
        return [piece for token, piece in self._pieces.items() if token[0] == _MARK and piece is not None]

    def encode(
        self, inputs: Inputs, *, truncation: Truncation | None, padding: Padding | None, add_special_tokens: bool
    ) -> list[Any]:
        """Encode every row; as `Engine.encode`.

        Raises:
            InputError: if a text begins with a language that the model does not write.
        """
        if any(_is_coded(row) for row in inputs.rows) and (codes := self.codes):
            inputs = inputs._replace(rows=[self._marked(row, codes) for row in inputs.rows])
        options: dict[str, Any] = {"padding": padding, "add_special_tokens": add_special_tokens}
        return super().encode(inputs, truncation=truncation, **options)

    def _marked(self, row: Any, codes: list[str]) -> Any:
        if not _is_coded(row):
            return row
        if isinstance(row, tuple | list):
            return type(row)([self._marked(row[0], codes), *row[1:]])
        code = row[: row.find("<<") + 2]
        if code not in codes:
            raise InputError(
                f"{code!r} is no language of this tokenizer{did_you_mean(code, codes) or '.'} It has {len(codes)}: "
                f"{', '.join(codes[:20])}{', ...' if len(codes) > 20 else ''}."
            )
        return _MARK + row[1:]


def _is_coded(row: Any) -> bool:
    """Tell whether a text, or the first of a pair, begins with a word between `>>` and `<<`."""
    text = row[0] if isinstance(row, tuple | list) and row else row
    return (
        isinstance(text, str) and text.startswith(">>") and len(text[: text.find("<<")].split()) == 1 and "<<" in text
    )


def build(folder: Folder, settings: dict[str, Any], family: Family) -> Engine:
    """Build the tokenizer of a `source.spm`, a `target.spm`, a `vocab.json` and perhaps a `target_vocab.json`.

    Args:
        folder: where the files are.
        settings: `separate_vocabs` (False), and the special tokens.
        family: which of them there are.

    Raises:
        TokenizerError: if the files are broken, or lack a special token.
    """
    separate = bool(settings.get("separate_vocabs"))
    names = ["source.spm", "target.spm", "vocab.json"] + (["target_vocab.json"] if separate else [])
    files = {name: folder.read_bytes(name) for name in names}
    special = [str(settings[role]) for role in family.special]
    target = _side(folder, files, "target.spm", names[-1], special, settings)
    return _side(folder, files, "source.spm", "vocab.json", special, settings, target=target)


def _side(
    folder: Folder,
    files: dict[str, bytes],
    model: str,
    ids: str,
    special: list[str],
    settings: dict[str, Any],
    *,
    target: MarianEngine | None = None,
) -> MarianEngine:
    """Build the engine of one language."""
    known = read_ids(folder, ids, special)
    rust, pieces = build_cutter(files[model], str(folder.path / model), special)
    codes = [token for token in known if token.startswith(">>") and token.endswith("<<")]
    marked = {_MARK + code[1:]: code for code in codes}
    rust.add_tokens([AddedToken(token, normalized=False) for token in marked])
    words = vocabulary(known, str(settings["unk_token"]))
    words.decoder = decoders.Metaspace()
    return MarianEngine(words, Engine(rust), pieces | marked, known[str(settings["unk_token"])], files, target)
