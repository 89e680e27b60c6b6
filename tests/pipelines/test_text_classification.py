import shutil
from pathlib import Path

import pytest
import torch

from pellucid import AutoModelForSequenceClassification, AutoTokenizer, Layout, pipeline
from pellucid.errors import (
    ArgumentError,
    ConfigError,
    InputError,
    MissingFileError,
    NonFiniteError,
    TokenizerError,
    WeightsError,
)
from pellucid.models.bert import BertConfig, BertForNextSentencePrediction, BertForSequenceClassification, BertModel
from perturbing import perturb

VOCABULARY = Path(__file__).parents[1] / "data" / "bert-base-uncased" / "vocab.txt"
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
WORDS = ["good", "bad", "a", "film", "not", "!", "unbelievable", "1987", "語", "🙂", "straightforward", "x" * 30]


def folder_of(tmp_path_factory, name, config, model_class):
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(name)
    model = model_class(config)
    perturb(model, 0.1)
    model.save_pretrained(folder)
    shutil.copy(VOCABULARY, folder)
    AutoTokenizer.from_pretrained(folder, model_max_length=config.max_position_embeddings).save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def bert_folder(tmp_path_factory):
    config = BertConfig(**SIZES, max_position_embeddings=64, num_labels=3)
    return folder_of(tmp_path_factory, "bert", config, BertForSequenceClassification)


@pytest.fixture(scope="session")
def pipe(bert_folder):
    return pipeline("text-classification", bert_folder)


def scores(answers):
    return [answer["score"] for answer in answers]


# --- the output contract, beside the original -------------------------------------------------------------------------


def test_same_answers_and_shapes_as_the_original(pipe, bert_folder):
    import transformers

    original = transformers.pipeline("text-classification", model=str(bert_folder), device="cpu")
    texts = ["good film", "bad", ""]
    pair = {"text": "good", "text_pair": "bad film"}
    calls = [(texts[0], {}), (texts, {}), ([texts[0]], {}), (pair, {}), ([pair, pair], {})]
    calls += [(x, {"top_k": k}) for x in (texts[0], texts) for k in (1, 2, None)]
    calls += [(texts, {"function_to_apply": name}) for name in ("softmax", "sigmoid", "none")]
    for inputs, options in calls:
        ours, theirs = pipe(inputs, **options), original(inputs, **options)
        assert_alike(ours, theirs)
    assert [len(answer) for answer in pipe(texts, return_all_scores=True)] == [3, 3, 3]
    assert [part["label"] for part in pipe("good", return_all_scores=True)] == ["LABEL_0", "LABEL_1", "LABEL_2"]


def assert_alike(ours, theirs):
    assert type(ours) is type(theirs)
    if isinstance(ours, list):
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert_alike(a, b)
    else:
        assert list(ours) == list(theirs)
        assert ours["label"] == theirs["label"] and ours["score"] == pytest.approx(theirs["score"], abs=1e-5)


def test_function_by_config(bert_folder):
    for options, total in (
        ({}, 1.0),
        ({"problem_type": "multi_label_classification"}, None),
        ({"problem_type": "regression"}, None),
    ):
        model = AutoModelForSequenceClassification.from_pretrained(bert_folder, **options)
        pipe = pipeline("text-classification", model=model, tokenizer=AutoTokenizer.from_pretrained(bert_folder))
        answers = pipe("good film", top_k=None)
        logits = pipe("good film", top_k=None, function_to_apply="none")
        if total:
            assert sum(scores(answers)) == pytest.approx(1)
        elif options["problem_type"] == "regression":
            assert answers == logits
        else:
            assert scores(answers) == pytest.approx(torch.tensor(scores(logits)).sigmoid().tolist())


# --- any input, any length (the promises that every task makes are tested in test_base.py) ---------------------------


def test_generators_are_lazy_and_datasets_are_read(pipe):
    taken = []

    def source():
        for i in range(100):
            taken.append(i)
            yield f"good {i}"

    stream = pipe(source())
    next(stream)
    assert len(taken) < 20

    class Dataset:
        def __len__(self):
            return 3

        def __getitem__(self, i):
            if i >= 3:
                raise IndexError(i)
            return ["good", "bad", "film"][i]

        def __iter__(self):
            return (self[i] for i in range(3))

    assert scores(pipe(Dataset())) == pytest.approx(scores(pipe(["good", "bad", "film"])), abs=1e-5)
    assert scores(pipe(("good", "bad"))) == pytest.approx(scores(pipe(["good", "bad"])), abs=1e-5)


def test_a_hundred_thousand_words(pipe):
    text = "good film not bad " * 25_000
    (answer,) = pipe(text)
    assert 0 < answer["score"] <= 1
    (start,) = pipe(text, truncation=True)
    assert start["score"] == pytest.approx(pipe(" ".join(text.split()[:62]))[0]["score"], abs=1e-5)


def test_windows_are_averaged_by_tokens(pipe):
    text = " ".join(WORDS[i % 10] for i in range(100))
    pieces = pipe.preprocess(text)
    assert len(pieces) > 1 and all(len(piece["input_ids"]) <= 64 for piece in pieces)
    logits = torch.stack([pipe.model(torch.tensor([piece["input_ids"]])).logits[0] for piece in pieces])
    logits = logits.detach()
    weights = torch.tensor([[len(piece["input_ids"])] for piece in pieces])
    wanted = ((logits * weights).sum(0) / weights.sum()).softmax(-1)
    assert pipe(text, top_k=1)[0]["score"] == pytest.approx(float(wanted.max()), abs=1e-5)
    covered = {i for piece in pieces for i in piece["input_ids"]}
    assert covered >= set(pipe.tokenizer(text)["input_ids"])
    assert f"{len(pieces)} overlapping windows" in str(pipe.trace(text))
    assert "windows" not in str(pipe.trace("good"))


