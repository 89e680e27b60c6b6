"""The embedded model: small enough, an ordinary folder, and right about the course's two sentences."""

from pathlib import Path

import pytest
import torch

import pellucid
from pellucid import AutoModelForSequenceClassification, AutoTokenizer, pipeline

FOLDER = Path(pellucid.__file__).parent / "builtin" / "sentiment"
EXAMPLES = ["I've been waiting for a HuggingFace course my whole life.", "I hate this so much!"]


def test_folder():
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) <= 20_000_000
    card = (FOLDER / "README.md").read_text(encoding="utf-8")
    for part in ("license: apache-2.0", "| SST-2 dev | 872 |", "## Use and limits"):
        assert part in card


def test_the_course_sentences():
    answers = pipeline("sentiment-analysis", model="pellucid/sentiment")(EXAMPLES)
    assert [answer["label"] for answer in answers] == ["POSITIVE", "NEGATIVE"]
    assert all(answer["score"] > 0.9 for answer in answers)


@pytest.mark.parametrize(
    ("text", "label"),
    [
        ("I love this", "POSITIVE"),
        ("It works great!", "POSITIVE"),
        ("not bad at all", "POSITIVE"),
        ("THIS IS TERRIBLE", "NEGATIVE"),
        ("The food was cold and the waiter rude.", "NEGATIVE"),
        ("My phone broke after two days", "NEGATIVE"),
    ],
)
def test_everyday_sentences(text, label):
    (answer,) = pipeline("sentiment-analysis", model="pellucid/sentiment")(text)
    assert answer["label"] == label and answer["score"] > 0.8


def test_the_original_loads_it():
    import transformers

    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(FOLDER).eval()
    model, tokenizer = AutoModelForSequenceClassification.from_pretrained(FOLDER), AutoTokenizer.from_pretrained(FOLDER)
    assert model.dtype == theirs.dtype == torch.float32
    inputs = tokenizer(EXAMPLES, padding=True, return_tensors="pt")
    original = transformers.AutoTokenizer.from_pretrained(FOLDER)(EXAMPLES, padding=True, return_tensors="pt")
    assert torch.equal(inputs["input_ids"], original["input_ids"])
    with torch.no_grad():
        assert torch.allclose(model(**inputs).logits, theirs(**original).logits, atol=1e-5)
