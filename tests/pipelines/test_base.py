"""What every task promises: any input, any batch, any order, any length, any thread."""

import re
from math import isfinite

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

import tiny
from cases import CASES, HEADS
from pellucid import auto
from pellucid.errors import ArgumentError, InputError, TokenizerError
from pellucid.pipelines import TASKS, find_task, pipeline
from threads import in_threads

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
SHORT = {"do_sample": False, "max_new_tokens": 6, "truncation": True}
OPTIONS = {
    "feature-extraction": {"return_tensors": True},
    "text-generation": SHORT,
    "text2text-generation": SHORT,
    "summarization": SHORT,
    "translation": SHORT,
    "token-classification": {"ignore_labels": []},
    "zero-shot-classification": {"candidate_labels": ["good", "bad", "paris"]},
}
TEXTS = st.lists(st.sampled_from([*tiny.WORDS, "xyz", "unbelievable", "1987", "!", "語"]), max_size=60).map(" ".join)
DOCUMENTS, WRITING = "document-question-answering", "text-generation"
TARGETS = ("text2text-generation", "summarization", "translation")  # which differ in names only
READERS = ("gpt2", "llama", "bart")  # besides all encoders
WRITERS = ("gpt2", "llama", "gemma3_text", "mixtral", "gpt_oss", "bloom", "bart", "t5", "marian")
SPECIALISTS = {DOCUMENTS: "layoutlm", WRITING: "llama", **dict.fromkeys(TARGETS, "bart")}
ONE_EACH = [(task, SPECIALISTS.get(task, "bert")) for task in TASKS]


def serves(architecture, task):
    """Tell whether an architecture has a head of a task, and takes what the task reads."""
    if task in TARGETS[1:] and architecture != "bart":
        return False
    heads = auto.heads_of(architecture.partition(":")[0])
    if task in (WRITING, *TARGETS):
        if architecture not in WRITERS:
            return False
    elif CASES[architecture].get("is_decoder") or ("cache" in heads["Model"].accepts and architecture not in READERS):
        return False
    has = HEADS[architecture] if task in (WRITING, *TARGETS) else heads  # not every variant of a decoder writes
    accepts = [heads[suffix].accepts for suffix in TASKS[task].heads if suffix in heads and suffix in has]
    needed = {DOCUMENTS: "bbox", WRITING: "cache"}.get(task)
    return any(needed is None or needed in names for names in accepts)


EVERY = [(task, architecture) for architecture in CASES for task in TASKS if serves(architecture, task)]


def item(task, text):
    return ITEMS.get(task, lambda text: text)(text)


def flat(answer):
    """Lay nested lists out: some tasks answer one input by a list of one, and many by a flat list."""
    return [part for item in answer for part in flat(item)] if isinstance(answer, list) else [answer]


