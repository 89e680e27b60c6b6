import shutil

import pytest

import tiny
from pellucid import AutoTokenizer
from pellucid.errors import ConfigError, InputError
from pellucid.pipelines import pipeline

TASK, QUESTION = "document-question-answering", "where is anna ?"
WORDS = [
    "anna",
    "smith",
    "works",
    "for",
    "the",
    "unbelievable",
    "acme",
    "corp",
    "in",
    "new",
    "york,",
    "not",
    "in",
    "berlin",
]
DOCUMENT = [(word, [10 * i, 20, 10 * i + 9, 30 + i]) for i, word in enumerate(WORDS)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("document")
    vocabulary = len(tiny.REAL.read_text(encoding="utf-8").splitlines())
    tiny.model(TASK, "layoutlm", vocab_size=vocabulary).save_pretrained(folder)
    shutil.copy(tiny.REAL, folder)
    AutoTokenizer.from_pretrained(folder, model_max_length=tiny.POSITIONS).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline(TASK, folder)


@pytest.mark.parametrize("options", [{}, {"max_answer_len": 2}, {"handle_impossible_answer": True}])
def test_same_as_the_original(pipe, folder, options):
    original = tiny.original(TASK, folder)
    for question, document in ((QUESTION, DOCUMENT), ("Who works?", DOCUMENT[:3])):
        (ours,) = pipe(question=question, word_boxes=document, **options)
        (theirs,) = original(image=None, question=question, word_boxes=document, **options)
        assert list(ours) == list(theirs)
        assert ours == theirs | {"score": pytest.approx(theirs["score"], abs=1e-5)}


def test_answers_are_words(pipe):
    answers = pipe(QUESTION, word_boxes=DOCUMENT, top_k=20)
    assert len(answers) == 20 and answers[0] == pipe(QUESTION, word_boxes=DOCUMENT)[0]
    for answer in answers:
        assert answer["answer"] == " ".join(WORDS[answer["start"] : answer["end"] + 1])
    assert len({(answer["start"], answer["end"]) for answer in answers}) == 20


def test_windows_choose_the_best_of_all(pipe):
    item = {
        "question": QUESTION,
        "word_boxes": [(word, (7 * i, 20, 7 * i + 5, 30)) for i, word in enumerate(WORDS * 8)],
    }
    pieces = pipe.preprocess(item, doc_stride=5)
    assert len(pieces) > 3 and all(len(piece["bbox"]) == len(piece["input_ids"]) == tiny.POSITIONS for piece in pieces)
    alone = [pipe.postprocess([piece], pipe.rows(pipe.forward([piece]), [piece]))[0] for piece in pieces]
    best = max(alone, key=lambda answer: answer["score"])
    assert pipe(item, doc_stride=5) == [best | {"score": pytest.approx(best["score"], abs=1e-6)}]


def test_boxes_matter(pipe):
    moved = [(word, (left, top + 500, right, bottom + 500)) for word, (left, top, right, bottom) in DOCUMENT]
    assert pipe(QUESTION, word_boxes=moved) != pipe(QUESTION, word_boxes=DOCUMENT)
    rounded = [(word, [side + 0.2 for side in box]) for word, box in DOCUMENT]
    assert pipe(QUESTION, word_boxes=rounded) == pipe(QUESTION, word_boxes=DOCUMENT)


def test_forms(pipe):
    wanted = pipe({"question": QUESTION, "word_boxes": DOCUMENT})
    assert pipe("page.png", QUESTION, DOCUMENT) == wanted  # the image is not looked at
    assert pipe(image="page.png", question=QUESTION, word_boxes=DOCUMENT) == wanted
    assert pipe({"image": "page.png", "question": QUESTION, "word_boxes": DOCUMENT}) == wanted
    several = pipe([QUESTION, QUESTION], word_boxes=DOCUMENT)
    assert tiny.numbers(several) == pytest.approx(tiny.numbers(wanted) * 2, abs=1e-6)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        ({"question": QUESTION}, "no word_boxes.*recognises no text in images"),
        ({"question": QUESTION, "image": "page.png", "word_boxes": []}, "no word_boxes"),
        ({"question": " ", "word_boxes": DOCUMENT}, "empty question"),
        ({"question": QUESTION, "word_boxes": [("a", (0, 0, 1001, 5))]}, r"word_boxes\[0\].*0 to 1000"),
        ({"question": QUESTION, "word_boxes": [("a", (5, 0, 1, 5))]}, r"word_boxes\[0\]"),
        ({"question": QUESTION, "word_boxes": [DOCUMENT[0], ("a", (0, 1, 5))]}, r"word_boxes\[1\]"),
        ({"question": QUESTION, "word_boxes": ["anna"]}, r"word_boxes\[0\]"),
    ],
)
def test_bad_input_names_itself(pipe, item, words):
    with pytest.raises(InputError, match=words):
        pipe(item)


def test_a_model_without_boxes():
    with pytest.raises(ConfigError, match="question-answering runs this one"):
        pipeline(TASK, tiny.model("question-answering"), tokenizer=tiny.tokenizer())
