import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from cases import CASES
from pellucid.errors import InputError, WeightsError
from pellucid.models.xlnet import XLNetConfig, XLNetForQuestionAnswering
from pellucid.pipelines import pipeline
from pellucid.pipelines.question_answering import likeliest_spans

QUESTION = "where is anna ?"
CONTEXT = "anna smith works for the unbelievable acme corp in new york, not in berlin"
WORDS = [*tiny.WORDS, "Unbelievable", "don't", "1987", "語言", "🙂", "x" * 10]
CONTEXTS = st.lists(st.sampled_from(WORDS), min_size=1, max_size=80).map(" ".join)


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipe("question-answering")


def by_hand(pipe, question, context, *, max_answer_len=15):
    """Every span of a context that one window shows, likeliest first, from the logits alone: [(score, start, end)]."""
    encoded = pipe.tokenizer(question, context, return_offsets_mapping=True)
    spans, parts = encoded["offset_mapping"], encoded.sequence_ids(0)
    inputs = {name: torch.tensor([encoded[name]]) for name in ("input_ids", "token_type_ids")}
    with torch.no_grad():
        output = pipe.model(**inputs)
    allowed = [i == 0 or part == 1 for i, part in enumerate(parts)]  # [CLS], which may stand for no answer, shares in
    begins, ends = (
        torch.where(torch.tensor(allowed), logits[0].double(), float("-inf")).softmax(0).tolist()
        for logits in (output.start_logits, output.end_logits)
    )
    inside = [i for i, part in enumerate(parts) if part == 1]
    found = [
        (begins[i] * ends[j], spans[i][0], spans[j][1]) for i in inside for j in inside if 0 <= j - i < max_answer_len
    ]
    return sorted(found, reverse=True), begins[0] * ends[0]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(context=st.lists(st.sampled_from(WORDS[:20]), min_size=1, max_size=8).map(" ".join), longest=st.integers(1, 9))
def test_same_as_by_hand(context, longest):
    pipe = tiny.pipe("question-answering")
    wanted, nothing = by_hand(pipe, QUESTION, context, max_answer_len=longest)
    options = {"max_answer_len": longest, "align_to_words": False}
    found = pipe(QUESTION, context, top_k=len(wanted) + 1, **options)
    assert [answer["score"] for answer in found] == pytest.approx([score for score, _, _ in wanted], abs=1e-6)
    best = pipe(QUESTION, context, **options)
    assert (best["start"], best["end"]) == wanted[0][1:]
    assert all(answer["answer"] == context[answer["start"] : answer["end"]] for answer in found)
    with_none = pipe(QUESTION, context, top_k=len(wanted) + 1, handle_impossible_answer=True, **options)
    (none,) = [answer for answer in with_none if answer["answer"] == ""]
    assert none == {"score": pytest.approx(nothing, abs=1e-6), "start": 0, "end": 0, "answer": ""}


@settings(max_examples=30, deadline=None, derandomize=True)
@given(context=CONTEXTS, top_k=st.integers(1, 5), aligned=st.booleans(), stride=st.integers(0, 40))
def test_an_answer_is_its_place_in_the_context(context, top_k, aligned, stride):
    pipe = tiny.pipe("question-answering")
    answers = pipe(QUESTION, context, top_k=top_k, align_to_words=aligned, doc_stride=stride)
    answers = [answers] if top_k == 1 else answers
    assert 1 <= len(answers) <= top_k
    for answer in answers:
        assert list(answer) == ["score", "start", "end", "answer"] and 0 < answer["score"] <= 1
        assert answer["answer"] == context[answer["start"] : answer["end"]] != ""
    assert len({(answer["start"], answer["end"]) for answer in answers}) == len(answers)
    assert answers == sorted(answers, key=lambda answer: -answer["score"])


def test_whole_words(pipe):
    for answer in pipe(QUESTION, CONTEXT, top_k=50):
        for i in (answer["start"], answer["end"]):
            assert i in (0, len(CONTEXT)) or not CONTEXT[i - 1 : i + 1].isalpha()


def test_windows_choose_the_best_of_all(pipe):
    context = " ".join(tiny.WORDS[i % len(tiny.WORDS)] for i in range(150))
    item = {"question": QUESTION, "context": context}
    pieces = pipe.preprocess(item, doc_stride=10)
    assert len(pieces) > 3 and all(len(piece["input_ids"]) <= tiny.POSITIONS for piece in pieces)
    alone = [pipe.postprocess([piece], list(pipe.rows(pipe.forward([piece]), [piece]))) for piece in pieces]
    best = max(alone, key=lambda answer: answer["score"])
    answer = pipe(item, doc_stride=10)
    assert answer == best | {"score": pytest.approx(best["score"], abs=1e-6)}
    assert pipe(item, max_seq_len=20)["answer"] and len(pipe.preprocess(item, max_seq_len=20)[0]["input_ids"]) == 20
    shown = {piece["first"] + i for piece in pieces for i in range(piece["part"].count(1))}
    assert shown == set(range(len(pipe.tokenizer.tokenize(context))))


