"""Tokenizers in and out of folders."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import normalizers, pre_tokenizers

from pellucid.errors import ArgumentError, InputError, TokenizerError, refuse_unknown
from pellucid.folder import Folder, rewrite

from . import wordpiece
from .engine import Engine
from .families import class_of_model, find_family, frame
from .special_tokens import plain, with_listed_tokens
from .tokenizer import SETTINGS, Tokenizer

T = TypeVar("T", bound=Tokenizer)

# Files of vocabularies in two parts, which no tokenizer.json can hold.
_OWN_FILES = {
    "marian": "source.spm",
    "m2m_100": "vocab.json",
    "blenderbot_small": "vocab.json",
    "fsmt": "vocab-src.json",
}
_BUILD_SETTINGS = (
    *("do_lower_case", "strip_accents", "tokenize_chinese_chars", "add_prefix_space", "add_bos_token", "add_eos_token"),
    *("legacy", "legacy_behaviour"),
)
_TEMPLATES = "additional_chat_templates"  # a folder of named ones
_FILE_NOTES = (
    "added_tokens_decoder",
    "special_tokens_map_file",
    "tokenizer_file",
    "backend",
    "is_local",
    "local_files_only",
)


class AutoTokenizer:
    """Loads a tokenizer by name, as the class that its files name."""

    def __init__(self) -> None:
        raise ArgumentError("AutoTokenizer is not made but loaded: AutoTokenizer.from_pretrained(name).")

    @staticmethod
    def from_pretrained(name_or_path: str | os.PathLike[str], **options: Any) -> Tokenizer:
        """Load a tokenizer from a folder, the cache or the Hub; see `Tokenizer.from_pretrained`.

        Args:
            name_or_path: a folder, or the name of a repository on the Hub.
            options: as in `Tokenizer.from_pretrained`; also `config`, the model's, for folders that do not say what
                their tokenizer is.

        Raises:
            ArgumentError: if an option does not exist.
            HubError: if the files can not be had.
            TokenizerError: if they are broken, or of a kind that is not implemented.
        """
        return load(Tokenizer, name_or_path, options)


def tokenizer_class(name: str) -> type[Tokenizer] | None:
    """Return the class of a name such as "BertTokenizer" or "GPT2TokenizerFast"; None if there is none."""
    family = find_family(name)
    if family is None or name == "Tokenizer":
        return None if family is None else Tokenizer
    if name not in _classes:
        doc = f"A `Tokenizer` with the habits of {name}."
        _classes[name] = type(name, (Tokenizer,), {"family": family, "__doc__": doc, "__module__": __package__})
    return _classes[name]


_classes: dict[str, type[Tokenizer]] = {}


def load(cls: type[T], name: str | os.PathLike[str], options: Mapping[str, Any]) -> T:
    """Load a tokenizer as `cls`, or, if that is `Tokenizer` itself, as the class that the files name."""
    from pellucid.hub import HubOptions, locate

    given = dict(options)
    hub = HubOptions.take(given)
    config = given.pop("config", None)
    refuse_unknown(f"{cls.__name__}.from_pretrained", given, (*SETTINGS, *_BUILD_SETTINGS, "config"))
    with locate(name, hub, want="tokenizer") as folder:
        given.setdefault("name_or_path", os.fspath(name))
        return from_folder(cls, folder, given, getattr(config, "model_type", None))


def from_folder(cls: type[T], folder: Folder, given: Mapping[str, Any], model_type: str | None = None) -> T:
    """Load a tokenizer from an open folder.

    Args:
        cls: the class; if `Tokenizer` itself, the files decide.
        folder: the files.
        given: settings that override those of the files.
        model_type: the model's type, if the caller knows it.

    Raises:
        TokenizerError: if the files are broken, or of a kind that is not implemented.
    """
    settings = {**_one_spelling(_read_settings(folder)), **_one_spelling(given)}
    if cls is Tokenizer:
        cls = _class_of(folder, settings, model_type)  # pyright: ignore[reportAssignmentType]
    family = cls.family
    for name in ("src_lang", "tgt_lang"):
        if given.get(name) is not None and "languages" not in family.options:
            raise InputError(f"{name} is {given[name]!r}, but {folder.path} has no languages; leave it out.")
    if "tokenizer.json" in folder and _OWN_FILES.get(family.format or "", "") not in folder:
        origin = str(folder.path / "tokenizer.json")
        engine = Engine.from_json(folder.read_bytes("tokenizer.json"), origin)
        _override(engine.rust, given, origin)
        engine = with_listed_tokens(engine, folder, settings)
        if "add_bos_token" in given or "add_eos_token" in given:
            roles = {**plain(family.special), **plain(settings)}
            frame(engine.rust, family, {**roles, **_framing(engine.rust, roles), **given}, origin)
    else:
        from .building import build  # the readers of all formats, which take longer to import than a file to read

        engine, settings = build(folder, settings, family)
    try:
        return cls._from_engine(engine, {name: value for name, value in settings.items() if name not in _FILE_NOTES})
    except (InputError, TypeError, AttributeError) as error:
        raise TokenizerError(f"{folder.path}: a setting of the tokenizer is impossible: {error}") from None


def save(tokenizer: Tokenizer, path: str | os.PathLike[str]) -> tuple[str, ...]:
    """Write a tokenizer's files into a folder, all or nothing, and return their paths."""
    settings = tokenizer.settings()
    template = settings.pop("chat_template", None)
    name = type(tokenizer).__name__
    settings.setdefault("tokenizer_class", "PreTrainedTokenizerFast" if name == "Tokenizer" else name)
    files = {
        "tokenizer_config.json": _json(settings),
        "special_tokens_map.json": _json(tokenizer.special_tokens_map),
    }
    vocabulary = tokenizer.vocabulary_files()
    if (own := tokenizer.family.options.get("file")) is not None:  # which the original looks for
        vocabulary |= wordpiece.files(tokenizer.backend_tokenizer, own)
    if isinstance(template, str):
        files["chat_template.jinja"] = template
    elif template:
        named = [{"name": name, "template": text} for name, text in template.items()]
        files["tokenizer_config.json"] = _json({**settings, "chat_template": named})
    stale = ("added_tokens.json", "chat_template.jinja", "tokenizer.json")
    with rewrite(path, replaces=lambda name: name in stale) as staging:
        for name, content in files.items():
            (staging / name).write_text(content, encoding="utf-8")
        for name, content in vocabulary.items():
            (staging / name).write_bytes(content)
    _remove_templates(Path(path) / _TEMPLATES)
    return tuple(os.path.join(os.fspath(path), name) for name in (*files, *vocabulary))


