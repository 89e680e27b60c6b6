"""WordPiece vocabularies: `vocab.txt`, one token a line, its id the line's number (BERT and its kin)."""

import json
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, normalizers, pre_tokenizers

from pellucid.folder import Folder

from .families import Family


def build(folder: Folder, settings: dict[str, Any], family: Family) -> RustTokenizer:
    """Build the tokenizer of a `vocab.txt`.

    Args:
        folder: where the file is.
        settings: `do_lower_case` (True), `strip_accents` (as `do_lower_case`), `tokenize_chinese_chars` (True),
            `unk_token`.
        family: what the file is called, if not that.
    """
    # split("\n"), because a token may be a character that splitlines() takes for the end of a line
    tokens = folder.read_text(family.options.get("file", "vocab.txt")).removesuffix("\n").split("\n")
    vocabulary = {token.removesuffix("\r"): id for id, token in enumerate(tokens)}
    rust = RustTokenizer(models.WordPiece(vocabulary, unk_token=settings["unk_token"], max_input_chars_per_word=100))
    rust.normalizer = normalizers.BertNormalizer(
        clean_text=True,
        handle_chinese_chars=settings.get("tokenize_chinese_chars", True),
        strip_accents=settings.get("strip_accents"),
        lowercase=settings.get("do_lower_case", True),
    )
    rust.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    rust.decoder = decoders.WordPiece(prefix="##")
    return rust


def files(rust: RustTokenizer, name: str) -> dict[str, bytes]:
    """Return the file that `build` reads, and one of what was added, for programs that know no tokenizer.json."""
    tokens = sorted(rust.get_vocab(with_added_tokens=False).items(), key=lambda item: item[1])
    added = {token.content: id for id, token in rust.get_added_tokens_decoder().items() if id >= len(tokens)}
    content = {name: "".join(f"{token}\n" for token, _ in tokens).encode()}
    return content | ({"added_tokens.json": json.dumps(added, ensure_ascii=False).encode()} if added else {})
