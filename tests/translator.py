"""Tiny random models that write a target for a source, with vocabularies of their own kinds, to test pipelines with."""

import io
import json
import os
import tempfile
from functools import cache
from pathlib import Path

import torch

import writer
from cases import CASES
from pellucid import AutoTokenizer, auto
from perturbing import perturb

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "house",
    "tree",
    "sees",
    "likes",
    "has",
    "big",
    "small",
    "red",
    "and",
    "is",
    "not",
    "where",
]
TASKS = {
    "summarization": {"prefix": "sum: ", "num_beams": 3, "early_stopping": True, "min_length": 6, "max_length": 12},
    "translation_en_to_de": {"prefix": "en de: ", "max_length": 9, "num_beams": 2},
    "translation_en_to_fr": {"prefix": "en fr: ", "max_length": 8},
}


def sentencepiece_model(sentences: list[str], **arguments) -> bytes:
    import sentencepiece

    content = io.BytesIO()
    options = {"vocab_size": 70, "minloglevel": 2, "hard_vocab_limit": False, **arguments}
    sentencepiece.SentencePieceTrainer.train(sentence_iterator=iter(sentences), model_writer=content, **options)
    return content.getvalue()


def pieces(model: bytes) -> list[str]:
    import sentencepiece

    read = sentencepiece.SentencePieceProcessor(model_proto=model)
    return [
        read.id_to_piece(i) for i in range(read.get_piece_size()) if not read.is_control(i) and not read.is_unknown(i)
    ]


def sentences(step: int) -> list[str]:
    return [" ".join(WORDS[(i * step + k) % len(WORDS)] for k in range(6)) + "." for i in range(60)]


def write_vocabulary(folder: Path, kind: str) -> None:
    """Write the files of a tokenizer."""
    names = {"t5": "T5", "marian": "Marian", "m2m_100": "M2M100", "mbart": "MBart"}
    settings = {"tokenizer_class": f"{names.get(kind, 'PreTrained')}Tokenizer"}
    if kind == "t5":
        ids = {"pad_id": 0, "eos_id": 1, "unk_id": 2, "bos_id": -1}
        (folder / "spiece.model").write_bytes(sentencepiece_model(sentences(5), **ids))
        settings["extra_ids"] = 3
    elif kind == "marian":
        models = {"source.spm": sentencepiece_model(sentences(5)), "target.spm": sentencepiece_model(sentences(7))}
        for name, content in models.items():
            (folder / name).write_bytes(content)
        known = sorted({piece for content in models.values() for piece in pieces(content)})
        tokens = ["</s>", "<unk>", ">>fr<<", ">>de<<", *known, "<pad>"]
        (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    elif kind in ("m2m_100", "mbart"):
        model = sentencepiece_model(sentences(5), model_type="bpe" if kind == "m2m_100" else "unigram")
        (folder / "sentencepiece.bpe.model").write_bytes(model)
        tokens = ["<s>", "<pad>", "</s>", "<unk>", *pieces(model)]
        if kind == "m2m_100":
            (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    else:
        from tokenizers import processors

        rust = writer.byte_level()
        template = {"single": "<s> $A </s>", "pair": "<s> $A </s> $B </s>"}
        rust.post_processor = processors.TemplateProcessing(**template, special_tokens=[("<s>", 1), ("</s>", 2)])
        rust.save(str(folder / "tokenizer.json"))
        settings |= {"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "<pad>", "eos_token": "</s>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


@cache
def folder(kind: str, positions: int = 64) -> Path:
    """A folder with such a model and tokenizer, which the original reads, too: bart, t5, marian, m2m_100 or mbart."""
    path = Path(tempfile.mkdtemp(dir=os.environ["HF_HOME"]))  # which conftest.py makes and removes
    write_vocabulary(path, kind)
    words = AutoTokenizer.from_pretrained(path)
    ids = {"pad_token_id": words.pad_token_id, "eos_token_id": words.eos_token_id, "vocab_size": len(words)}
    ids["decoder_start_token_id"] = words.eos_token_id if kind in ("m2m_100", "mbart", "bart") else words.pad_token_id
    config_class = auto.config_class(kind)
    more = {"bos_token_id": 0} if "bos_token_id" in config_class.fields() else {}
    more |= {"max_position_embeddings": positions} if kind != "t5" else {}
    config = config_class(**CASES[kind] | ids | more)
    if kind == "t5":
        config.task_specific_params = TASKS
    torch.manual_seed(0)
    made = auto.AutoModelForSeq2SeqLM.from_config(config).eval()
    perturb(made, 0.2)
    made.save_pretrained(path)
    return path
