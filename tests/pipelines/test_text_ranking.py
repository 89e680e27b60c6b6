import pytest
import torch

import tiny
from pellucid.errors import ConfigError, InputError
from pellucid.pipelines import pipeline

TASK, QUERY = "text-ranking", "where is anna ?"
DOCUMENTS = ["anna smith works in berlin", "the film is not good", "paris", ""]


@pytest.fixture(scope="module")
def pipe():
    return tiny.pipe(TASK)


def logit(pipe, query, document, **options):
    inputs = pipe.tokenizer(query, document, return_tensors="pt", **options)
    with torch.no_grad():
        return float(pipe.model(**inputs).logits)


def test_ranks_by_score(pipe):
    scores = [torch.tensor(logit(pipe, QUERY, document)).sigmoid().item() for document in DOCUMENTS]
    found = pipe(QUERY, DOCUMENTS)
    assert [list(answer) for answer in found] == [["index", "score"]] * 4
    assert [answer["index"] for answer in found] == sorted(range(4), key=lambda i: -scores[i])
    assert [answer["score"] for answer in found] == pytest.approx(sorted(scores, reverse=True), abs=1e-6)
    assert pipe(QUERY, DOCUMENTS, top_k=2) == found[:2]
    texts = pipe(QUERY, DOCUMENTS, return_documents=True)
    assert [answer["text"] for answer in texts] == [DOCUMENTS[answer["index"]] for answer in found]


def test_pairs(pipe):
    pairs = [{"text": QUERY, "text_pair": document} for document in DOCUMENTS]
    scores = [logit(pipe, QUERY, document) for document in DOCUMENTS]
    found = pipe(pairs, function_to_apply="none")
    assert [list(answer) for answer in found] == [["score"]] * 4
    assert [answer["score"] for answer in found] == pytest.approx(scores, abs=1e-5)
    assert pipe(pairs[0], function_to_apply="none")["score"] == pytest.approx(scores[0], abs=1e-5)


def test_forms(pipe):
    found = pipe(QUERY, DOCUMENTS)
    assert pipe({"query": QUERY, "documents": DOCUMENTS}) == pipe(query=QUERY, documents=DOCUMENTS) == found
    (one, two) = pipe([QUERY, "good film"], documents=tuple(DOCUMENTS))
    assert tiny.numbers(one) == pytest.approx(tiny.numbers(found), abs=1e-6) and len(two) == 4
    preset = pipeline(TASK, pipe.model, tokenizer=pipe.tokenizer, documents=DOCUMENTS, top_k=1)
    assert preset(QUERY) == found[:1]


@pytest.mark.parametrize(
    ("fields", "name"),
    [
        ({}, "sigmoid"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.linear.Identity", "version": "5.0"}}, "none"),
        ({"sentence_transformers": {"activation_fn": "torch.nn.modules.activation.Sigmoid"}}, "sigmoid"),
        ({"sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"}, "none"),
    ],
)
def test_the_function_of_the_config(pipe, fields, name):
    made = tiny.model(TASK)
    made.config = type(made.config).from_dict(made.config.to_dict() | fields, where="config.json")
    configured = pipeline(TASK, made, tokenizer=pipe.tokenizer)
    wanted = tiny.numbers(pipe(QUERY, DOCUMENTS, function_to_apply=name))
    assert tiny.numbers(configured(QUERY, DOCUMENTS)) == pytest.approx(wanted, abs=1e-6)


def test_of_a_long_document_the_best_window_counts(pipe):
    document = " ".join(tiny.WORDS[i % len(tiny.WORDS)] for i in range(150))
    pieces = pipe.preprocess({"text": QUERY, "text_pair": document})
    assert len(pieces) > 3 and all(len(piece["input_ids"]) <= tiny.POSITIONS for piece in pieces)
    best = max(float(pipe.forward([piece]).logits) for piece in pieces)
    pair = {"text": QUERY, "text_pair": document}
    assert pipe(pair, function_to_apply="none")["score"] == pytest.approx(best, abs=1e-5)
    start = logit(pipe, QUERY, document, truncation=True, max_length=tiny.POSITIONS)
    assert pipe(pair, function_to_apply="none", truncation=True)["score"] == pytest.approx(start, abs=1e-5)
    assert "1 long document(s)" in pipe.trace([pair, {"text": "a", "text_pair": "b"}]).note
    assert 0 < pipe({"text": document, "text_pair": document})["score"] < 1


@pytest.mark.parametrize(
    ("arguments", "options", "words"),
    [
        ((QUERY,), {}, "has the documents None"),
        ((QUERY, []), {}, r"has the documents \[\]"),
        ((QUERY, "one text"), {}, "has the documents 'one text'"),
        ((QUERY, ["a", 5]), {}, "has the documents"),
        (({"query": QUERY},), {}, "'documents': \\[texts\\]"),
        (({"text": QUERY},), {}, "'text_pair'"),
        ((QUERY, DOCUMENTS), {"top_k": 0}, "top_k is 0"),
        ((QUERY, DOCUMENTS), {"function_to_apply": "softmax"}, "'sigmoid' or 'none'"),
    ],
)
def test_bad_input_names_itself(pipe, arguments, options, words):
    with pytest.raises(InputError, match=words):
        pipe(*arguments, **options)


def test_models_that_can_not_rank(pipe):
    with pytest.raises(ConfigError, match=r"NO, YES.*text-classification"):
        pipeline(TASK, tiny.model("text-classification"), tokenizer=pipe.tokenizer)
    made = tiny.model(TASK)
    fields = {"sentence_transformers": {"activation_fn": "os.system"}}
    made.config = type(made.config).from_dict(made.config.to_dict() | fields, where="config.json")
    with pytest.raises(ConfigError, match="'system'; expected Sigmoid or Identity"):
        pipeline(TASK, made, tokenizer=pipe.tokenizer)