def test_long_pairs_are_truncated(pipe):
    answer = pipe({"text": "good " * 100, "text_pair": "bad " * 100})
    assert 0 < answer["score"] <= 1


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "words"),
    [
        (None, "The input is None"),
        (5, "The input is 5"),
        (b"good", "The input is b'good'"),
        (["good", None], "Item 1 of the list is None"),
        ([["good", "bad"]], "Item 0 of the list.*text_pair"),
        ([[]], "Item 0 of the list"),
        ({"txt": "good"}, "The input is {'txt'"),
        ({"text": "good", "text_pare": "bad"}, "text_pair"),
        ([{"text": 3}], "Item 0"),
    ],
)
def test_bad_inputs_name_themselves(pipe, inputs, words):
    with pytest.raises(InputError, match=words):
        pipe(inputs)


def test_a_bad_item_of_a_generator_names_itself(pipe):
    with pytest.raises(InputError, match="Item 2 is 7"):
        list(pipe(x for x in ["good", "bad", 7]))


def test_empty_inputs(pipe):
    assert pipe([]) == []
    assert list(pipe(iter([]))) == []
    assert len(pipe("")) == 1
    with pytest.raises(InputError, match="surrogate"):
        pipe("bad \ud800 text")


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"topk": 2}, ArgumentError, "did you mean 'top_k'"),
        ({"top_k": 0}, InputError, "top_k is 0"),
        ({"top_k": "2"}, InputError, "top_k is '2'"),
        ({"function_to_apply": "softmaks"}, InputError, "softmax, sigmoid, none"),
        ({"batch_size": 0}, InputError, "batch_size is 0"),
    ],
)
def test_bad_options_name_themselves(pipe, bert_folder, options, error, words):
    with pytest.raises(error, match=words):
        pipe("good", **options)
    with pytest.raises(error, match=words):
        pipeline("text-classification", bert_folder, **options)


def test_bad_tasks_and_models(pipe, bert_folder, tmp_path):
    with pytest.raises(InputError, match="did you mean 'sentiment-analysis'"):
        pipeline("sentiment-analisis", bert_folder)
    with pytest.raises(ArgumentError, match="needs a task or a model"):
        pipeline()
    with pytest.raises(InputError, match="tokenizer=tokenizer"):
        pipeline("text-classification", pipe.model)
    BertModel(BertConfig(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(MissingFileError, match="has no file"):
        pipeline("text-classification", tmp_path)
    with pytest.raises(WeightsError, match="num_labels"):
        pipeline("text-classification", tmp_path, tokenizer=pipe.tokenizer)
    BertForNextSentencePrediction(BertConfig(**SIZES)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match="name the task"):
        pipeline(model=tmp_path, tokenizer=pipe.tokenizer)


def test_task_by_model_and_device(bert_folder, pipe):
    by_model = pipeline(model=bert_folder, device=-1)
    assert by_model.task == "text-classification" and by_model.device.type == "cpu"
    assert by_model("good") == pipe("good")
    assert pipeline("text-classification", bert_folder, top_k=2)("good") == pipe("good", top_k=2)
    half = pipeline("text-classification", bert_folder, dtype="bfloat16")
    assert half.model.dtype == torch.bfloat16
    assert half("good")[0]["score"] == pytest.approx(pipe("good")[0]["score"], abs=0.05)


def test_not_a_number_never_passes(bert_folder, pipe):
    model = AutoModelForSequenceClassification.from_pretrained(bert_folder)
    with torch.no_grad():
        model.classifier.weight[0, 0] = float("nan")
    with pytest.raises(NonFiniteError, match="nan"):
        pipeline("text-classification", model=model, tokenizer=pipe.tokenizer)("good")


def test_tokenizer_of_another_model(bert_folder, tmp_path):
    config = BertConfig(**SIZES, vocab_size=2000, num_labels=2)
    BertForSequenceClassification(config).save_pretrained(tmp_path)
    with pytest.raises(TokenizerError, match="tokenizer has 30522 tokens, the model 2000"):
        pipeline("text-classification", tmp_path, tokenizer=bert_folder)


# --- seeing through ---------------------------------------------------------------------------------------------------


def test_trace_shows_the_three_steps(pipe):
    trace = pipe.trace(["good film", "bad"])
    assert trace.tokens == [["[CLS]", "good", "film", "[SEP]"], ["[CLS]", "bad", "[SEP]", "[PAD]"]]
    assert trace.inputs["attention_mask"].tolist() == [[1, 1, 1, 1], [1, 1, 1, 0]]
    assert trace.shapes == {"hidden states": (2, 4, 32), "logits": (2, 3)}
    assert trace.answers == [pytest.approx(answer, abs=1e-5) for answer in pipe(["good film", "bad"])]
    text = str(trace)
    for part in ("[CLS]", "101", "hidden states  (2, 4, 32)", "logits", trace.answers[0]["label"], '"good film"'):
        assert part in text
    assert "<pre" in trace._repr_html_()


def test_steps_one_by_one(pipe):
    pieces = pipe.preprocess("good film")
    output = pipe.forward(pieces)
    assert output.logits.shape == (1, 3)
    assert pipe.postprocess(pieces, list(output.logits)) == pipe("good film")[0]
    packed = pipe.model(torch.tensor([pieces[0]["input_ids"]]), attention_mask=Layout.packed([4])).logits
    assert torch.allclose(packed, output.logits, atol=1e-6)


def test_save(pipe, tmp_path):
    pipe.save_pretrained(tmp_path)
    assert pipeline("text-classification", tmp_path)("good") == pipe("good")
