"""ByT5: bytes, without a vocabulary file."""

from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from pellucid.folder import Folder

from .families import Family
from .sentencepiece import sentinels
from .tiktoken import byte_characters


def build(folder: Folder, settings: dict[str, Any], family: Family) -> RustTokenizer:
    """Build the tokenizer whose tokens are the special ones, the 256 bytes, and what a model is to fill in.

    Args:
        folder: not needed; there is no file.
        settings: the special tokens, `extra_ids` (125).
        family: which special tokens there are, in the order of their ids.
    """
    special = [str(settings[role]) for role in family.special]
    tokens = [*special, *byte_characters()]
    rust = RustTokenizer(models.BPE({token: id for id, token in enumerate(tokens)}, []))
    rust.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    rust.decoder = decoders.ByteLevel()
    rust.add_special_tokens(
        [AddedToken(token, special=True, normalized=False) for token in sentinels(settings["extra_ids"])]
    )
    return rust
