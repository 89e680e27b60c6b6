"""Tiny random models of every case, and a small English vocabulary, to test pipelines with."""

import os
import shutil
import tempfile
from functools import cache
from pathlib import Path

import torch

from cases import CASES
from pellucid import AutoTokenizer, auto
from pellucid.pipelines import find_task, pipeline
from perturbing import perturb

REAL = Path(__file__).parent / "data" / "bert-base-uncased" / "vocab.txt"
WORDS = [
    *("good", "bad", "film", "not", "the", "of", "in", "is", "who", "where", "when", "berlin", "paris"),
    *("anna", "smith", "works", "for", "acme", "corp", "new", "york"),
]
POSITIONS = 48
SPECIAL = ("pad_token_id", "cls_token_id", "sep_token_id", "mask_token_id")
NAMES = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "MISC"]
LABELS = {
    "text-ranking": ["relevant"],
    "zero-shot-classification": ["contradiction", "neutral", "entailment"],
    "token-classification": NAMES,
    "ner": NAMES,
}


@cache
def vocabulary() -> Path:
    """A folder with a vocab.txt of letters, their continuations, and the words above."""
    wanted = {"[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS}
    tokens = REAL.read_text(encoding="utf-8").splitlines()
    kept = [token for token in tokens if token in wanted or (len(token.removeprefix("##")) == 1 and token.isascii())]
    folder = Path(tempfile.mkdtemp(dir=os.environ["HF_HOME"]))  # which conftest.py makes and removes
    (folder / "vocab.txt").write_text("\n".join(kept) + "\n", encoding="utf-8")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}', encoding="utf-8")
    return folder


@cache
def tokenizer(folder: Path | None = None, limit: int = POSITIONS):
    return AutoTokenizer.from_pretrained(folder or vocabulary(), model_max_length=limit)


def model(task: str, architecture: str = "bert", **fields):
    """Return the random model of a case, whose every parameter, norms and biases too, is perturbed."""
    config_class = auto.config_class(architecture.partition(":")[0])
    words, labels = tokenizer(), LABELS.get(task, ["NO", "YES"])
    given = CASES[architecture] | {"vocab_size": len(words), "id2label": labels}
    given |= {name: getattr(words, name) for name in SPECIAL}
    if "max_position_embeddings" in config_class.fields():
        given["max_position_embeddings"] = POSITIONS
    torch.manual_seed(0)
    made = getattr(auto, find_task(task).auto).from_config(config_class(**given | fields)).eval()
    perturb(made, 0.2)
    return made


@cache
def pipe(task: str, architecture: str = "bert"):
    """A pipeline over such a model, with the small vocabulary."""
    return pipeline(task, model(task, architecture), tokenizer=tokenizer())


@cache
def long_pipe(task: str, architecture: str = "bert"):
    """The same with 512 positions, for very long texts."""
    made = model(task, architecture, max_position_embeddings=512)
    return pipeline(task, made, tokenizer=tokenizer(limit=512))


def save(folder: Path, task: str, **fields) -> Path:
    """Write a BERT with the real vocabulary into a folder, for the original to read as well."""
    model(task, vocab_size=len(REAL.read_text(encoding="utf-8").splitlines()), **fields).save_pretrained(folder)
    shutil.copy(REAL, folder)
    AutoTokenizer.from_pretrained(folder, model_max_length=POSITIONS).save_pretrained(folder)
    return folder


def original(task: str, folder: Path, **options):
    """The original's pipeline on the same folder, silenced."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    return transformers.pipeline(task, model=str(folder), device="cpu", **options)


def numbers(answer) -> list[float]:
    """The scores and vectors in an answer, in order; what they belong to may differ where two are the same."""
    if isinstance(answer, torch.Tensor):
        return answer.flatten().tolist()
    if isinstance(answer, dict):
        answer = list(answer.values())
    if isinstance(answer, list):
        return [number for part in answer for number in numbers(part)]
    return [answer] if isinstance(answer, float) else []
