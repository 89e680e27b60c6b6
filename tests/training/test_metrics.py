"""Metrics equal the libraries that they are usually computed with, in one piece, in batches, and over processes."""

import importlib
import importlib.util
import math
import sys
import warnings
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from pellucid.errors import InputError, MissingPackageError
from pellucid.training.metrics import (
    F1,
    Accuracy,
    AnswerOverlap,
    ConfusionMatrix,
    EntitySpans,
    MatthewsCorrelation,
    Metrics,
    Perplexity,
    Rouge,
    SacreBleu,
    spans,
)

CLASSES = st.integers(2, 5).flatmap(
    lambda n: st.lists(st.tuples(st.integers(0, n - 1), st.integers(0, n - 1)), min_size=1, max_size=60)
)
TAGS = ["O", "B-PER", "I-PER", "B-LOC", "I-LOC", "E-PER", "S-PER", "E-LOC", "S-LOC"]


@contextmanager
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def library(name):
    """Import a library to compare with, whose import may warn."""
    if importlib.util.find_spec(name.partition(".")[0]) is None:
        pytest.skip(f"{name} is not installed")
    with quiet():
        return importlib.import_module(name)


def counted(make, predictions, labels, size=7):
    """Count in batches, by two accumulators that are merged, and in one; both must agree."""
    whole, parts = make(), [make(), make()]
    whole.update(predictions, labels)
    for i, start in enumerate(range(0, len(labels), size)):
        parts[i % 2].update(predictions[start : start + size], labels[start : start + size])
    parts[0].merge(parts[1])
    assert _flat(parts[0].compute()) == pytest.approx(_flat(whole.compute()))
    return whole.compute()


def _flat(results):
    flat = {}
    for name, value in results.items():
        for i, part in enumerate(value.items() if isinstance(value, dict) else [(0, value)]):
            flat[name, i] = np.array(part[1], dtype=float)
    return {key: value if value.shape else float(value) for key, value in flat.items()}


# --- classes ----------------------------------------------------------------------------------------------------------


@given(pairs=CLASSES)
@settings(max_examples=60, deadline=None)
def test_classes_equal_scikit_learn(pairs):
    sk = library("sklearn.metrics")
    labels, said = (torch.tensor(column) for column in zip(*pairs, strict=True))
    assert counted(Accuracy, said, labels)["accuracy"] == pytest.approx(sk.accuracy_score(labels, said))
    with quiet():
        expected = sk.matthews_corrcoef(labels, said)
    assert counted(MatthewsCorrelation, said, labels)["matthews_correlation"] == pytest.approx(expected, abs=1e-12)
    for average in ("macro", "micro"):
        ours = counted(lambda average=average: F1(average), said, labels)
        theirs = sk.precision_recall_fscore_support(labels, said, average=average, zero_division=0)
        assert [ours["precision"], ours["recall"], ours["f1"]] == pytest.approx(theirs[:3])
    labels, said = labels.clamp(max=1), said.clamp(max=1)
    ours = counted(F1, said, labels)
    theirs = sk.precision_recall_fscore_support(labels, said, average="binary", zero_division=0)
    assert [ours["precision"], ours["recall"], ours["f1"]] == pytest.approx(theirs[:3])


def test_scores_and_what_does_not_count():
    logits = torch.tensor([[[0.1, 2.0], [3.0, 0.0], [0.0, 1.0]]])
    labels = torch.tensor([[1, 1, -100]])
    for kind in (torch.as_tensor, torch.Tensor.numpy, torch.Tensor.tolist):
        metric = Accuracy()
        metric.update(kind(logits), kind(labels))
        assert metric.compute() == {"accuracy": 0.5}
    matrix = ConfusionMatrix()
    matrix.update(logits, labels)
    assert matrix.compute() == {"confusion_matrix": [[0, 0], [1, 1]]}


