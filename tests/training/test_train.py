"""`train` and `pellucid train`: from a table to a folder that runs, or to an error before a model is loaded."""

import json
import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

import pellucid
import tiny
import translator
import writer
from pellucid import pipeline
from pellucid.cli import app
from pellucid.errors import ArgumentError, ConfigError, InputError, MissingPackageError
from pellucid.training.recipes import TextGeneration
from pellucid.training.run import split
from pellucid.training.tables import read_table

FEW = {"num_train_epochs": 1, "use_cpu": True}
TEXTS = [(f"the film is {word} {place}", word) for word in ("good", "bad") for place in tiny.WORDS]


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Folders of tiny random encoders, by task."""
    made = {}
    for task in ("text-classification", "token-classification", "question-answering"):
        made[task] = tmp_path_factory.mktemp(task)
        tiny.model("feature-extraction" if task == "text-classification" else task).save_pretrained(made[task])
        tiny.tokenizer().save_pretrained(made[task])
    return made


@pytest.fixture(scope="module")
def decoder(tmp_path_factory):
    """A folder of a tiny random decoder with a chat template."""
    return writer.folder("gpt2")


def write_csv(path, rows, head="text,label", separator=","):
    path.write_text("\n".join([head, *(separator.join(row) for row in rows)]) + "\n", encoding="utf-8")
    return path


def write_lines(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return path


# --- tasks ------------------------------------------------------------------------------------------------------------


def test_a_head_that_learned_other_labels_is_drawn_anew(tmp_path):
    known = pellucid.AutoModelForSequenceClassification.from_pretrained("pellucid/sentiment").classifier.weight
    for labels, same in ((("NEGATIVE", "POSITIVE"), True), (("one", "five"), False)):
        rows = [{"text": text, "label": labels[word == "good"]} for text, word in TEXTS]
        options = {"learning_rate": 1e-9, "output_dir": tmp_path / labels[0], **FEW}
        folder, _ = pellucid.train("text-classification", rows, model="pellucid/sentiment", **options)
        found = pellucid.AutoModelForSequenceClassification.from_pretrained(folder).classifier.weight
        assert ((found - known).abs().max() < 1e-3) == same


def test_text_classification_learns_in_silence_and_its_folder_runs(models, tmp_path, capfd, caplog):
    data = write_csv(tmp_path / "reviews.csv", TEXTS)
    folder, metrics = pellucid.train(
        "sentiment-analysis",
        data,
        model=models["text-classification"],
        output_dir=tmp_path / "out",
        use_cpu=True,
        num_train_epochs=6,
        patience=6,
        learning_rate=2e-2,
    )
    assert capfd.readouterr() == ("", "") and not caplog.records  # though the head is new
    assert metrics["accuracy"] == metrics["f1"] == 1 and set(metrics) >= {"loss", "precision", "recall"}
    answers = pipeline("text-classification", folder)(["the film is good", "the film is bad"])
    assert [answer["label"] for answer in answers] == ["good", "bad"]
    assert not (tmp_path / "out-checkpoints").exists()
    page, card = (folder / "report.html").read_text(), (folder / "README.md").read_text()
    assert "<svg" in page and "held-out loss" in page and "Confusions" in page
    assert 'pipeline_tag: "text-classification"' in card and "| accuracy | 1 |" in card


def test_the_same_seed_gives_the_same_model(models, tmp_path):
    data = write_csv(tmp_path / "reviews.csv", TEXTS)
    results = [
        pellucid.train(
            "text-classification", data, model=models["text-classification"], output_dir=tmp_path / name, **FEW
        )
        for name in "ab"
    ]
    assert results[0].metrics == results[1].metrics
    weights = [(result.folder / "model.safetensors").read_bytes() for result in results]
    assert weights[0] == weights[1]


def test_token_classification_of_conll_and_json_lines(models, tmp_path):
    text = "Anna B-PER\nworks O\nin O\nnew B-LOC\nyork I-LOC\n\nBerlin B-LOC\nis O\nbad O\n\n"
    (tmp_path / "names.txt").write_text("-DOCSTART- O\n\n" + text * 8, encoding="utf-8")
    rows = read_table(tmp_path / "names.txt", tagged=True)
    assert rows[0] == {"tokens": ["Anna", "works", "in", "new", "york"], "tags": ["B-PER", "O", "O", "B-LOC", "I-LOC"]}
    for name, data in (("a", tmp_path / "names.txt"), ("b", write_lines(tmp_path / "names.jsonl", rows))):
        folder, metrics = pellucid.train(
            "ner", data, model=models["token-classification"], output_dir=tmp_path / name, **FEW
        )
        assert {"overall_f1", "overall_accuracy"} <= metrics.keys()
        assert pipeline("ner", folder).model.config.id2label == dict(enumerate(["O", "B-LOC", "B-PER", "I-LOC"]))


def test_a_tag_may_be_in_one_part_only(models, tmp_path):
    rows = [{"tokens": ["anna", "works"], "tags": [f"B-{i}", "O"]} for i in range(5)]
    folder, _ = pellucid.train("ner", rows, model=models["token-classification"], output_dir=tmp_path / "out", **FEW)
    assert len(pipeline("ner", folder).model.config.id2label) == 6


def test_long_sentences_lose_no_tag(models):
    from pellucid.training.recipes import TokenClassification

    examples = [{"tokens": ["anna", "xyz"] * 30, "tags": ["B-PER", "O"] * 30}]
    config = tiny.model("token-classification", id2label=["O", "B-PER"]).config
    rows = TokenClassification("ner").encode(tiny.tokenizer(), examples, 16, config).rows
    assert len(rows) > 5 and max(len(row["input_ids"]) for row in rows) == 16
    assert [i for row in rows for i in row["labels"] if i != -100] == [1, 0] * 30


def test_text_generation_of_texts(decoder, tmp_path):
    (tmp_path / "texts.txt").write_text("hello world\n" * 30, encoding="utf-8")
    folder, metrics = pellucid.train(
        "text-generation", tmp_path / "texts.txt", model=decoder, output_dir=tmp_path / "out", max_length=16, **FEW
    )
    assert metrics["perplexity"] > 1
    assert pipeline("text-generation", folder)("hello", max_new_tokens=2)[0]["generated_text"].startswith("hello")


def test_of_a_conversation_the_assistant_is_learned(decoder, tmp_path):
    chat = [
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "the world"},
        {"role": "user", "content": "he"},
        {"role": "assistant", "content": "ll"},
    ]
    words = pellucid.AutoTokenizer.from_pretrained(decoder)
    encoded = TextGeneration("text-generation").encode(words, [{"messages": chat}], 100, None)
    labels = [i for i in encoded.rows[0]["labels"] if i != -100]
    assert words.decode(labels) == "the world<|end|>\nll<|end|>\n"
    data = write_lines(tmp_path / "chat.jsonl", [{"messages": chat}] * 6)
    folder, metrics = pellucid.train("text-generation", data, model=decoder, output_dir=tmp_path / "out", **FEW)
    assert metrics["perplexity"] > 1
    assert pipeline("text-generation", folder)(chat[:1], max_new_tokens=2)


def test_summarization_and_translation(tmp_path):
    rows = [{"article": "the cat sees the dog.", "summary": "a cat", "en": "the dog", "fr": "a tree"}] * 10
    data = write_lines(tmp_path / "pairs.jsonl", rows)
    for task, score in (("summarization", "rouge1"), ("translation_en_to_fr", "bleu")):
        folder, metrics = pellucid.train(
            task, data, model=translator.folder("t5"), output_dir=tmp_path / task, max_length=32, **FEW
        )
        assert metrics[score] >= 0
        assert len(pipeline(task, folder)("the cat")) == 1


def test_question_answering(models, tmp_path):
    context = "Anna Smith works for Acme Corp in Berlin " * 3  # several windows
    answers = {"text": ["Berlin"], "answer_start": [34]}
    rows = [{"question": "where is Anna", "context": f"{i} {context}", "answers": answers} for i in range(6)]
    rows = [row | {"answers": {"text": ["Berlin"], "answer_start": [row["context"].find("Berlin")]}} for row in rows]
    nested = [{"paragraphs": [{"context": row["context"], "qas": [row]} for row in rows]}]
    (tmp_path / "squad.json").write_text(json.dumps({"data": nested}), encoding="utf-8")
    results = []
    for name, data in (("a", write_lines(tmp_path / "squad.jsonl", rows)), ("b", tmp_path / "squad.json")):
        folder, metrics = pellucid.train(
            "question-answering", data, model=models["question-answering"], output_dir=tmp_path / name, **FEW
        )
        assert pipeline("question-answering", folder)({"question": "where", "context": "in Berlin"})["answer"]
        results.append(metrics)
    assert results[0] == results[1] and 0 <= results[0]["f1"] <= 100


# --- the report -------------------------------------------------------------------------------------------------------


def test_the_report_warns_of_classes_out_of_balance_and_escapes(models, tmp_path):
    rows = [{"text": "good", "label": "<b>|"}] * 12 + [{"text": "bad", "label": "x"}] * 2
    with pytest.warns(UserWarning, match="Classes are out of balance: '<b>|' has 12 examples, 'x' 2"):
        result = pellucid.train(
            "text-classification", rows, model=models["text-classification"], output_dir=tmp_path / "out", **FEW
        )
    page, card = ((result.folder / name).read_text() for name in ("report.html", "README.md"))
    assert "out of balance: &#x27;&lt;b&gt;|&#x27; has 12 examples, &#x27;x&#x27; 2" in page and "<b>" not in page
    assert "&lt;b>\\|" in card


def test_the_report_tells_lengths_and_draws(models, tmp_path):
    rows = [{"text": " ".join(["good"] * (1 + i % 30)), "label": "ab"[i % 2]} for i in range(60)]
    options = {"model": models["text-classification"], "output_dir": tmp_path / "out", "max_length": 20}
    folder, _ = pellucid.train("text-classification", rows, **options, **FEW)
    card = (folder / "README.md").read_text()
    assert "| least | 3 |" in card and "| median | 18 |" in card and "| most | 32 |" in card  # [CLS] and [SEP] are two
    assert "24 of 60 examples are longer than 20 tokens" in card
    images = pytest.importorskip("PIL.Image", reason="drawings need pillow")
    for name in ("loss.png", "reliability.png", "confusions.png"):
        with images.open(folder / name) as image:
            assert image.width > 80 and len(set(image.convert("RGB").tobytes())) > 2


def test_training_stops_when_it_gets_no_better(models, tmp_path):
    data = [{"text": text, "label": label} for text, label in TEXTS]
    options = {"model": models["text-classification"], "output_dir": tmp_path / "out", "use_cpu": True}
    folder, _ = pellucid.train(
        "text-classification", data, patience=1, num_train_epochs=9, learning_rate=0.0, **options
    )
    curve = (folder / "report.html").read_text().partition('<polyline points="')[2]
    assert 'fill="#d62728"' in curve and curve.count('r="2" fill="#d62728"') == 2  # the second was no better


def test_parquet(models, tmp_path):
    pyarrow = pytest.importorskip("pyarrow", reason="Parquet needs pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(
        pyarrow.Table.from_pylist([dict(zip(("text", "label"), row, strict=True)) for row in TEXTS]),
        tmp_path / "a.parquet",
    )
    assert read_table(tmp_path / "a.parquet")[0] == {"text": TEXTS[0][0], "label": "good"}
    (tmp_path / "b.parquet").write_bytes(b"no")
    with pytest.raises(InputError, match="can not be read as Parquet"):
        read_table(tmp_path / "b.parquet")


# --- LoRA -------------------------------------------------------------------------------------------------------------


def test_lora_writes_a_merged_model_and_the_adapter_beside_it(models, tmp_path):
    base = models["text-classification"]
    data = write_csv(tmp_path / "reviews.csv", TEXTS)
    options = {"output_dir": tmp_path / "out", "num_train_epochs": 3, "learning_rate": 2e-2, "use_cpu": True}
    folder, _ = pellucid.train("text-classification", data, model=base, lora=4, **options)
    merged = pellucid.AutoModelForSequenceClassification.from_pretrained(folder)
    assert not merged.switch.configs  # it is whole
    assert json.loads((folder / "adapter" / "adapter_config.json").read_text())["r"] == 4
    ids = torch.tensor([[5, 6, 7, 8]])
    plain = pellucid.AutoModelForSequenceClassification.from_pretrained(
        base, id2label=merged.config.id2label, ignore_mismatched_sizes=True
    )
    with torch.no_grad():
        before = plain.base_model(ids).last_hidden_state
        plain.load_adapter(folder / "adapter")
        assert (plain.base_model(ids).last_hidden_state - before).abs().max() > 1e-3
        assert torch.allclose(plain(ids).logits, merged(ids).logits, atol=1e-4)


@pytest.mark.parametrize("task", ["ner", "text-generation", "embedding"])
def test_lora_of_other_tasks(models, decoder, tmp_path, task):
    rows, base = {
        "ner": ([{"tokens": ["anna", "works"], "tags": ["B", "O"]}] * 6, models["token-classification"]),
        "text-generation": ([{"text": "hello"}] * 6, decoder),
        "embedding": ([{"anchor": f"a {i}", "positive": f"b {i}"} for i in range(6)], models["text-classification"]),
    }[task]
    folder, _ = pellucid.train(task, rows, model=base, lora=2, output_dir=tmp_path / "out", **FEW)
    assert (folder / "adapter" / "adapter_model.safetensors").exists() and len(pipeline(task, folder)(["anna"])) == 1


def test_ranks_that_can_not_be(models, tmp_path):
    options = {"model": "no/such-model", "output_dir": tmp_path / "out"}
    rows = [{"text": text, "label": label} for text, label in TEXTS]
    with pytest.raises(ConfigError, match="rank r is 0"):
        pellucid.train("text-classification", rows, lora=0, **options)
    with pytest.raises(InputError, match="lora is for whole models"):
        pellucid.train("text-classification", rows, lora=2, parallel="fsdp", **options)


# --- going on ---------------------------------------------------------------------------------------------------------


def test_a_killed_command_goes_on_to_the_same_weights(models, tmp_path):
    data = write_csv(tmp_path / "reviews.csv", TEXTS)
    model = str(models["text-classification"])
    given = ["train", "text-classification", str(data), "--model", model, "--epochs", "10", "--patience", "10"]
    given += ["--option", "use_cpu=true", "--output"]
    whole = CliRunner().invoke(app, [*given, str(tmp_path / "whole")])
    assert whole.exit_code == 0 and whole.stderr == ""
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    command = [sys.executable, "-m", "pellucid.cli", *given, str(tmp_path / "part")]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    while not list((tmp_path / "part-checkpoints").glob("checkpoint-*")) and process.poll() is None:
        time.sleep(0.01)
    process.kill()
    assert process.wait() == -signal.SIGKILL and not (tmp_path / "part").exists()
    result = CliRunner().invoke(app, [*given, str(tmp_path / "part"), "--resume"])
    assert result.exit_code == 0 and result.stderr == ""
    assert result.stdout.replace("part", "whole") == whole.stdout
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in ("whole", "part")]
    assert weights[0] == weights[1] and not (tmp_path / "part-checkpoints").exists()
    again = CliRunner().invoke(app, [*given, str(tmp_path / "part"), "--resume"])
    assert again.exit_code == 1 and "no checkpoint" in again.stderr and "part-checkpoints" in again.stderr


# --- errors, before the model is loaded -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "no rows"),
        ([{"txt": "a", "label": "b"}], "did you mean 'txt'"),
        ([{"text": "a", "label": "b"}, {"text": "a"}], "'label' is missing in row 2"),
        ([{"text": "a", "label": "b"}] * 4, "All 4 rows have the label 'b'"),
        ([{"text": "a", "label": 1}, {"text": "a", "label": "1"}], "mixes int .row 1. and str .row 2."),
        ([{"text": "a", "label": 0.5}] * 2, "0.5; expected labels"),
        ([{"text": "a", "label": "bad"}] * 3 + [{"text": "a", "label": "bda"}], "only once: 'bda'; did you mean 'bad'"),
        ([{"text": " ", "label": "b"}] * 2, "'text' is empty in row 1, 2"),
        ([{"text": 3, "label": "b"}], "'text' is no text in row 1"),
        ([{"text": "a", "label": None}], "'label' is empty in row 1"),
        (["a", "b"], "Row 1 of the data is 'a'; expected a dictionary"),
    ],
)
def test_unusable_rows(rows, message, tmp_path):
    with pytest.raises(InputError, match=message):
        pellucid.train("text-classification", rows, model="no/such-model", output_dir=tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.csv", "", "no rows"),
        ("a.csv", "text,label\n", "no rows"),
        ("a.csv", "text,label\na,b,c\n", "line 2: more cells than the 2 columns"),
        ("a.csv", 'text,label\n"a,b\n', "line 2: unexpected end"),
        ("a.csv", "text,text\na,b\n", "'text' is the name of several columns"),
        ("a.jsonl", '{"text": "a"}\n{\n', "line 2"),
        ("a.json", "[1]", "list of objects"),
        ("a.xls", "", "ends in '.xls'"),
    ],
)
def test_unusable_files(name, content, message, tmp_path):
    (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=message):
        read_table(tmp_path / name)


def test_other_files(tmp_path):
    with pytest.raises(InputError, match=r"no file .*reviews.csv; did you mean 'review.csv'"):
        write_csv(tmp_path / "review.csv", TEXTS)
        read_table(tmp_path / "reviews.csv")
    semicolons = write_csv(tmp_path / "b.csv", [("a, b", "c")], "\ufefftext;label", ";")
    assert read_table(semicolons) == [{"text": "a, b", "label": "c"}]
    (tmp_path / "c.csv").write_bytes(b"text,label\n\xff,a\n")
    with pytest.raises(InputError, match="not UTF-8"):
        read_table(tmp_path / "c.csv")
    (tmp_path / "d.txt").write_text("one\ntwo\n\nthree\n", encoding="utf-8")
    assert read_table(tmp_path / "d.txt") == [{"text": "one\ntwo"}, {"text": "three"}]


def test_parquet_says_what_to_install(tmp_path, monkeypatch):
    (tmp_path / "a.parquet").write_bytes(b"")
    monkeypatch.setitem(__import__("sys").modules, "pyarrow", None)
    with pytest.raises(MissingPackageError, match=r"pip install 'pellucid\[train\]'"):
        read_table(tmp_path / "a.parquet")


def test_settings_and_places_that_can_not_be_used(models, tmp_path):
    rows = [{"text": text, "label": label} for text, label in TEXTS]

    def refused(**more: Any) -> None:
        usable = {"task": "text-classification", "data": rows, "model": "no/such-model", "output_dir": tmp_path / "out"}
        pellucid.train(**{**usable, **more})

    with pytest.raises(ArgumentError, match="learning_rate"):
        refused(learnin_rate=1)
    with pytest.raises(InputError, match="did you mean 'label'"):
        refused(target="labl")
    with pytest.raises(InputError, match="fill-mask can not be trained"):
        refused(task="fill-mask")
    with pytest.raises(InputError, match="did you mean 'good'"):
        refused(validation=[{"text": "a", "label": "goood"}])
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("")
    with pytest.raises(InputError, match="no training wrote"):
        refused(output_dir=tmp_path / "mine")
    with pytest.raises(InputError, match="question-answering has no column for target="):
        refused(task="question-answering", target="answer")
    with pytest.raises(InputError, match="does not have the answer 'd' at 0"):
        refused(
            task="question-answering",
            data=[{"question": "a", "context": "b", "answers": {"text": ["d"], "answer_start": [0]}}],
        )
    with pytest.raises(InputError, match="without a question"):
        refused(task="question-answering", data=[{"paragraphs": [{"context": "a"}]}])
    with pytest.raises(InputError, match="1 tokens and 2 tags"):
        refused(task="ner", data=[{"tokens": ["a"], "tags": ["O", "B"]}])
    with pytest.raises(InputError, match="the folder of the model itself"):
        refused(model=models["text-classification"], output_dir=models["text-classification"])


def test_a_split_has_all_classes_in_both_parts_and_each_context_in_one():
    examples = [{"label": i % 3, "context": i // 6} for i in range(120)]
    parts = split(examples, 0.2, 1)
    assert [len(part) for part in parts] == [96, 24] and parts == split(examples, 0.2, 1) != split(examples, 0.2, 2)
    assert all({example["label"] for example in part} == {0, 1, 2} for part in parts)
    contexts = [{"context": i // 6} for i in range(120)]
    both = [{example["context"] for example in part} for part in split(contexts, 0.2, 1)]
    assert not both[0] & both[1]


# --- the command ------------------------------------------------------------------------------------------------------


def test_command(models, tmp_path):
    data = write_csv(tmp_path / "reviews.csv", TEXTS, "review,stars")
    given = ["train", "text-classification", str(data), "--model", str(models["text-classification"])]
    given += ["--output", str(tmp_path / "out"), "--option", "use_cpu=true"]
    result = CliRunner().invoke(app, [*given, "--target", "star"])
    assert result.exit_code == 1 and result.stderr.startswith("error: target is 'star'") and "'stars'" in result.stderr
    result = CliRunner().invoke(app, [*given, "--target", "stars", "--epochs", "1"])
    assert result.exit_code == 0 and result.stderr == ""
    lines = dict(line.split("\t") for line in result.stdout.splitlines())
    assert 0 <= float(lines["accuracy"]) <= 1 and lines["folder"] == str(tmp_path / "out")
