"""What every task promises: any input, any batch, any order, any length, any thread."""

import threading
from math import isfinite

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from pellucid.errors import ArgumentError, InputError
from pellucid.pipelines import TASKS, find_task, pipeline

# How each task's input is made of a text, and what options it needs.
ITEMS = {
    "document-question-answering": lambda text: {
        "question": "who is anna",
        "word_boxes": [(word, (i % 90, 10, i % 90 + 10, 20)) for i, word in enumerate(text.split() or ["x"])],
    },
    "fill-mask": lambda text: f"the [MASK] {text}",
    "multiple-choice": lambda text: {"prompt": text, "choices": ["good", "not good", "in berlin"]},
    "question-answering": lambda text: {"question": "who is anna", "context": text or "x"},
    "text-ranking": lambda text: {"query": "who is anna", "documents": [text, "berlin", "new york is good"]},
}
OPTIONS = {
    "feature-extraction": {"return_tensors": True},
    "token-classification": {"ignore_labels": []},
    "zero-shot-classification": {"candidate_labels": ["good", "bad", "paris"]},
}
TEXTS = st.lists(st.sampled_from([*tiny.WORDS, "xyz", "unbelievable", "1987", "!", "語"]), max_size=60).map(" ".join)
EVERY = [
    (task, architecture)
    for task in TASKS
    for architecture in (["layoutlm"] if task == "document-question-answering" else tiny.ARCHITECTURES)
]
LONG = [(task, "layoutlm" if task == "document-question-answering" else "bert") for task in TASKS]


def item(task, text):
    return ITEMS.get(task, lambda text: text)(text)


def near(ours, wanted):
    assert tiny.numbers(ours) == pytest.approx(tiny.numbers(wanted), abs=1e-5)


@pytest.mark.parametrize(("task", "architecture"), EVERY)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(texts=st.lists(TEXTS, min_size=1, max_size=5), size=st.integers(1, 4))
def test_alone_in_any_batch_and_any_order(task, architecture, texts, size):
    pipe, options = tiny.pipe(task, architecture), OPTIONS.get(task, {})
    items = [item(task, text) for text in texts]
    alone = [pipe(one, **options) for one in items]
    near(list(pipe(items, **options)), alone)
    near(list(pipe(items, batch_size=size, **options)), alone)
    near(list(pipe(items[::-1], **options))[::-1], alone)
    near(list(pipe((one for one in items), **options)), alone)


@pytest.mark.parametrize(("task", "architecture"), LONG)
def test_threads_share_a_pipeline(task, architecture):
    pipe, options = tiny.pipe(task, architecture), OPTIONS.get(task, {})
    items = [item(task, "anna works in berlin " * n) for n in range(1, 33)]
    wanted, wrong = [tiny.numbers(answer) for answer in pipe(items, **options)], []

    def work(seed):
        for i in range(seed, len(items), 16):
            if tiny.numbers(pipe(items[i], **options)) != pytest.approx(wanted[i], abs=1e-5):
                wrong.append(i)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize(("task", "architecture"), LONG)
def test_a_hundred_thousand_words(task, architecture):
    pipe, options = tiny.long_pipe(task, architecture), OPTIONS.get(task, {})
    found = tiny.numbers(pipe(item(task, "anna works in berlin " * 25_000), **options))
    assert found and all(map(isfinite, found))


@pytest.mark.parametrize(("task", "architecture"), LONG)
@pytest.mark.parametrize("inputs", [None, 5, b"good", ["good", None], [[[]]], {"txt": "good"}, [{"text": 3}]])
def test_bad_inputs_name_themselves(task, architecture, inputs):
    pipe, options = tiny.pipe(task, architecture), OPTIONS.get(task, {})
    with pytest.raises(InputError, match=r"^(The input|Item \d of the list) (is|has) "):
        pipe(inputs, **options)


@pytest.mark.parametrize(("task", "architecture"), LONG)
def test_streams_datasets_and_nothing(task, architecture):
    pipe, options = tiny.pipe(task, architecture), OPTIONS.get(task, {})
    items = [item(task, text) for text in ("anna works", "berlin", "new york is good")]
    wanted = pipe(items, **options)

    class Column:
        """A dataset that is read by index."""

        def __len__(self):
            return len(items)

        def __getitem__(self, i):
            return items[i]

    near(list(pipe(Column(), **options)), wanted)
    near(list(pipe(tuple(items), **options)), wanted)
    assert len(pipe([], **options)) == 0
    assert list(pipe(iter([]), **options)) == []
    with pytest.raises(InputError, match="Item 1 is 7"):
        list(pipe(iter([items[0], 7]), **options))
    with pytest.raises(ArgumentError, match=r"no argument 'batchsize'; did you mean 'batch_size'\?"):
        pipe(items, batchsize=3, **options)


@pytest.mark.parametrize(("task", "architecture"), LONG)
def test_traces_show_what_calls_give(task, architecture):
    pipe, options = tiny.pipe(task, architecture), OPTIONS.get(task, {})
    items = [item(task, text) for text in ("anna works", "berlin " * 100)]
    trace = pipe.trace(items, **options)
    near(trace.answers, list(pipe(items, **options)))
    assert "[CLS]" in str(trace) and trace.note
    assert not pipe.trace(items[0], **options).note
    with pytest.raises(InputError, match="nothing to trace"):
        pipe.trace([], **options)


def test_the_wrong_head_says_which_tasks_fit():
    model = tiny.model("fill-mask")
    with pytest.raises(
        InputError, match=r"BertForMaskedLM .*AutoModelForTokenClassification.*fill-mask, sparse-embedding"
    ):
        pipeline("ner", model, tokenizer=tiny.tokenizer())
    with pytest.raises(InputError, match="no usual model"):
        pipeline("multiple-choice")
    assert find_task("ner") is find_task("token-classification")


def test_out_of_memory_halves_the_batch(monkeypatch):
    pipe = tiny.pipe("text-classification")
    texts, forward, sizes = ["good film", "bad", "paris", "berlin is good"] * 3, pipe.forward, []
    wanted = pipe(texts)

    def small(pieces):
        sizes.append(len(pieces))
        if len(pieces) > 2:
            raise torch.OutOfMemoryError("no memory")
        return forward(pieces)

    monkeypatch.setattr(pipe, "forward", small)
    near(pipe(texts), wanted)
    assert max(sizes) > 2
    monkeypatch.setattr(pipe, "forward", lambda pieces: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
    with pytest.raises(torch.OutOfMemoryError):
        pipe(texts)