def near(ours, wanted):
    """Compare numbers, and texts where there are only these."""
    if not tiny.numbers(wanted):
        assert flat(ours) == flat(wanted)
    ours, wanted = (torch.tensor(tiny.numbers(answer), dtype=torch.double) for answer in (ours, wanted))
    torch.testing.assert_close(ours, wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(("task", "architecture"), EVERY)
@settings(max_examples=4, deadline=None, derandomize=True)
@given(texts=st.lists(TEXTS, min_size=1, max_size=5), size=st.integers(1, 4))
@example(texts=["", "anna works", "good film " * 40, "who is smith ? 1987", "the bad of paris in"], size=2)
def test_alone_in_any_batch_and_any_order(task, architecture, texts, size):
    pipe, options = tiny.pipe(task, architecture), OPTIONS.get(task, {})
    items = [item(task, text) for text in texts]
    alone = [pipe(one, **options) for one in items]
    near(list(pipe(items, **options)), alone)
    near(list(pipe(items, batch_size=size, **options)), alone)
    near(list(pipe(items[::-1], **options))[::-1], alone)
    near(list(pipe((one for one in items), **options)), alone)
    near(pipe.trace(items, **options).answers, alone)  # which pads instead of packing


@pytest.mark.parametrize(
    ("task", "architecture"),
    [*ONE_EACH, *(pair for pair in EVERY if pair[0] == "feature-extraction" and pair not in ONE_EACH)],
)
def test_threads_share_a_pipeline(task, architecture):
    pipe, options = tiny.pipe(task, architecture), OPTIONS.get(task, {})
    items = [item(task, "anna works in berlin " * n) for n in range(1, 33)]
    wanted = list(pipe(items, **options))

    def work(seed):
        for i in range(seed, len(items), 16):
            near(pipe(items[i], **options), wanted[i])

    in_threads(work, range(16))


@pytest.mark.parametrize(("task", "architecture"), ONE_EACH)
def test_batches_side_by_side(task, architecture, monkeypatch):
    pipe, options = tiny.pipe(task, architecture), OPTIONS.get(task, {})
    items = [item(task, "anna works in berlin " * (1 + i % 11)) for i in range(40)]
    alone = list(pipe(items, **options))
    monkeypatch.setattr("pellucid.batching.TOKENS_A_WORKER", 10)
    torch.set_num_threads(3)
    try:
        assert pipe.workers == (3 if pipe.side_by_side else 1)
        near(list(pipe(items, **options)), alone)
        with torch.autocast("cpu"):
            assert pipe.workers == 1
    finally:
        torch.set_num_threads(1)


@pytest.mark.parametrize(("task", "architecture"), ONE_EACH)
def test_a_hundred_thousand_words(task, architecture):
    pipe, options = tiny.long_pipe(task, architecture), OPTIONS.get(task, {})
    found = tiny.numbers(pipe(item(task, "anna works in berlin " * 25_000), **options))
    assert (found or task in (WRITING, *TARGETS)) and all(map(isfinite, found))


@pytest.mark.parametrize(("task", "architecture"), ONE_EACH)
@pytest.mark.parametrize("inputs", [None, 5, b"good", ["good", None], [[[]]], {"txt": "good"}, [{"text": 3}]])
def test_bad_inputs_name_themselves(task, architecture, inputs):
    pipe, options = tiny.pipe(task, architecture), OPTIONS.get(task, {})
    with pytest.raises(InputError, match=r"^(The input|Item \d of the list) (is|has) "):
        pipe(inputs, **options)


@pytest.mark.parametrize(("task", "architecture"), ONE_EACH)
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


@pytest.mark.parametrize(("task", "architecture"), ONE_EACH)
def test_traces_show_what_calls_give(task, architecture):
    pipe, options = tiny.pipe(task, architecture), OPTIONS.get(task, {})
    items = [item(task, text) for text in ("anna works", "berlin " * 100)]
    trace = pipe.trace(items, **options)
    near(trace.answers, list(pipe(items, **options)))
    assert "[CLS]" in str(trace) and trace.note
    assert not pipe.trace(items[0], **options).note
    with pytest.raises(InputError, match="nothing to trace"):
        pipe.trace([], **options)


@pytest.mark.parametrize(("task", "architecture"), ONE_EACH)
def test_the_wrong_head_says_which_tasks_fit(task, architecture):
    wanted = TASKS[task]
    for other in (name for name in TASKS if TASKS[name].auto != wanted.auto and serves(architecture, name)):
        message = f"has not the head that {wanted.pipeline} needs; load it with {wanted.auto}. As it is, it runs: "
        with pytest.raises(InputError, match=f"{re.escape(message)}.*{other}"):
            pipeline(task, tiny.model(other, architecture), tokenizer=tiny.tokenizer())


@pytest.mark.parametrize(("task", "architecture"), ONE_EACH)
def test_the_tokenizer_of_another_model(task, architecture):
    with pytest.raises(TokenizerError, match=r"has \d+ tokens, the model 50; they do not belong together"):
        pipeline(task, tiny.model(task, architecture, vocab_size=50), tokenizer=tiny.tokenizer())


def test_names_of_tasks():
    with pytest.raises(InputError, match="no usual model"):
        pipeline("multiple-choice")
    assert find_task("ner") is find_task("token-classification")


def test_out_of_memory_halves_the_batch(monkeypatch):
    pipe = tiny.pipe("text-classification")
    texts, forward, sizes = ["good film", "bad", "paris", "berlin is good"] * 3, pipe.forward, []
    wanted = pipe(texts)

    def small(pieces, **options):
        sizes.append(len(pieces))
        if len(pieces) > 2:
            raise torch.OutOfMemoryError("no memory")
        return forward(pieces)

    monkeypatch.setattr(pipe, "forward", small)
    near(pipe(texts), wanted)
    assert max(sizes) > 2
    monkeypatch.setattr(pipe, "forward", lambda pieces, **_: (_ for _ in ()).throw(torch.OutOfMemoryError("no memory")))
    with pytest.raises(torch.OutOfMemoryError):
        pipe(texts)