def _remove_templates(folder: Path) -> None:
    """Remove templates that an earlier tokenizer left; they would overrule what has been saved."""
    if folder.is_dir() and not folder.is_symlink():
        for file in folder.glob("*.jinja"):
            file.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, ensure_ascii=False, indent=2, sort_keys=True, default=str) + "\n"


def _read_settings(folder: Folder) -> dict[str, Any]:
    """Merge the files that describe a tokenizer; tokenizer_config.json has the last word, then files of templates."""
    settings: dict[str, Any] = {}
    for name in ("special_tokens_map.json", "tokenizer_config.json"):
        if name in folder:
            settings.update({key: value for key, value in folder.read_json(name).items() if value is not None})
    template = _read_templates(folder)
    if template is None:
        where = folder.path / "tokenizer_config.json"
        template = settings.pop("chat_template", None)
        if template is None and "chat_template.json" in folder:
            where = folder.path / "chat_template.json"
            template = folder.read_json("chat_template.json").get("chat_template")
        template = _named_templates(template, where)
    return {**settings, **({} if template is None else {"chat_template": template})}


def _read_templates(folder: Folder) -> str | dict[str, str] | None:
    """Return the chat templates that are files of their own: one, or several by name."""
    templates = {}
    if "chat_template.jinja" in folder:
        templates["default"] = folder.read_text("chat_template.jinja")
    if any((folder.path / _TEMPLATES).glob("*.jinja")):
        with Folder(folder.path / _TEMPLATES) as named:
            for name in named.names():
                if name.endswith(".jinja"):
                    templates[name.removesuffix(".jinja")] = named.read_text(name)
    return templates.get("default") if templates.keys() == {"default"} else templates or None


