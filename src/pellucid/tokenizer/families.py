"""What a class name such as `BertTokenizer` stands for, where a folder's files do not say it themselves."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import processors

from pellucid.errors import TokenizerError

IDS_AND_MASK = ("input_ids", "attention_mask")
IDS_TYPES_AND_MASK = ("input_ids", "token_type_ids", "attention_mask")


@dataclass(frozen=True)
class Family:
    """Tokenizers that differ in their vocabulary only.

    Args:
        format: the vocabulary's format, one of the builders; None if only a tokenizer.json can be read.
        special: the tokens with a role.
        single: where special tokens go around a text `$A`, by role and with the type id if not 0: "cls $A sep".
        pair: the same for a text and its pair `$B`.
        model_input_names: what a call returns.
        padding_side: "right" or "left".
        options: further defaults of the builder.
    """

    format: str | None = None
    special: Mapping[str, str] = field(default_factory=dict)
    single: str = "$A"
    pair: str = "$A $B:1"
    model_input_names: tuple[str, ...] = IDS_AND_MASK
    padding_side: str = "right"
    options: Mapping[str, Any] = field(default_factory=dict)


_BERT_TOKENS = {
    "unk_token": "[UNK]",
    "sep_token": "[SEP]",
    "pad_token": "[PAD]",
    "cls_token": "[CLS]",
    "mask_token": "[MASK]",
}
_BERT = Family("wordpiece", _BERT_TOKENS, "cls $A sep", "cls $A sep $B:1 sep:1", model_input_names=IDS_TYPES_AND_MASK)
_FAMILIES = {
    "BertTokenizer": _BERT,
    "DistilBertTokenizer": Family("wordpiece", _BERT_TOKENS, _BERT.single, _BERT.pair),
}
_BY_MODEL_TYPE = {"bert": "BertTokenizer", "distilbert": "DistilBertTokenizer"}


def template(
    rust: RustTokenizer, single: str, pair: str, roles: Mapping[str, str | None], origin: str
) -> processors.TemplateProcessing:
    """Return the post-processor that puts special tokens around texts.

    Args:
        rust: the tokenizer whose vocabulary has the tokens.
        single: as in `Family`.
        pair: as in `Family`.
        roles: the token of each role, under names such as "cls_token".
        origin: the vocabulary's file, for messages.

    Raises:
        TokenizerError: if the vocabulary lacks one of the tokens.
    """
    special: dict[str, int] = {}

    def name(piece: str) -> str:
        role, colon, type_id = piece.partition(":")
        if role.startswith("$"):
            return piece
        token = roles.get(f"{role}_token")
        id = None if token is None else rust.token_to_id(token)
        if token is None or id is None:
            raise TokenizerError(
                f"{origin} lacks the {role}_token {token!r}; it has {rust.get_vocab_size()} tokens. "
                f"Name the one that it has as {role}_token in tokenizer_config.json."
            )
        special[token] = id
        return f"{token}{colon}{type_id}"

    return processors.TemplateProcessing(
        single=[name(piece) for piece in single.split()],
        pair=[name(piece) for piece in pair.split()],
        special_tokens=list(special.items()),
    )


def find_family(name: str) -> Family | None:
    """Return what a class name, with or without "Fast" at its end, stands for; None if unknown."""
    if name in ("Tokenizer", "PreTrainedTokenizer", "PreTrainedTokenizerFast", "TokenizersBackend"):
        return Family()
    return _FAMILIES.get(name.removesuffix("Fast"))


def class_of_model(model_type: str) -> str | None:
    """Return the name of the tokenizer class that a model type uses; None if unknown."""
    return _BY_MODEL_TYPE.get(model_type)
