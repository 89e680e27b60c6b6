"""tiktoken vocabularies: a line for each token, its bytes in base64 and its rank (Llama 3, Qwen)."""

import base64
import binascii
import os
from functools import cache
from typing import Any

from tokenizers import Tokenizer as RustTokenizer
from tokenizers import models

from pellucid.errors import TokenizerError
from pellucid.folder import Folder

from .byte_level import cut_into_words
from .families import Family
from .sentencepiece import model_file


def is_tiktoken(folder: Folder, name: str) -> bool:
    """Tell a file of this format from a SentencePiece model, which may have the same name."""
    token, _, rank = os.pread(folder.descriptor(name), 256, 0).partition(b"\n")[0].strip().partition(b" ")
    return bool(token) and rank.isdigit()


def build(folder: Folder, settings: dict[str, Any], family: Family) -> RustTokenizer:
    """Build the tokenizer of a tiktoken file; its special tokens come from tokenizer_config.json.

    Args:
        folder: where the file is, under a name that ends in .tiktoken or .model.
        settings: not needed here.
        family: how texts are cut.

    Raises:
        MissingFileError: if there is no such file.
        TokenizerError: if it is broken.
    """
    name = model_file(folder)
    ranks = read_ranks(folder.read_bytes(name), str(folder.path / name))
    vocabulary = {written(token): rank for token, rank in ranks.items()}
    merges = [(written(left), written(right)) for left, right in byte_merges(ranks)]
    # a text that is a token as a whole is that token, even if no merges lead there
    rust = RustTokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    cut_into_words(rust, family.options.get("words", "llama3"), False)
    return rust


def read_ranks(data: bytes, origin: str) -> dict[bytes, int]:
    """Read the content of a tiktoken file.

    Raises:
        TokenizerError: if a line is not a token and its rank, or a single byte is missing.
    """
    ranks: dict[bytes, int] = {}
    for number, line in enumerate(data.split(b"\n"), 1):
        if not line.strip():
            continue
        try:
            token, rank = line.split()
            ranks[base64.b64decode(token, validate=True)] = int(rank)
        except (ValueError, binascii.Error):
            raise TokenizerError(
                f"{origin}, line {number}: {line[:60]!r} is not a token in base64 and its rank. Fetch the file again."
            ) from None
    if missing := [byte for byte in range(256) if bytes([byte]) not in ranks]:
        raise TokenizerError(f"{origin} lacks the single bytes {missing[:10]}: it is cut off. Fetch it again.")
    return ranks


def byte_merges(ranks: dict[bytes, int]) -> list[tuple[bytes, bytes]]:
    """Return the pair that each token is made of: what is left of it when only lower ranks may merge."""
    merges = []
    for token, rank in sorted(ranks.items(), key=lambda item: item[1]):
        parts = [token[place : place + 1] for place in range(len(token))]
        while len(parts) > 2:
            joined = [ranks.get(parts[place] + parts[place + 1], rank) for place in range(len(parts) - 1)]
            best = min(joined)
            if best >= rank:
                break
            place = joined.index(best)
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        if len(parts) == 2:
            merges.append((parts[0], parts[1]))
    return merges


def written(token: bytes) -> str:
    """Return a token as byte-level vocabularies write it."""
    characters = byte_characters()
    return "".join([characters[byte] for byte in token])


@cache
def byte_characters() -> list[str]:
    """Return the printable character that byte-level vocabularies write for each byte."""
    printable = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = (byte for byte in range(256) if byte not in printable)
    shifted = {byte: chr(256 + index) for index, byte in enumerate(others)}
    return [shifted.get(byte, chr(byte)) for byte in range(256)]
