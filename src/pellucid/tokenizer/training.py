"""A new vocabulary for a tokenizer, learned from texts."""

import json
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import pre_tokenizers, trainers

from pellucid.errors import TokenizerError, refuse_unknown

from .special_tokens import NAMES, as_added_token

if TYPE_CHECKING:
    from .tokenizer import Tokenizer

_TRAINERS = {
    "BPE": trainers.BpeTrainer,
    "Unigram": trainers.UnigramTrainer,
    "WordLevel": trainers.WordLevelTrainer,
    "WordPiece": trainers.WordPieceTrainer,
}
_PIECES = ("initial_alphabet", "limit_alphabet", "min_frequency", "continuing_subword_prefix", "end_of_word_suffix")
_OPTIONS = {
    "BPE": (*_PIECES, "max_token_length"),
    "Unigram": ("initial_alphabet", "shrinking_factor", "max_piece_length", "n_sub_iterations", "unk_token"),
    "WordLevel": ("min_frequency",),
    "WordPiece": _PIECES,
}


def train(
    tokenizer: "Tokenizer",
    texts: Iterable[Any],
    vocab_size: int,
    *,
    length: int | None,
    new_special_tokens: list[Any],
    renamed: Mapping[str, str],
    options: Mapping[str, Any],
) -> tuple[RustTokenizer, dict[str, Any]]:
    """Learn a vocabulary for the steps of a tokenizer; see `Tokenizer.train_new_from_iterator`.

    Returns:
        The new tokenizer and its settings.

    Raises:
        ArgumentError: if the trainer has no such option.
        TokenizerError: if the vocabulary is of a kind that can not be trained.
    """
    if "tokenizer.json" not in (files := tokenizer.vocabulary_files()):
        raise TokenizerError(
            f"the vocabulary of a {type(tokenizer).__name__} is in {', '.join(files)}, which can not be learned here. "
            "Learn SentencePiece models with the sentencepiece package, and number their pieces in vocab.json."
        )
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    model, post_processor = state["model"], state["post_processor"]
    kind = model["type"]
    if kind not in _TRAINERS:
        raise TokenizerError(f"a {kind} vocabulary can not be learned from texts; {', '.join(_TRAINERS)} can.")
    refuse_unknown("train_new_from_iterator", options, (*_OPTIONS[kind], "show_progress"))
    special = []
    for token in tokenizer.added_tokens_decoder.values():
        if token.special or kind == "Unigram":  # which has its unknown token among them
            token.content = renamed.get(token.content, token.content)
            special.append(token)
    new = [as_added_token(token, special=True) for token in new_special_tokens]
    _empty(model, renamed)
    rust = RustTokenizer.from_str(json.dumps({**state, "added_tokens": [], "post_processor": None}))
    arguments = {**_trainer_arguments(state), "show_progress": False, **options}
    trainer = _TRAINERS[kind](vocab_size=vocab_size, special_tokens=[*special, *new], **arguments)
    rust.train_from_iterator(texts, trainer, length)
    if post_processor is not None:
        _rename(post_processor, renamed, rust)
        rust = RustTokenizer.from_str(json.dumps({**json.loads(rust.to_str()), "post_processor": post_processor}))
    settings = tokenizer.settings()
    for name in NAMES:
        if name in settings:
            settings[name] = renamed.get(settings[name], settings[name])
    settings["extra_special_tokens"] = [
        *(renamed.get(token, token) for token in settings.pop("additional_special_tokens", [])),
        *(token.content for token in new),
    ]
    return rust, settings


def _empty(model: dict[str, Any], renamed: Mapping[str, str]) -> None:
    """Take the vocabulary out of a model, keeping how it works."""
    if model["type"] == "Unigram":
        unknown = model["vocab"][model["unk_id"] or 0][0]
        model.update(vocab=[[renamed.get(unknown, unknown), 0.0]], unk_id=0)
        return
    model["vocab"] = {}
    if model.get("unk_token"):
        model["unk_token"] = renamed.get(model["unk_token"], model["unk_token"])
    if model["type"] == "BPE":
        model["merges"] = []


def _trainer_arguments(state: Mapping[str, Any]) -> dict[str, Any]:
    """Return what a trainer must know of the tokenizer that it trains for."""
    model = state["model"]
    if model["type"] == "Unigram":
        return {"unk_token": model["vocab"][0][0]}
    names = ("continuing_subword_prefix", "end_of_word_suffix")
    arguments = {name: model[name] for name in names if model.get(name)}
    if model["type"] == "BPE" and '"ByteLevel"' in json.dumps(state["pre_tokenizer"]):
        arguments["initial_alphabet"] = pre_tokenizers.ByteLevel.alphabet()
    return arguments


def _rename(post_processor: dict[str, Any], renamed: Mapping[str, str], rust: RustTokenizer) -> None:
    """Give the special tokens of a post-processor their new names and ids."""

    def find(token: str) -> tuple[str, int]:
        token = renamed.get(token, token)
        id = rust.token_to_id(token)
        if id is None:
            raise TokenizerError(
                f"the new vocabulary lacks {token!r}, which goes around every text. Give it in new_special_tokens."
            )
        return token, id

    for part in post_processor.get("processors", [post_processor]):
        for role in ("cls", "sep"):
            if role in part:
                part[role] = list(find(part[role][0]))
        for entry in part.get("special_tokens", {}).values():
            entry["tokens"], entry["ids"] = (list(column) for column in zip(*map(find, entry["tokens"]), strict=True))
