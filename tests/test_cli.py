import json
import os
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import tiny
from pellucid.cli import app

MODEL = ["--model", "pellucid/sentiment"]
TEXTS = ["I've been waiting for a HuggingFace course my whole life.", "I hate this so much!"]


def run(*arguments, stdin=None):
    return CliRunner().invoke(app, ["run", *arguments], input=stdin)


def test_one_text():
    result = run("sentiment-analysis", TEXTS[0], *MODEL)
    assert result.exit_code == 0 and result.stderr == ""
    label, score = result.stdout.strip().split("\t")
    assert label == "POSITIVE" and float(score) > 0.9


def test_texts_from_arguments_file_and_standard_input(tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    results = [
        run("sentiment-analysis", *TEXTS, *MODEL),
        run("sentiment-analysis", "--file", str(file), *MODEL),
        run("sentiment-analysis", "-", *MODEL, stdin="\n".join(TEXTS)),
    ]
    for result in results:
        assert result.exit_code == 0 and result.stderr == ""
        assert result.stdout == results[0].stdout
    assert [line.split("\t")[::2] for line in results[0].stdout.splitlines()] == [
        ["POSITIVE", TEXTS[0]],
        ["NEGATIVE", TEXTS[1]],
    ]


def test_json():
    result = run("sentiment-analysis", *TEXTS, "--json", *MODEL)
    assert [json.loads(line)["label"] for line in result.stdout.splitlines()] == ["POSITIVE", "NEGATIVE"]
    result = run("sentiment-analysis", TEXTS[0], "--json", "--top-k", "2", *MODEL)
    assert [part["label"] for part in json.loads(result.stdout)] == ["POSITIVE", "NEGATIVE"]


def test_trace():
    result = run("sentiment-analysis", *TEXTS, "--trace", *MODEL)
    assert result.exit_code == 0
    for part in ("1. The tokenizer", "[CLS]", "2. The model", "logits", "3. Post-processing", "POSITIVE", "NEGATIVE"):
        assert part in result.stdout


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Where a tiny random model of each task lies."""
    made = {}

    def folder(task):
        if task not in made:
            made[task] = tiny.save(tmp_path_factory.mktemp(task), task)
        return ["--model", str(made[task])]

    return folder


@pytest.mark.parametrize(
    ("task", "arguments", "columns"),
    [
        ("token-classification", ["anna works", "--option", "ignore_labels=[]"], [6, 6]),
        ("token-classification", ["anna works", "--option", "ignore_labels=[]", "--option", "stride=0"], [6, 6]),
        ("question-answering", ["who works ?", "--option", "context=anna works"], [4]),
        ("question-answering", ['{"question": "who works ?", "context": "anna works"}', "--top-k", "2"], [4, 4]),
        ("fill-mask", ["anna [MASK]", "--top-k", "3"], [4, 4, 4]),
        ("zero-shot-classification", ["anna works", "--option", "candidate_labels=work,play"], [2, 2]),
        ("feature-extraction", ["anna works"], [32] * 4),
        ("embedding", ["anna works"], [32]),
        ("sparse-embedding", ["anna works", "--top-k", "3"], [2, 2, 2]),
        ("text-ranking", ["anna", "--option", 'documents=["a", "b"]'], [2, 2]),
        ("text-ranking", ['{"text": "anna", "text_pair": "works"}'], [1]),
        ("multiple-choice", ["anna", "--option", 'choices=["works", "plays"]'], [3, 3]),
    ],
)
def test_every_task(folders, task, arguments, columns):
    result = run(task, *arguments, *folders(task))
    assert result.exit_code == 0 and result.stderr == ""
    assert [len(line.split("\t")) for line in result.stdout.splitlines()] == columns
    result = run(task, *arguments, "--json", *folders(task))
    assert result.exit_code == 0 and json.loads(result.stdout)
    result = run(task, *arguments, "--trace", *folders(task))
    assert result.exit_code == 0 and "[CLS]" in result.stdout


def test_several_texts_and_their_rows(folders):
    result = run("ner", "anna", "works", "--option", "ignore_labels=[]", *folders("token-classification"))
    assert [line.split("\t")[-1] for line in result.stdout.splitlines()] == ["anna", "works"]
    result = run("sentiment-analysis", '{"a": 1}', *MODEL)  # a text all the same
    assert result.exit_code == 0 and len(result.stdout.split("\t")) == 2


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["sentiment-analisis", "x", *MODEL], 1, "did you mean 'sentiment-analysis'"),
        (["sentiment-analysis", "x", "--model", "./no-such-folder"], 1, "no-such-folder"),
        (["sentiment-analysis", "x"], 1, "pellucid/sentiment"),  # the default model is not cached
        (["sentiment-analysis"], 2, "TEXT"),
        (["sentiment-analysis", "x", "--file", "y"], 2, "TEXT"),
        (["sentiment-analysis", "--file", "no-such-file", *MODEL], 2, "no-such-file"),
        (["sentiment-analysis", "x", "--jason", *MODEL], 2, "--json"),
        (["sentiment-analysis", "x", "--json", "--trace", *MODEL], 2, "exclude each other"),
        (["sentiment-analysis", "x", "--option", "top_k", *MODEL], 2, "name=value"),
        (["sentiment-analysis", "x", "--option", "topk=2", *MODEL], 1, "did you mean 'top_k'"),
    ],
)
def test_exit_codes(arguments, code, words):
    result = run(*arguments)
    assert result.exit_code == code and result.stdout == ""
    assert words in result.stderr and "Traceback" not in result.stderr


def test_the_program_itself():
    """A process of its own: nothing on stderr, and a closed pipe is no disaster."""
    command = [sys.executable, "-m", "pellucid.cli", "run", "sentiment-analysis", TEXTS[1], *MODEL]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ, check=True)
    assert done.stdout.startswith("NEGATIVE\t") and done.stderr == ""
    version = subprocess.run(
        [sys.executable, "-m", "pellucid.cli", "--version"], capture_output=True, text=True, check=True
    )
    assert version.stdout.startswith("pellucid ")