def test_forms_of_input(pipe):
    wanted = pipe({"question": QUESTION, "context": CONTEXT})
    other = pipe({"question": "who ?", "context": "berlin is in"})

    def same(found, *answers):
        assert tiny.numbers(found) == pytest.approx([answer["score"] for answer in answers], abs=1e-6)

    assert pipe(question=QUESTION, context=CONTEXT) == pipe(QUESTION, CONTEXT) == wanted
    assert pipe(QUESTION, context=CONTEXT) == wanted
    same(pipe([{"question": QUESTION, "context": CONTEXT}]), wanted)
    same(pipe(question=[QUESTION, "who ?"], context=[CONTEXT, "berlin is in"]), wanted, other)
    same(pipe(question=QUESTION, context=[CONTEXT, CONTEXT]), wanted, wanted)
    same(pipe(question=[QUESTION, QUESTION], context=CONTEXT), wanted, wanted)
    same(list(pipe((q for q in [QUESTION]), context=CONTEXT)), wanted)
    squad = {"id": "5", "title": "Anna", "question": QUESTION, "context": CONTEXT, "answers": {"text": ["x"]}}
    assert pipe(squad) == wanted
    assert pipeline("question-answering", pipe.model, tokenizer=pipe.tokenizer, context=CONTEXT)(QUESTION) == wanted


def test_top_k(pipe):
    for top_k in (2, 10, 60):  # also where several spans of tokens are the same words
        assert len(pipe(QUESTION, CONTEXT, top_k=top_k)) == top_k
    several = pipe(QUESTION, CONTEXT, top_k=3)
    assert len(several) == 3 and several[0] == pipe(QUESTION, CONTEXT)
    assert pipe(QUESTION, CONTEXT, topk=3) == several
    both = pipeline("question-answering", pipe.model, tokenizer=pipe.tokenizer, topk=3)
    assert both(QUESTION, CONTEXT) == several and both(QUESTION, CONTEXT, top_k=2) == several[:2]


def test_long_questions_are_shortened(pipe):
    piece = pipe.preprocess({"question": "who is anna " * 50, "context": CONTEXT}, max_question_len=7)[0]
    assert piece["part"].count(0) == 7
    with pytest.raises(InputError, match="tokens, a window 48 in all"):
        pipe("who is anna " * 50, CONTEXT)


def test_certain_of_nothing(pipe):
    """Where all begins are after all ends, the product of both is tiny, and there is an answer all the same."""
    start, end = torch.tensor([0.0, -900.0, 900.0]), torch.tensor([0.0, 900.0, -900.0])
    spans, nothing = likeliest_spans(start, end, torch.tensor([False, True, True]), [0], longest=15)
    assert [(first, last) for _, first, last in spans] == [(1, 1), (2, 2), (1, 2)] and nothing == 0
    control = pipe(QUESTION, "\x01 \x02")  # of which no token is left
    assert control == {"score": 0.0, "start": 0, "end": 0, "answer": ""}


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((QUESTION,), {}, "'context': None"),
        (("", CONTEXT), {}, "empty question"),
        ((QUESTION, " "), {}, "empty context"),
        ((QUESTION, ["a", 5]), {}, "Item 1 of the list"),
        (([QUESTION], [CONTEXT, CONTEXT]), {}, "2 contexts"),
        ((), {"context": CONTEXT}, "The input is None"),
        ((QUESTION,), {"question": QUESTION, "context": CONTEXT}, "question= beside it"),
        (({"question": QUESTION},), {}, "'context': a text"),
        ((QUESTION, CONTEXT), {"top_k": 0}, "top_k is 0"),
        ((QUESTION, CONTEXT), {"max_answer_len": 0}, "max_answer_len is 0"),
        ((QUESTION, CONTEXT), {"doc_stride": "1"}, "doc_stride is '1'"),
    ],
)
def test_bad_input_names_itself(pipe, arguments, options, words):
    with pytest.raises(InputError, match=words):
        pipe(*arguments, **options)


@pytest.mark.parametrize("task", ["question-answering", None])
def test_a_head_that_searches_by_beams_is_refused(task, tmp_path):
    """It gives no scores of single tokens."""
    model = XLNetForQuestionAnswering(XLNetConfig.from_dict(CASES["xlnet"], vocab_size=len(tiny.tokenizer())))
    with pytest.raises(InputError, match="has not the head that QuestionAnsweringPipeline needs"):
        pipeline(task, model, tokenizer=tiny.tokenizer())
    model.save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"qa_outputs[\s\S]*config\.json says XLNetForQuestionAnswering"):
        pipeline(task, tmp_path, tokenizer=tiny.tokenizer())
