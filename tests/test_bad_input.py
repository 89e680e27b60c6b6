"""Checkpoints and tokenizers that do not fit what is asked of them: a clear error each, never a silent answer."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file, save_file

from oracle import checkpoint
from pellucid import (
    AutoModelForMaskedLM,
    AutoModelForNextSentencePrediction,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    pipeline,
)
from pellucid.errors import ConfigError, InputError, TokenizerError, WeightsError
from pellucid.pipelines import TASKS, find_task

FILE = "model.safetensors"
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"abcdefgh"]


def write_tokenizer(folder, words=WORDS):
    (folder / "vocab.txt").write_text("\n".join(words) + "\n")
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer"}')
    return folder


@pytest.fixture
def folder(tmp_path):
    """Return `folder(architecture, head, **config)`: the original's checkpoint with a tokenizer beside it."""

    def write(architecture, head, **config):
        shutil.copytree(checkpoint(architecture, head), tmp_path, dirs_exist_ok=True)
        values = json.loads((tmp_path / "config.json").read_text()) | config
        (tmp_path / "config.json").write_text(json.dumps({key: v for key, v in values.items() if v is not None}))
        return write_tokenizer(tmp_path)

    return write


# --- heads and tasks --------------------------------------------------------------------------------------------------

# what a classifier of texts runs
SORTING = ("feature-extraction", "text-classification", "embedding", "text-ranking", "zero-shot-classification")


@pytest.mark.parametrize("task", ["ner", *(name for name in TASKS if name not in SORTING)])
def test_a_task_for_which_the_checkpoint_has_no_head(folder, task):
    """Even where the head's tensors have the names and shapes of the task's, as for ner."""
    path = folder("bert", "ForSequenceClassification")
    with pytest.raises(InputError, match=rf"it is a BertForSequenceClassification, which runs: {', '.join(SORTING)}\."):
        pipeline(task, path)
    assert pipeline("text-classification", path)("a b")
    assert pipeline("feature-extraction", path)("a b")


@pytest.mark.parametrize("task", ["sentiment-analysis", "text-ranking", "zero-shot-classification"])
def test_a_checkpoint_that_can_not_sort_texts(folder, task):
    with pytest.raises(InputError, match=r"it is a BertForTokenClassification, which runs: .*token-classification"):
        pipeline(task, folder("bert", "ForTokenClassification"))


def test_a_new_head_in_a_pipeline_is_a_choice(folder):
    pipe = pipeline("ner", folder("bert", "ForMaskedLM"), model_kwargs={"num_labels": 4})
    assert pipe.model.load_report.new == ("classifier.weight", "classifier.bias")


def test_a_task_for_a_checkpoint_that_does_not_say_its_head(folder):
    path = folder("bert", "Model")
    with pytest.raises(
        WeightsError, match=r"missing in the checkpoint: qa_outputs.*\n.*\n.*BertModel, which runs: feature-ext"
    ):
        pipeline("question-answering", path)
    path = folder("bert", "ForMaskedLM", architectures=None)
    assert pipeline("fill-mask", path)("a [MASK]")
    with pytest.raises(WeightsError, match="qa_outputs") as caught:
        pipeline("question-answering", path)
    assert "which runs" not in str(caught.value)


@pytest.mark.parametrize(("named", "task"), [("BertForPreTraining", "fill-mask"), ("SomebodysBert", "fill-mask")])
def test_a_class_that_no_task_knows_is_tried(folder, named, task):
    assert pipeline(task, folder("bert", "ForMaskedLM", architectures=[named]))("a [MASK]")


def test_the_task_of_a_model(folder):
    for head in ("Model", "ForMaskedLM", "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering"):
        task = next(task for task in TASKS.values() if head in task.heads)
        assert type(pipeline(model=folder("bert", head))).__name__ == task.pipeline
    with pytest.raises(ConfigError, match="is a BertForPreTraining, which no task runs; name the task"):
        pipeline(model=folder("bert", "ForPreTraining"))


def test_a_head_that_the_architecture_has_not(folder):
    with pytest.raises(ConfigError, match=r"distilbert has no class for AutoModelForNextSentencePrediction; it has: "):
        AutoModelForNextSentencePrediction.from_pretrained(folder("distilbert", "ForMaskedLM"))
    with pytest.raises(
        ConfigError, match=r"no class for AutoModelForMultipleChoice.*\n  It is a NomicBertModel, which runs: f"
    ):
        pipeline("multiple-choice", folder("nomic_bert", "Model"))


def test_a_head_that_the_checkpoint_has_not(folder):
    path = folder("bert", "ForMaskedLM")
    message = r"classifier\.weight, classifier\.bias\n.*\(config\.json says BertForMaskedLM\).*say so: num_labels="
    with pytest.raises(WeightsError, match=message):
        AutoModelForSequenceClassification.from_pretrained(path)
    assert AutoModelForSequenceClassification.from_pretrained(path, num_labels=3).load_report.new


