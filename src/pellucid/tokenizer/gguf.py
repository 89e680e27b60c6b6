"""Vocabularies inside GGUF files: byte-level BPE and SentencePiece's."""

from tokenizers import AddedToken, models, pre_tokenizers, processors
from tokenizers import Tokenizer as RustTokenizer

from pellucid.errors import MissingFileError, TokenizerError
from pellucid.gguf import GGUFFolder

from . import byte_level, sentencepiece
from .sentencepiece import CONTROL, USER_DEFINED

# The name of a way to cut texts into words -> the way; digits stand alone where it is "digits".
WAYS = {
    **dict.fromkeys(("default", "gpt-2", "gpt2", "olmo"), None),
    **dict.fromkeys(("smollm", "starcoder", "refact", "command-r"), "digits"),
    **dict.fromkeys(("llama-bpe", "llama3", "llama-v3", "smaug-bpe"), "llama3"),
    **dict.fromkeys(("qwen2", "deepseek-r1-qwen"), "qwen"),
}
BYTE = 6  # a piece that stands for a byte


def build(folder: GGUFFolder) -> RustTokenizer:
    """Build the tokenizer that a file's metadata describes.

    Raises:
        MissingFileError: if there is none.
        TokenizerError: if it is broken, or of a kind that is not implemented.
    """
    says, where = folder.metadata.get, str(folder.path)
    tokens, kinds = says("tokenizer.ggml.tokens"), says("tokenizer.ggml.token_type")
    if tokens is None:
        raise MissingFileError(f"{where} has no vocabulary (tokenizer.ggml.tokens); take the tokenizer of its origin.")
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens):
        raise TokenizerError(f"{where}: its vocabulary (tokenizer.ggml.tokens) is no list of texts.")
    kinds = kinds if isinstance(kinds, list) and len(kinds) == len(tokens) else [1] * len(tokens)
    kind = says("tokenizer.ggml.model")
    if kind == "gpt2":
        rust = _byte_level(folder, tokens)
    elif kind == "llama":
        rust = _pieces(folder, tokens, kinds)
    else:
        raise TokenizerError(f"{where} has a vocabulary of the kind {kind!r}; expected 'gpt2' or 'llama'.")
    added = [(token, kind) for token, kind in zip(tokens, kinds, strict=True) if kind in (CONTROL, USER_DEFINED)]
    rust.add_tokens([AddedToken(token, special=kind == CONTROL, normalized=False) for token, kind in added])
    _frame(folder, rust, tokens, begins=kind == "llama")
    return rust


def _byte_level(folder: GGUFFolder, tokens: list[str]) -> RustTokenizer:
    way, merges = folder.metadata.get("tokenizer.ggml.pre", "default"), folder.metadata.get("tokenizer.ggml.merges")
    if way not in WAYS:
        raise TokenizerError(
            f"{folder.path} cuts texts into words in the way {way!r}; expected one of {', '.join(WAYS)}. "
            "Take the tokenizer of its origin."
        )
    parts = [merge.partition(" ") for merge in merges or [] if isinstance(merge, str)]
    pairs = [(left, right) for left, space, right in parts if space]
    try:
        model = models.BPE(
            dict(zip(tokens, range(len(tokens)), strict=True)), pairs, ignore_merges=WAYS[way] == "llama3"
        )
    except Exception as error:
        raise TokenizerError(f"{folder.path}: its tokens and merges do not fit together: {error}") from None
    rust = RustTokenizer(model)
    prefix = bool(folder.metadata.get("tokenizer.ggml.add_space_prefix", False))
    byte_level.cut_into_words(rust, None if WAYS[way] == "digits" else WAYS[way], prefix)
    if WAYS[way] == "digits":
        rust.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(True), rust.pre_tokenizer])
    return rust


def _pieces(folder: GGUFFolder, tokens: list[str], kinds: list[int]) -> RustTokenizer:
    scores = folder.metadata.get("tokenizer.ggml.scores")
    if not isinstance(scores, list) or len(scores) != len(tokens):
        raise TokenizerError(f"{folder.path} has no score for each of its {len(tokens)} tokens; convert it again.")
    model = sentencepiece.SentencePieceModel(
        pieces=list(zip(tokens, scores, kinds, strict=True)),
        kind=sentencepiece.BPE,
        byte_fallback=BYTE in kinds,
        add_dummy_prefix=bool(folder.metadata.get("tokenizer.ggml.add_space_prefix", True)),
        remove_extra_whitespaces=bool(folder.metadata.get("tokenizer.ggml.remove_extra_whitespaces", False)),
    )
    return sentencepiece.build_bpe(model, model.pieces, {})


def _frame(folder: GGUFFolder, rust: RustTokenizer, tokens: list[str], *, begins: bool) -> None:
    """Have texts begin and end with the tokens that the file asks for."""
    parts, special = ["$A:0"], []
    for role, default in (("bos", begins), ("eos", False)):
        id = folder.metadata.get(f"tokenizer.ggml.{role}_token_id")
        if (
            folder.metadata.get(f"tokenizer.ggml.add_{role}_token", default)
            and isinstance(id, int)
            and id < len(tokens)
        ):
            parts = [tokens[id], *parts] if role == "bos" else [*parts, tokens[id]]
            special.append((tokens[id], id))
    if special:
        pair = [*parts, *(part.replace("$A:0", "$B:1") for part in parts)]
        rust.post_processor = processors.TemplateProcessing(single=parts, pair=pair, special_tokens=special)
