"""Blenderbot small: BPE over lower-case words; `@@` ends a token that does not end its word."""

from typing import Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from pellucid.folder import Folder

from .byte_level import read_merges
from .engine import Engine
from .families import Family
from .renumbered import RenumberedEngine, read_ids, vocabulary

_END = "</w>"


def build(folder: Folder, settings: dict[str, Any], family: Family) -> Engine:
    """Build the tokenizer of a `vocab.json` and a `merges.txt`.

    Args:
        folder: where the files are.
        settings: the special tokens.
        family: which of them there are.

    Raises:
        TokenizerError: if the files are broken, or lack a special token.
    """
    special = [str(settings[role]) for role in family.special]
    ids, merges = read_ids(folder, "vocab.json", special), read_merges(folder)
    parts = {part for token in ids for part in _letters(token)} | {part for merge in merges for part in merge}
    parts |= {"".join(merge) for merge in merges}
    parts |= {f"{letter}{_END}" for letter in parts if len(letter) == 1}
    # A word is made of parts of which the last says so; the vocabulary says it of all the others.
    pieces = {part: part.removesuffix(_END) if part.endswith(_END) else f"{part}@@" for part in parts}
    unknown = str(settings["unk_token"])
    numbers = {part: id for id, part in enumerate(["", *sorted(parts)])}
    cutter = RustTokenizer(models.BPE(numbers, merges, unk_token="", end_of_word_suffix=_END))
    cutter.normalizer = normalizers.Sequence(
        [normalizers.Replace(Regex(r"(?<=[^\s'])\n"), " __newln__ "), normalizers.Lowercase()]
    )
    cutter.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.WhitespaceSplit(),
            pre_tokenizers.Split(Regex("[.,!?()]"), "merged_with_next"),
            pre_tokenizers.Split(Regex("'"), "isolated"),
        ]
    )
    words = vocabulary(ids, unknown)
    words.decoder = decoders.Sequence(
        [
            decoders.Replace(Regex(r"(?<!@@)\z"), " "),
            decoders.Replace(Regex(r"@@\z"), ""),
            decoders.Fuse(),
            decoders.Replace(Regex(r" \z"), ""),
        ]
    )
    files = {name: folder.read_bytes(name) for name in ("vocab.json", "merges.txt")}
    return RenumberedEngine(words, Engine(cutter), pieces, ids[unknown], files)


def _letters(token: str) -> list[str]:
    return list(token.removesuffix("@@"))