# --- labels -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("task", ["ner", "sentiment-analysis", "text-ranking", "zero-shot-classification"])
def test_labels_that_the_config_does_not_name(folder, task):
    path = folder("bert", find_task(task).heads[0], id2label=None, label2id=None)
    with pytest.raises(
        WeightsError, match=r"classifier\.weight \(file \[3, 32\], model \[2, 32\]\)\n.*pass num_labels=3"
    ):
        pipeline(task, path)


def test_the_number_or_the_names_of_the_labels_can_be_said(folder):
    path = folder("bert", "ForSequenceClassification", id2label=None, label2id=None)
    pipe = pipeline("text-classification", path, model_kwargs={"num_labels": 3})
    assert not pipe.model.load_report.new
    assert {answer["label"] for answer in pipe("a b", top_k=None)} == {"LABEL_0", "LABEL_1", "LABEL_2"}
    named = pipeline("text-classification", path, model_kwargs={"id2label": {0: "x", 1: "y", 2: "z"}})
    assert {answer["label"] for answer in named("a b", top_k=None)} == {"x", "y", "z"}


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ({"0": "x", "2": "z"}, r"id2label has the ids \[0, 2\]; expected 0 to 1"),
        ({"a": "x", "b": "y"}, r"id2label has the keys .*expected whole numbers"),
        ({}, r"pass num_labels=3"),
    ],
)
def test_labels_with_gaps(folder, labels, message):
    with pytest.raises((ConfigError, WeightsError), match=message):
        pipeline("text-classification", folder("bert", "ForSequenceClassification", id2label=labels, label2id=None))


# --- tokenizers -------------------------------------------------------------------------------------------------------


def test_a_tokenizer_of_a_larger_vocabulary(folder):
    path = folder("bert", "ForMaskedLM")  # whose vocabulary has 99 tokens
    write_tokenizer(path, [*WORDS, *(f"w{i}" for i in range(99))])
    with pytest.raises(TokenizerError, match="The tokenizer has 112 tokens, the model 99; they do not belong together"):
        pipeline("fill-mask", path)
    model, tokenizer = AutoModelForMaskedLM.from_pretrained(path), AutoTokenizer.from_pretrained(path)
    with pytest.raises(TokenizerError, match="112 tokens, the model 99"):
        pipeline("fill-mask", model, tokenizer=tokenizer)


def test_added_tokens_beyond_the_vocabulary(folder):
    """Some published checkpoints have them, unused; a text that has one is refused."""
    path = folder("bert", "ForMaskedLM")
    write_tokenizer(path, [*WORDS, *(f"w{i}" for i in range(99 - len(WORDS)))])
    tokenizer = AutoTokenizer.from_pretrained(path)
    tokenizer.add_tokens(["<new>"])
    pipe = pipeline("fill-mask", AutoModelForMaskedLM.from_pretrained(path), tokenizer=tokenizer)
    assert pipe("a [MASK]")
    for texts in ("<new> [MASK]", ["a b c d [MASK]", "<new> [MASK]"] * 4):  # packed, more tokens than one text may have
        with pytest.raises(InputError, match="input_ids holds 99; expected 0 to 98"):
            pipe(texts)


# --- the architecture -------------------------------------------------------------------------------------------------


def test_a_config_without_a_model_type_is_told_it(folder):
    path = folder("bert", "ForMaskedLM", model_type=None, architectures=None)
    with pytest.raises(ConfigError, match=r"config\.json has no model_type.*say so: model_type='bert'"):
        pipeline("fill-mask", path)
    (path / "tokenizer_config.json").unlink()  # so that model_type has to tell the tokenizer too
    pipe = pipeline("fill-mask", path, model_type="bert")
    assert pipe("a [MASK]")
    pipe.save_pretrained(path / "saved")
    assert json.loads((path / "saved" / "config.json").read_text())["model_type"] == "bert"


def test_a_model_type_that_contradicts_the_model(folder):
    path = folder("bert", "ForMaskedLM")
    for model in (path, AutoModelForMaskedLM.from_pretrained(path)):
        with pytest.raises(ConfigError, match="says model_type 'bert'; leave model_type='roberta' out"):
            pipeline("fill-mask", model, tokenizer=path, model_type="roberta")


def test_damaged_weights_keep_their_own_message(folder):
    path = folder("bert", "ForMaskedLM")
    tensors = load_file(path / FILE)
    del tensors["bert.embeddings.LayerNorm.weight"]
    save_file({name: torch.clone(tensor) for name, tensor in tensors.items()}, path / FILE)
    with pytest.raises(WeightsError, match=r"missing in the checkpoint: bert\.embeddings\.LayerNorm\.weight"):
        pipeline("fill-mask", path)


def test_special_tokens_that_overlap(folder):
    """Of special tokens of which one begins another, a text's longest counts, in whichever order they were added."""
    path = folder("bert", "ForMaskedLM")
    for tokens in (["<a>", "<a><b>"], ["<a><b>", "<a>"]):
        tokenizer = AutoTokenizer.from_pretrained(path)
        tokenizer.add_special_tokens({"additional_special_tokens": tokens})
        assert tokenizer.tokenize("c<a><b>d<a>e") == ["c", "<a><b>", "d", "<a>", "e"]