def _named_templates(template: Any, where: Path) -> str | dict[str, str] | None:
    """Read the value of `chat_template` in a JSON file: one template, or several with their names."""
    if isinstance(template, list):
        try:
            template = {entry["name"]: entry["template"] for entry in template}
        except (KeyError, TypeError):
            raise TokenizerError(f"{where}: an entry of chat_template lacks its 'name' or 'template'.") from None
    texts = template.values() if isinstance(template, dict) else () if template is None else (template,)
    if not all(isinstance(text, str) for text in texts):
        raise TokenizerError(
            f"{where}: chat_template is neither a text nor a list of objects with 'name' and 'template'."
        )
    return template or None


def _one_spelling(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return settings with the newer name of the special tokens without a role."""
    settings = dict(settings)
    if "additional_special_tokens" in settings:
        settings.setdefault("extra_special_tokens", settings.pop("additional_special_tokens"))
    return settings


def _class_of(folder: Folder, settings: dict[str, Any], model_type: str | None) -> type[Tokenizer]:
    """Return the class that the files name; without a name, the one that the model's type uses."""
    name = settings.get("tokenizer_class")
    if name is None and model_type is None and "config.json" in folder:
        config = folder.read_json("config.json")
        name, model_type = config.get("tokenizer_class"), config.get("model_type")
    return tokenizer_class(name or class_of_model(str(model_type)) or "Tokenizer") or Tokenizer


def _override(rust: RustTokenizer, given: Mapping[str, Any], origin: str) -> None:
    """Apply to a tokenizer.json what the caller asks for; what other files say does not change it."""
    fields = {
        "do_lower_case": "lowercase",
        "strip_accents": "strip_accents",
        "tokenize_chinese_chars": "handle_chinese_chars",
    }
    changes = {field: given[name] for name, field in fields.items() if name in given}
    normalizer = rust.normalizer
    if changes and not isinstance(normalizer, normalizers.BertNormalizer):
        asked = ", ".join(name for name in fields if name in given)
        raise TokenizerError(f"{origin} has no BertNormalizer, and {asked} can be applied to nothing else.")
    for field, value in changes.items():
        setattr(normalizer, field, value)
    if changes:
        rust.normalizer = normalizer
    if "add_prefix_space" in given:
        _set_prefix_space(rust, bool(given["add_prefix_space"]), origin)


def _framing(rust: RustTokenizer, roles: Mapping[str, Any]) -> dict[str, bool]:
    """Return whether a tokenizer puts a token before and after each text, which other files may say differently."""
    sample = rust.encode("a")
    special = {index for index, sequence in enumerate(sample.sequence_ids) if sequence is None}
    return {
        f"add_{role}_token": place % len(sample) in special and sample.tokens[place] == roles.get(f"{role}_token")
        for role, place in (("bos", 0), ("eos", -1))
        if sample.tokens
    }


def _set_prefix_space(rust: RustTokenizer, wanted: bool, origin: str) -> None:
    """Have a text begin as if a space stood before it, or not."""
    whole = rust.pre_tokenizer
    for part in whole if isinstance(whole, pre_tokenizers.Sequence) else [whole]:
        if isinstance(part, pre_tokenizers.ByteLevel):
            part.add_prefix_space = wanted
        elif isinstance(part, pre_tokenizers.Metaspace):
            part.prepend_scheme = "always" if wanted else "never"
        else:
            continue
        rust.pre_tokenizer = whole
        return
    state = json.loads(rust.to_str())
    steps = (state["normalizer"] or {}).get("normalizers", [])
    if prepend := [step for step in steps if step["type"] == "Prepend"]:
        if not wanted:
            steps.remove(prepend[0])
            decoder = (state["decoder"] or {}).get("decoders", [])
            if decoder and decoder[-1]["type"] == "Strip":  # the space goes again where it came from
                decoder.pop()
            source = RustTokenizer.from_str(json.dumps(state))
            rust.normalizer, rust.decoder = source.normalizer, source.decoder
        return
    raise TokenizerError(f"{origin} has no step that puts a space before a text: leave add_prefix_space out.")
