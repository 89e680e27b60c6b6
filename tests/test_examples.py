"""The examples run from their first line to their last, here on a tiny random encoder and a handful of texts."""

import csv
import gzip
import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from pellucid import AutoTokenizer, BertConfig, BertModel, pipeline

ROOT = Path(__file__).parent.parent
VOCABULARY = ROOT / "tests" / "data" / "bert-base-uncased" / "vocab.txt"


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder")
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertModel.from_config(BertConfig(**sizes)).save_pretrained(folder)
    shutil.copy(VOCABULARY, folder)
    AutoTokenizer.from_pretrained(folder, model_max_length=512).save_pretrained(folder)
    return folder


def example(name):
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def run(name, encoder, data, save):
    """Run an example as the command line would."""
    return example(name).main(["--encoder", str(encoder), "--data", str(data), "--save", str(save), "--epochs", "1"])


def test_ner(encoder, tmp_path, capsys):
    post = "Anna\tB-person\nSmith\tI-person\nlikes\tO\nBerlin\tB-location\n.\tO\n"
    for file, separator in (("wnut17train.conll", "\t\n"), ("emerging.test.annotated", "\n")):
        (tmp_path / file).write_text(f"{post}{separator}" * 40)
    assert 0 <= run("ner_wnut17", encoder, tmp_path, tmp_path / "saved") <= 1
    printed = capsys.readouterr().out
    assert "epoch 1: loss" in printed and "entity F1 on unseen posts: " in printed and "Anna Smith: " in printed
    labels = pipeline("ner", tmp_path / "saved").model.config.id2label
    assert labels[0] == "O" and len(labels) == 13


def test_scores_are_right():
    spans, words = example("ner_wnut17").spans, ["Anna", "Smith", "in", "New", "York"]
    labels = ["B-person", "I-person", "O", "B-location", "I-location"]
    assert spans(words, labels) == {(0, 10, "person"), (14, 22, "location")}
    assert spans(words[:2], ["B-person", "B-person"]) == {(0, 4, "person"), (5, 10, "person")}
    overlap = example("answers_xquad").overlap
    assert [overlap("The cat!", "cat"), overlap("a black cat", "cat"), overlap("dog", "cat")] == [1, 2 / 3, 0]


def test_intents(encoder, tmp_path, capsys):
    for file in ("train.csv", "test.csv"):
        with (tmp_path / file).open("w", newline="") as opened:
            writer = csv.writer(opened)
            writer.writerow(["text", "category"])
            writer.writerows([("Where is my card?", "card_arrival"), ("What, a fee\nagain?", "fees")] * 20)
    assert 0 <= run("intents_banking77", encoder, tmp_path, tmp_path / "saved") <= 1
    printed = capsys.readouterr().out
    assert "accuracy on unseen questions: " in printed and "Somebody stole my card yesterday!" in printed
    pipe = pipeline("text-classification", tmp_path / "saved")
    assert set(pipe.model.config.id2label.values()) == {"card_arrival", "fees"}


def test_answers(encoder, tmp_path, capsys):
    context = "Anna Smith lives in Berlin. " * 60  # several windows
    asked = {"question": "Where does she live?", "answers": [{"text": "Berlin", "answer_start": 20}], "id": "1"}
    article = {"title": "Anna", "paragraphs": [{"context": context, "qas": [asked] * 3}]}
    (tmp_path / "xquad.en.json").write_text(json.dumps({"data": [article] * 12}))
    assert 0 <= run("answers_xquad", encoder, tmp_path, tmp_path / "saved") <= 1
    printed = capsys.readouterr().out
    assert "on unseen articles: exact match " in printed and "Where does she live? " in printed
    assert pipeline("question-answering", tmp_path / "saved")


def test_translations(tmp_path, capsys, monkeypatch):
    import transformers

    pytest.importorskip("sacrebleu")
    lines = {
        "en": ["A dog runs over the grass.", "Two men sit."],
        "de": ["Ein Hund rennt durch das Gras.", "Zwei sitzen."],
    }
    for language, texts in lines.items():
        (tmp_path / f"test_2016_flickr.{language}").write_text("\n".join(texts * 3))
        (tmp_path / f"train.{language}.gz").write_bytes(gzip.compress("\n".join(texts * 100).encode()))
    script = example("translate_multi30k")
    monkeypatch.setattr(script, "VOCABULARY", 60)
    saved = tmp_path / "saved"
    assert script.main(["--data", str(tmp_path), "--save", str(saved), "--steps", "20"]) >= 0
    printed = capsys.readouterr().out
    assert "step 20: loss " in printed and "sacreBLEU on the 2016 test set: " in printed
    options = {"num_beams": 4, "max_length": 12, "early_stopping": True}
    (ours,) = pipeline("translation", saved)(lines["en"][0], return_tensors=True, **options)
    model = transformers.MarianMTModel.from_pretrained(saved)
    inputs = transformers.AutoTokenizer.from_pretrained(saved)(lines["en"][0], return_tensors="pt")
    inputs.pop("token_type_ids", None)
    assert ours["translation_token_ids"] == model.generate(**inputs, **options)[0].tolist()


def test_every_example_is_listed():
    page = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    assert all(file.name in page for file in (ROOT / "examples").glob("*.py"))
