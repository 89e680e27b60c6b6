"""M2M-100: a SentencePiece model, a `vocab.json` that numbers its pieces, and a token for each language after them."""

from typing import Any

from tokenizers import decoders

from pellucid.errors import TokenizerError
from pellucid.folder import Folder

from .engine import Engine
from .families import Family
from .languages import language_kind, language_tokens
from .renumbered import RenumberedEngine, read_ids, vocabulary
from .sentencepiece import build_cutter, model_file


def build(folder: Folder, settings: dict[str, Any], family: Family) -> Engine:
    """Build the tokenizer of a `sentencepiece.bpe.model` and a `vocab.json`.

    Args:
        folder: where the files are.
        settings: `language_codes` ("m2m100"), and the special tokens.
        family: which of them there are.

    Raises:
        TokenizerError: if the files are broken, or lack a special token.
    """
    special = [str(settings[role]) for role in family.special]
    ids, name = read_ids(folder, "vocab.json", special), model_file(folder)
    if sorted(ids.values()) != list(range(len(ids))):
        raise TokenizerError(f"{folder.path / 'vocab.json'} skips ids; the languages' tokens come after the last.")
    files = {name: folder.read_bytes(name), "vocab.json": folder.read_bytes("vocab.json")}
    languages = list(language_tokens(language_kind(family, settings) or "m2m100").values())
    cutter, pieces = build_cutter(files[name], str(folder.path / name), [*special, *languages])
    words = vocabulary(ids, str(settings["unk_token"]))
    words.add_special_tokens(languages)
    words.decoder = decoders.Metaspace()
    return RenumberedEngine(words, Engine(cutter), pieces, ids[str(settings["unk_token"])], files)