def test_several_metrics_are_one():
    several = Metrics(Accuracy(), F1("macro"))
    more = Metrics(Accuracy(), F1("macro"))
    several.update([0, 1], [0, 1])
    more.update([0, 1], [1, 1])
    several.merge(more)
    assert several.compute() == pytest.approx(
        {"accuracy": 0.75, "f1": 0.733333, "precision": 0.75, "recall": 0.8333333}
    )
    several.reset()
    with pytest.raises(InputError, match="counted nothing"):
        several.compute()


# --- entities ---------------------------------------------------------------------------------------------------------


@given(rows=st.lists(st.lists(st.sampled_from(TAGS), min_size=1, max_size=12), min_size=1, max_size=5), data=st.data())
@settings(max_examples=100, deadline=None)
def test_entities_equal_seqeval(rows, data):
    seqeval = library("seqeval.metrics")
    said = [[data.draw(st.sampled_from(TAGS)) if data.draw(st.booleans()) else tag for tag in row] for row in rows]
    longest = max(map(len, rows))
    labels, predictions = (
        torch.tensor([[TAGS.index(tag) for tag in row] + [filler] * (longest - len(row)) for row in of])
        for of, filler in ((rows, -100), (said, 0))
    )
    ours = counted(lambda: EntitySpans(TAGS), predictions, labels, size=2)
    with quiet():
        expected = seqeval.classification_report(rows, said, output_dict=True, zero_division=0)
        accuracy = seqeval.accuracy_score(rows, said)
    assert ours.pop("overall_accuracy") == pytest.approx(accuracy)
    overall = [ours.pop(f"overall_{name}") for name in ("precision", "recall", "f1")]
    if "micro avg" in expected:
        assert overall == pytest.approx([expected["micro avg"][name] for name in ("precision", "recall", "f1-score")])
    theirs = {kind: scores for kind, scores in expected.items() if not kind.endswith(" avg")}
    assert set(ours) == set(theirs)
    for kind, scores in theirs.items():
        assert list(ours[kind].values()) == pytest.approx(list(scores.values()))


@pytest.mark.parametrize("scheme", ["IOB1", "IOB2", "BIOES"])
@given(tags=st.lists(st.sampled_from(TAGS), max_size=14))
@settings(max_examples=150, deadline=None)
def test_strict_schemes_equal_seqeval(scheme, tags):
    of_seqeval = library("seqeval.scheme")
    if scheme != "BIOES":
        tags = [tag for tag in tags if tag[0] in "OBI"]
    if scheme == "IOB1":  # of a B that nothing of its type stands before, seqeval makes several things
        before = ["O", *tags]
        tags = [f"I{tag[1:]}" if tag[0] == "B" and tag[1:] != before[i][1:] else tag for i, tag in enumerate(tags)]
    kind = getattr(of_seqeval, {"BIOES": "IOBES"}.get(scheme, scheme))
    expected = [e.to_tuple()[1:] for e in of_seqeval.Tokens(tags, kind).entities] if tags else []
    assert [(name, first, last + 1) for name, first, last in spans(tags, scheme)] == expected


def test_spans_of_plain_and_hyphened_names():
    assert spans(["MISC", "MISC", "O", "B-work-of-art", "I-work-of-art"]) == [("MISC", 0, 1), ("work-of-art", 3, 4)]
    with pytest.raises(InputError, match="'IOB2'"):
        EntitySpans(TAGS, "IOB")


# --- texts ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said, true, exact, f1",
    [
        ("the Cat!", ["cat"], 100, 100),
        ("a black cat", ["the cat", "dog"], 0, 200 / 3),
        ("", [], 100, 100),
        ("dog", [], 0, 0),
        ("", ["dog"], 0, 0),
        ("in 1990", ["1990", "in 1990"], 100, 100),
        ("b b c", ["b c c"], 0, 200 / 3),
    ],
)
def test_answers(said, true, exact, f1):
    metric = AnswerOverlap()
    metric.update([said], [true])
    assert metric.compute() == pytest.approx({"exact_match": exact, "f1": f1})
    squad = AnswerOverlap()
    squad.update([{"id": "1", "prediction_text": said}], [{"id": "1", "answers": {"text": true, "answer_start": []}}])
    assert squad.compute() == metric.compute()


