"""Tokenizers from any vocabulary file that is not a tokenizer.json."""

from collections.abc import Callable, Mapping
from typing import Any

from tokenizers import Tokenizer as RustTokenizer

from pellucid.errors import TokenizerError
from pellucid.folder import Folder
from pellucid.gguf import GGUFFolder

from . import (
    blenderbot_small,
    byt5,
    byte_level,
    fsmt,
    gguf,
    m2m_100,
    marian,
    sentencepiece,
    tekken,
    tiktoken,
    wordpiece,
)
from .engine import Engine
from .families import Family, frame, template
from .renumbered import RenumberedEngine
from .special_tokens import plain, with_listed_tokens

_Builder = Callable[[Folder, dict[str, Any], Family], RustTokenizer | Engine]
_BUILDERS: dict[str, _Builder] = {
    "wordpiece": wordpiece.build,
    "byte_level": byte_level.build,
    "sentencepiece": sentencepiece.build,
    "tiktoken": tiktoken.build,
    "byt5": byt5.build,
    "marian": marian.build,
    "m2m_100": m2m_100.build,
    "blenderbot_small": blenderbot_small.build,
    "fsmt": fsmt.build,
}


def build(folder: Folder, settings: dict[str, Any], family: Family) -> tuple[Engine, dict[str, Any]]:
    """Build the tokenizer of a folder's vocabulary files.

    Args:
        folder: the files.
        settings: what files and the caller say about the tokenizer.
        family: what its class stands for.

    Returns:
        The tokenizer, and the settings with those that follow from the vocabulary.

    Raises:
        TokenizerError: if the files are broken, or of a kind that is not implemented.
    """
    if isinstance(folder, GGUFFolder):
        return Engine(gguf.build(folder)), settings
    builder, settings = _builder(folder, family, settings), {**family.defaults, **settings}
    roles = {**plain(family.special), **plain(settings)}
    built = builder(folder, roles, family)
    engine = built if isinstance(built, Engine) else Engine(built)
    if builder is tekken.build:
        settings = {**tekken.settings(engine.rust), **settings}
        roles = plain(settings)
    engine = with_listed_tokens(engine, folder, settings)
    engine = _framed(engine, family, roles, str(folder.path))
    settings.setdefault("extra_special_tokens", sentencepiece.unnamed_tokens(family, roles, str(folder.path)))
    return engine, settings


def _builder(folder: Folder, family: Family, settings: Mapping[str, Any]) -> _Builder:
    """Return the reader of the folder's vocabulary."""
    singles = [name for name in folder.names() if name.endswith((".tiktoken", ".model"))]
    if tekken.FILE in folder and not singles:
        return tekken.build
    if family.format in (None, "sentencepiece") and len(singles) == 1 and tiktoken.is_tiktoken(folder, singles[0]):
        return tiktoken.build
    if family.format is not None:
        return _BUILDERS[family.format]
    name = settings.get("tokenizer_class")
    raise TokenizerError(
        f"{folder.path} has no tokenizer.json, and "
        + (f"a {name} can not be built" if name else "without the name of its class none can be built")
        + f" from other files. Its files: {', '.join(folder.names())}. If you know its kind, load it as that: "
        "pellucid.BertTokenizer.from_pretrained(...) and the like."
    )


def _framed(engine: Engine, family: Family, settings: dict[str, Any], origin: str) -> Engine:
    """Put the special tokens of a family around texts; a language's are put there when it is known."""
    if isinstance(engine, RenumberedEngine) or "languages" in family.options:
        if "languages" in family.options:
            return engine
        return engine.framed(lambda rust: template(rust, family.single, family.pair, settings, origin))
    frame(engine.rust, family, settings, origin)
    return engine
