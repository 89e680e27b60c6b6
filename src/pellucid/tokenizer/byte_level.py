"""Byte-level BPE: `vocab.json` and `merges.txt`, over bytes written as printable characters (GPT-2 and its kin)."""

from typing import Any

from tokenizers import Regex, decoders, models, normalizers, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

from pellucid.errors import TokenizerError
from pellucid.folder import Folder

from .families import Family

# How a text is cut before merging, where it is not GPT-2's way.
LLAMA3_WORDS = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN_WORDS = LLAMA3_WORDS.replace(r"\p{N}{1,3}", r"\p{N}")
_CLIP_WORDS = r"<\|startoftext\|>|<\|endoftext\|>|'s|'t|'re|'ve|'m|'ll|'d|\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"


def build(folder: Folder, settings: dict[str, Any], family: Family) -> RustTokenizer:
    """Build the tokenizer of a `vocab.json` and a `merges.txt`.

    Args:
        folder: where the files are.
        settings: `add_prefix_space` (False), `unk_token`.
        family: how texts are cut.

    Raises:
        TokenizerError: if the files are broken.
    """
    vocabulary = folder.read_json("vocab.json")
    merges = read_merges(folder)
    clip = family.options.get("words") == "clip"
    try:
        model = models.BPE(
            vocabulary,
            merges,
            unk_token=settings["unk_token"] if clip else None,
            continuing_subword_prefix="",
            end_of_word_suffix="</w>" if clip else "",
        )
    except Exception as error:
        raise TokenizerError(f"{folder.path}: vocab.json and merges.txt do not fit together: {error}") from None
    rust = RustTokenizer(model)
    if clip:
        _cut_as_clip(rust)
    else:
        cut_into_words(rust, family.options.get("words"), bool(settings.get("add_prefix_space", False)))
    return rust


def cut_into_words(rust: RustTokenizer, way: str | None, prefix_space: bool) -> None:
    """Set the steps before and after the model, all but the special tokens.

    Args:
        rust: the tokenizer.
        way: "llama3" or "qwen"; None for GPT-2's.
        prefix_space: whether a text begins as if a space stood before it.
    """
    words = {"llama3": LLAMA3_WORDS, "qwen": QWEN_WORDS, None: None}[way]
    if way == "qwen":
        rust.normalizer = normalizers.NFC()
    level = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=words is None)
    rust.pre_tokenizer = (
        pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(words), "isolated"), level]) if words else level
    )
    rust.decoder = decoders.ByteLevel()


def _cut_as_clip(rust: RustTokenizer) -> None:
    rust.normalizer = normalizers.Sequence(
        [normalizers.NFC(), normalizers.Replace(Regex(r"\s+"), " "), normalizers.Lowercase()]
    )
    rust.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Split(Regex(_CLIP_WORDS), "removed", invert=True), pre_tokenizers.ByteLevel(False)]
    )
    rust.decoder = decoders.ByteLevel()


def read_merges(folder: Folder) -> list[tuple[str, str]]:
    """Read the pairs of a `merges.txt`, best first.

    Raises:
        TokenizerError: if it is broken.
    """
    merges: list[tuple[str, str]] = []
    for number, line in enumerate(folder.read_text("merges.txt").split("\n"), 1):
        line = line.removesuffix("\r")
        if not line or (number == 1 and line.startswith("#version")):
            continue
        left, space, right = line.partition(" ")
        if not space or not left or not right or " " in right:
            raise TokenizerError(
                f"{folder.path / 'merges.txt'}, line {number}: {line[:60]!r} is not two tokens and a space between."
            )
        merges.append((left, right))
    return merges
