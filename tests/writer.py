"""A tiny random decoder with a vocabulary of bytes and a few words, and a chat template, to test writing with."""

import os
import tempfile
from functools import cache
from pathlib import Path

import torch
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from pellucid import AutoTokenizer, auto
from perturbing import perturb

SPECIAL = ["<pad>", "<s>", "</s>", "<|user|>", "<|assistant|>", "<|system|>", "<|end|>"]
WORDS = [" the", "the", "he", "ll", "hello", " wor", " world", "ü", "語", " 語"]
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}<|{{ message.role }}|>{{ message.content }}<|end|>\n{% endfor %}"
    "{% if tools %}{% for tool in tools %}{{ tool.function.name }}{% endfor %}{% endif %}"
    "{% if documents %}{% for document in documents %}{{ document.title }}{% endfor %}{% endif %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
SHAPES = {
    "llama": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 37},
    "gpt2": {"n_embd": 32, "n_layer": 2, "n_head": 4},
}


def byte_level() -> RustTokenizer:
    """A byte-level BPE of all bytes and some words."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*SPECIAL, *alphabet])}
    splitter = pre_tokenizers.ByteLevel(add_prefix_space=False)
    merges: list[tuple[str, str]] = []
    for word in WORDS:
        (token, _) = splitter.pre_tokenize_str(word)[0]
        for end in range(2, len(token) + 1):
            if token[:end] not in vocabulary:
                vocabulary[token[:end]] = len(vocabulary)
                merges.append((token[: end - 1], token[end - 1]))
    rust = RustTokenizer(models.BPE(vocabulary, merges))
    rust.pre_tokenizer, rust.decoder = splitter, decoders.ByteLevel()
    rust.add_special_tokens(SPECIAL)
    return rust


@cache
def folder(architecture: str = "llama", *, template: bool = True, positions: int = 4096) -> Path:
    """A folder with such a model and tokenizer, which the original reads, too."""
    words = byte_level()
    given = {"vocab_size": words.get_vocab_size(), "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
    config = auto.AutoConfig.for_model(architecture, max_position_embeddings=positions, **given, **SHAPES[architecture])
    torch.manual_seed(0)
    made = auto.AutoModelForCausalLM.from_config(config).eval()
    perturb(made, 0.2)
    path = Path(tempfile.mkdtemp(dir=os.environ["HF_HOME"]))  # which conftest.py makes and removes
    made.save_pretrained(path)
    words.save(str(path / "tokenizer.json"))
    names = {
        "bos_token": "<s>",
        "eos_token": "</s>",
        "pad_token": "<pad>",
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    tokenizer = AutoTokenizer.from_pretrained(path, **{k: v for k, v in names.items() if k != "tokenizer_class"})
    tokenizer.chat_template = TEMPLATE if template else None
    tokenizer.save_pretrained(path)
    return path
