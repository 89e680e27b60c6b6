import pytest

import tiny
from pellucid.errors import ConfigError, InputError
from pellucid.pipelines import pipeline

TASK, TEXT = "zero-shot-classification", "anna works for the acme corp"
LABELS = ["work", "politics", "unbelievable films"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("nli"), TASK)


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline(TASK, folder)


@pytest.fixture(scope="module")
def original(folder):
    return tiny.original(TASK, folder)


def assert_alike(ours, theirs):
    if isinstance(theirs, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_alike(a, b)
    else:
        assert list(ours) == list(theirs)
        assert ours == theirs | {"scores": pytest.approx(theirs["scores"], abs=1e-5)}


@pytest.mark.parametrize("multi_label", [False, True])
@pytest.mark.parametrize("labels", [LABELS, LABELS[:1], "work, politics,films"])
@pytest.mark.parametrize("options", [{}, {"hypothesis_template": "It is about {}!"}])
def test_same_as_the_original(pipe, original, multi_label, labels, options):
    options = options | {"candidate_labels": labels, "multi_label": multi_label}
    assert_alike(pipe(TEXT, **options), original(TEXT, **options))
    assert_alike(pipe([TEXT, "berlin"], **options), original([TEXT, "berlin"], **options))
    assert_alike(pipe([TEXT], **options), original([TEXT], **options))


@pytest.mark.parametrize("labels", [["entailment", "neutral", "contradiction"], ["no", "ENTAILS"]])
def test_entailment_by_its_label(tmp_path, labels):
    names = {"id2label": dict(enumerate(labels)), "label2id": {label: i for i, label in enumerate(labels)}}
    folder = tiny.save(tmp_path, TASK, **names)
    ours, theirs = pipeline(TASK, folder), tiny.original(TASK, folder)
    for multi_label in (False, True):
        assert_alike(ours(TEXT, LABELS, multi_label=multi_label), theirs(TEXT, LABELS, multi_label=multi_label))


def test_forms(pipe):
    wanted = pipe(TEXT, candidate_labels=LABELS)
    assert pipe(TEXT, LABELS) == pipe(sequences=TEXT, candidate_labels=LABELS) == wanted
    assert pipe(TEXT, LABELS, multi_class=True) == pipe(TEXT, LABELS, multi_label=True) != wanted
    assert pipe(TEXT, [*LABELS, "work"]) == wanted
    assert sum(wanted["scores"]) == pytest.approx(1)
    preset = pipeline(TASK, pipe.model, tokenizer=pipe.tokenizer, candidate_labels=LABELS)
    assert preset(TEXT) == wanted
    assert_alike(list(preset(text for text in [TEXT])), [wanted])


def test_of_a_long_text_the_beginning_counts(pipe, original):
    text = f"{TEXT} " * 30
    assert_alike(pipe(text, LABELS[:2]), original(text, LABELS[:2]))
    assert "of 1 long text(s) only the beginning is read" in str(pipe.trace([text, "good"], candidate_labels=LABELS))


@pytest.mark.parametrize(
    ("text", "options", "words"),
    [
        (TEXT, {}, "needs candidate_labels"),
        (TEXT, {"candidate_labels": []}, "candidate_labels is \\[\\]"),
        (TEXT, {"candidate_labels": " , "}, "at least one"),
        (TEXT, {"candidate_labels": ["a", 5]}, "candidate_labels"),
        (TEXT, {"candidate_labels": LABELS, "hypothesis_template": "no place"}, "hypothesis_template is 'no place'"),
        (TEXT, {"candidate_labels": ["good " * 100]}, "max_length=48"),
    ],
)
def test_bad_input_names_itself(pipe, text, options, words):
    with pytest.raises(InputError, match=words):
        pipe(text, **options)


def test_a_model_of_another_task():
    with pytest.raises(ConfigError, match=r"this one's labels are NO, YES\. The task text-classification runs it"):
        pipeline(TASK, tiny.model("text-classification"), tokenizer=tiny.tokenizer())