SAID = ["the cat sat on the mat .", "hello world", "a b c d e", "", "short"]
TRUE = ["the cat lay on the mat .", "hello there world", "a b c d f", "something", "short"]


def test_rouge_is_the_mean_of_its_library():
    scorer = library("rouge_score.rouge_scorer").RougeScorer(["rouge1", "rouge2", "rougeL", "rougeLsum"])
    scores = [scorer.score(true, said) for said, true in zip(SAID, TRUE, strict=True)]
    ours = counted(Rouge, SAID, TRUE, size=2)
    assert ours == pytest.approx({kind: np.mean([s[kind].fmeasure for s in scores]) for kind in scores[0]})


def test_bleu_is_that_of_its_library():
    sacrebleu = library("sacrebleu")
    ours = counted(SacreBleu, SAID, TRUE, size=2)
    expected = sacrebleu.corpus_bleu(SAID, [TRUE])
    assert (ours["score"], ours["bp"]) == pytest.approx((expected.score, expected.bp))
    assert (ours["sys_len"], ours["ref_len"]) == (expected.sys_len, expected.ref_len)
    several = [["the cat sat on a mat .", "x"], ["hello world"], ["a b c d e f g"], ["y", "z"], ["short text"]]
    again = counted(SacreBleu, SAID, several, size=2)
    longest = [[row[i] if i < len(row) else None for row in several] for i in range(2)]
    assert again["score"] == pytest.approx(sacrebleu.corpus_bleu(SAID, longest).score)


def test_token_ids_are_decoded():
    words = tiny.tokenizer()
    batch = words(["the film is good", "berlin"], padding=True, return_tensors="pt")
    labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, -100)
    metric = AnswerOverlap(words)
    metric.update(batch["input_ids"], labels)
    assert metric.compute() == {"exact_match": 100.0, "f1": 100.0}
    with pytest.raises(InputError, match="tokenizer="):
        AnswerOverlap().update(batch["input_ids"], labels)


def test_perplexity_is_that_of_the_loss():
    model = tiny.model("text-generation", "gpt2")
    ids = torch.randint(5, 30, (3, 9), generator=torch.Generator().manual_seed(0))
    labels = ids.clone()
    labels[0, 4:] = -100
    with torch.no_grad():
        out = model(ids, labels=labels)
    assert counted(Perplexity, out.logits, labels, size=2)["perplexity"] == pytest.approx(math.exp(out.loss), rel=1e-5)
    metric = Perplexity(causal=False)
    metric.update(out.logits, labels)
    expected = F.cross_entropy(out.logits.flatten(0, 1), labels.flatten()).exp()
    assert metric.compute()["perplexity"] == pytest.approx(expected.item(), rel=1e-5)


# --- what is wrong ----------------------------------------------------------------------------------------------------


def test_what_is_wrong_is_named(monkeypatch):
    with pytest.raises(InputError, match="one more dimension"):
        Accuracy().update(torch.zeros(3), torch.zeros(3).long())
    with pytest.raises(InputError, match=r"of \(2,\), labels"):
        Accuracy().update([1, 2], [1])
    with pytest.raises(InputError, match="'macro' or 'micro'"):
        metric = F1()
        metric.update([0, 2], [0, 1])
        metric.compute()
    with pytest.raises(InputError, match="average"):
        F1("weighted")  # type: ignore[arg-type]
    for kind in (Accuracy, F1, MatthewsCorrelation, ConfusionMatrix, AnswerOverlap, Perplexity):
        with pytest.raises(InputError, match="counted nothing"):
            kind().compute()
    for package, kind in (("rouge_score", Rouge), ("sacrebleu", SacreBleu)):
        monkeypatch.setitem(sys.modules, package, None)
        monkeypatch.setitem(sys.modules, f"{package}.rouge_scorer", None)
        with pytest.raises(MissingPackageError, match="pellucid\\[metrics\\]"):
            kind()
