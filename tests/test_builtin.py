"""The embedded model: small enough, an ordinary folder, and right about the course's two sentences; its making."""

from pathlib import Path

import pytest
import torch
from safetensors import safe_open

import pellucid
import tiny
from pellucid import AutoModelForSequenceClassification, AutoTokenizer, pipeline
from pellucid.builtin import make_sentiment as script
from pellucid.models.bert import BertConfig, BertModel

FOLDER = Path(pellucid.__file__).parent / "builtin" / "sentiment"
EXAMPLES = ["I've been waiting for a HuggingFace course my whole life.", "I hate this so much!"]
STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
LABELLED = [("good", 1), ("bad", 0)]
VADER = ("tweets", "amazonReviewSnippets", "nytEditorialSnippets")


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


def test_fit_learns_probabilities():
    model, words = tiny.model("text-classification", id2label=script.LABELS, **STILL), tiny.tokenizer()
    wanted = {"the film is good": 0.9, "the film is bad": 0.2, "the film is new": 0.5}
    script.fit(model, words, list(wanted.items()) * 100, rate=1e-2, size=8)
    assert script.predict(model, words, list(wanted)) == pytest.approx(list(wanted.values()), abs=0.02)


def test_the_script_makes_a_model_and_its_card(tmp_path, monkeypatch, capsys):
    words = tiny.tokenizer()
    sizes = {"hidden_size": 16, "num_hidden_layers": 6, "num_attention_heads": 2, "intermediate_size": 32}
    BertModel(BertConfig(vocab_size=len(words), **sizes)).save_pretrained(tmp_path / "encoder")
    words.save_pretrained(tmp_path / "encoder")
    texts = [(f"the film is {word} in {place} .", label) for word, label in LABELLED for place in tiny.WORDS]
    lines = [f"{text}\t{label}\n" for text, label in texts]
    ratings = [f"{i}\t{label * 6 - 3.0}\t{text}\n" for i, (text, label) in enumerate(texts)]
    files = {f"sst2/{split}.tsv": lines for split in ("train", "dev", "test")} | {"uci/yelp_labelled.txt": lines}
    files |= {f"vader/{name}_GroundTruth.txt": ratings for name in VADER}
    for name, content in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("".join(content), encoding="utf-8")
    folders = [part for name in ("encoder", "sst2", "uci", "vader", "out") for part in (f"--{name}", tmp_path / name)]
    monkeypatch.setattr("sys.argv", ["make_sentiment", *map(str, folders)])
    monkeypatch.setattr(script, "read_everyday", lambda: [("we are happy", 1.0), ("we are not", 0.0)])
    monkeypatch.chdir(tmp_path)
    script.main()

    assert {path.name for path in tmp_path.iterdir()} == {"encoder", "sst2", "uci", "vader", "out"}
    made, said = tmp_path / "out", capsys.readouterr().out
    card = (made / "README.md").read_text(encoding="utf-8")
    for source in ("SST-2 dev", "SST-2 test", "SST-2 train, held out", "UCI reviews, held out", "VADER"):
        assert f"| {source}" in card and f"| {source}" in said
    assert "{TABLE}" not in card and "{MINUTES}" not in card
    with safe_open(made / "model.safetensors", "pt") as weights:
        assert {weights.get_tensor(name).dtype for name in weights.keys()} == {torch.float16}  # noqa: SIM118
    student = AutoModelForSequenceClassification.from_pretrained(made)
    assert (student.dtype, student.config.num_hidden_layers) == (torch.float32, 4)
    assert pipeline("sentiment-analysis", model=made)("the film is good")[0]["label"] in ("POSITIVE", "NEGATIVE")
