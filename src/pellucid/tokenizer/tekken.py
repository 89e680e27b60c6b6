"""tekken.json: a vocabulary like tiktoken's with the special tokens in front, and how texts are cut (Mistral)."""

import base64
import binascii
from typing import Any

from tokenizers import AddedToken, Regex, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from pellucid.errors import TokenizerError
from pellucid.folder import Folder

from .families import Family
from .tiktoken import byte_merges, written

FILE = "tekken.json"

# What the first files do not say, which were made before their tools wrote it.
_SPECIAL = (
    *("<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
    *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[IMG]", "<pad>", "[IMG_BREAK]", "[IMG_END]", "[PREFIX]", "[MIDDLE]"),
    *("[SUFFIX]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[TOOL_CONTENT]"),
)
_MOST_SPECIAL = 100_000  # a hundred times as many as any file has
_ROLES = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


def build(folder: Folder, settings: dict[str, Any], family: Family) -> RustTokenizer:
    """Build the tokenizer of a tekken.json.

    Args:
        folder: where the file is.
        settings: not needed here.
        family: not needed here.

    Raises:
        TokenizerError: if the file is broken.
    """
    content, origin = folder.read_json(FILE), str(folder.path / FILE)
    try:
        config = content["config"]
        first, size = int(config["default_num_special_tokens"]), int(config["default_vocab_size"])
        if not 0 < first <= _MOST_SPECIAL or not first < size <= first + len(content["vocab"]):
            raise ValueError(f"{first} special tokens and {len(content['vocab'])} others do not make up {size}")
        special = _special_tokens(content.get("special_tokens"), first)
        tokens = [base64.b64decode(entry["token_bytes"], validate=True) for entry in content["vocab"][: size - first]]
        pattern = Regex(config["pattern"])
        if [entry["rank"] for entry in content["vocab"][: len(tokens)]] != list(range(size - first)):
            raise ValueError(f"'vocab' does not have the ranks 0 to {size - first - 1} in order")
    except (KeyError, TypeError, ValueError, binascii.Error, AttributeError) as error:
        raise TokenizerError(f"{origin} is broken: {error or type(error).__name__}. Fetch it again.") from None
    except Exception as error:  # the library's, about the pattern
        raise TokenizerError(f"{origin}: its pattern is no regular expression: {error}") from None
    ranks = {token: rank for rank, token in enumerate(tokens)}
    vocabulary = {token: id for id, token in enumerate([*special, *map(written, tokens)])}
    if len(vocabulary) != size or not all(bytes([byte]) in ranks for byte in range(256)):
        raise TokenizerError(f"{origin} has {len(vocabulary)} different tokens of {size}, or lacks a single byte.")
    merges = [(written(left), written(right)) for left, right in byte_merges(ranks)]
    rust = RustTokenizer(models.BPE(vocabulary, merges, ignore_merges=True))
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(pattern, "isolated"), pre_tokenizers.ByteLevel(False, use_regex=False)]
    )
    rust.decoder = decoders.ByteLevel()
    rust.add_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return rust


def settings(rust: RustTokenizer) -> dict[str, Any]:
    """Return the settings of such a tokenizer, where tokenizer_config.json does not say otherwise."""
    roles = {name: token for name, token in _ROLES.items() if rust.token_to_id(token) is not None}
    return {**roles, "add_bos_token": "bos_token" in roles, "padding_side": "left"}


def _special_tokens(entries: Any, count: int) -> list[str]:
    """Return the special tokens by id; ids that nobody has named get a name of their own."""
    names = dict(enumerate(_SPECIAL)) if entries is None else {entry["rank"]: entry["token_str"] for entry in entries}
    special = [names.pop(id, f"<SPECIAL_{id}>") for id in range(count)]
    if names and entries is not None:
        raise ValueError(f"'special_tokens' has ranks above {count - 1}, such as {max(names)}")
    return special
