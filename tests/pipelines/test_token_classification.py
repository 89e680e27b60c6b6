import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from pellucid.errors import InputError
from pellucid.pipelines import pipeline

TEXT = "my name is anna smith and i work for the unbelievable acme corp in new york, berlin's 1987 !"
WORDS = [*tiny.WORDS, "Unbelievable", "don't", "1987", "語言", "🙂", "x" * 30, "naïve", "", "  ", "\n", "İ"]
STRATEGIES = ["none", "simple", "first", "average", "max"]
AGGREGATED = st.sampled_from(STRATEGIES[1:])


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tiny.save(tmp_path_factory.mktemp("ner"), "token-classification")


@pytest.fixture(scope="module")
def pipe(folder):
    return pipeline("ner", folder)


@pytest.fixture(scope="module")
def original(folder):
    return tiny.original("token-classification", folder)


def assert_alike(ours, theirs):
    """Equal, but for the score's type and, in aggregated answers, the word, which ours cuts out of the text."""
    assert [list(answer) for answer in ours] == [list(answer) for answer in theirs]
    for a, b in zip(ours, theirs, strict=True):
        assert a["score"] == pytest.approx(float(b["score"]), abs=1e-5)
        keys = a.keys() - {"score"} - ({"word"} if "entity_group" in a else set())
        assert {key: a[key] for key in keys} == {key: b[key] for key in keys}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("ignore_labels", [["O"], [], ["PER", "B-LOC"]])
def test_same_as_the_original(pipe, original, strategy, ignore_labels):
    options = {"aggregation_strategy": strategy, "ignore_labels": ignore_labels}
    for text in (TEXT, "good", "Anna  Smith\nin Paris"):
        assert_alike(pipe(text, **options), original(text, **options))
    for a, b in zip(pipe([TEXT, "berlin"], **options), original([TEXT, "berlin"], **options), strict=True):
        assert_alike(a, b)


@pytest.mark.parametrize("strategy", ["none", "simple"])
@pytest.mark.parametrize("delimiter", [" ", "", " | "])
def test_words_same_as_the_original(pipe, original, strategy, delimiter):
    options = {"aggregation_strategy": strategy, "is_split_into_words": True, "delimiter": delimiter}
    (theirs,) = original(TEXT.split(), **options)  # a list of one even for one list of words
    assert_alike(pipe(TEXT.split(), **options), theirs)
    lists = [TEXT.split(), ["berlin"]]
    for a, b in zip(pipe(lists, **options), original(lists, **options), strict=True):
        assert_alike(a, b)


def test_grouped_entities(pipe):
    simple = pipe(TEXT, aggregation_strategy="simple")
    assert simple and pipe(TEXT, grouped_entities=True) == simple
    assert pipe(TEXT, grouped_entities=False) == pipe(TEXT)
    assert pipe(TEXT, grouped_entities=True, ignore_subwords=True) == pipe(TEXT, aggregation_strategy="first")
    assert pipeline("ner", pipe.model, tokenizer=pipe.tokenizer, grouped_entities=True)(TEXT) == simple
    both = pipeline("ner", pipe.model, tokenizer=pipe.tokenizer, grouped_entities=True)
    assert both(TEXT, aggregation_strategy="none") == pipe(TEXT)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    words=st.lists(st.sampled_from(WORDS), max_size=120), strategy=AGGREGATED, joint=st.sampled_from([" ", "", ", "])
)
def test_a_word_is_its_place_in_the_text(words, strategy, joint):
    text, last = joint.join(words), 0
    for answer in tiny.pipe("ner")(text, aggregation_strategy=strategy, ignore_labels=[]):
        assert answer["word"] == text[answer["start"] : answer["end"]]
        assert last <= answer["start"] <= answer["end"]
        last = answer["end"]
        if strategy != "simple" and answer["word"]:  # whole words: no letter is left beside them
            for edge in (text[answer["start"] - 1 : answer["start"] + 1], text[answer["end"] - 1 : answer["end"] + 1]):
                assert len(edge) < 2 or not (edge.isascii() and edge.isalnum())


@settings(max_examples=20, deadline=None, derandomize=True)
@given(words=st.lists(st.sampled_from([word for word in WORDS if word.strip()]), max_size=120), strategy=AGGREGATED)
def test_given_words_stay_whole(words, strategy):
    text = " ".join(words)
    for answer in tiny.pipe("ner")(words, is_split_into_words=True, aggregation_strategy=strategy, ignore_labels=[]):
        assert answer["word"] == text[answer["start"] : answer["end"]]


@settings(max_examples=20, deadline=None, derandomize=True)
@given(count=st.integers(0, 300), stride=st.one_of(st.none(), st.integers(0, 200)))
def test_windows_show_every_token_once(count, stride):
    pipe = tiny.pipe("ner")
    text = " ".join(tiny.WORDS[i % len(tiny.WORDS)] for i in range(count))
    pieces = pipe.preprocess(text, stride=stride)
    assert all(len(piece["input_ids"]) <= tiny.POSITIONS for piece in pieces)
    answers = pipe(text, stride=stride, ignore_labels=[])
    tokens = pipe.tokenizer.tokenize(text)
    assert [answer["word"] for answer in answers] == tokens
    assert [answer["index"] for answer in answers] == list(range(1, len(tokens) + 1))
    assert (len(pieces) == 1) == (len(tokens) <= tiny.POSITIONS - 2)


def test_a_token_counts_where_most_is_around_it():
    pipe = tiny.pipe("ner")
    text = " ".join(tiny.WORDS[i % len(tiny.WORDS)] for i in range(100))
    pieces = pipe.preprocess(text, stride=20)
    answers = pipe(text, stride=20, ignore_labels=[])
    for number in (0, 30, 50, 99):
        where = [
            (min(number - p["first"], len(p["input_ids"]) - 3 - (number - p["first"])), i) for i, p in enumerate(pieces)
        ]
        _, best = max((context, -i) for context, i in where)
        piece = pieces[-best]
        (row,) = pipe.rows(pipe.forward([piece]), [piece])
        assert answers[number]["score"] == pytest.approx(max(row[1 + number - piece["first"]]), abs=1e-5)


def test_bytes_of_a_word_stay_together(tmp_path):
    """With byte-level tokens, which carry the space before a word."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers

    rust = Tokenizer(models.BPE())
    rust.pre_tokenizer, rust.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    special = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=300, special_tokens=special, initial_alphabet=alphabet)
    rust.train_from_iterator([TEXT], trainer)
    rust.post_processor = processors.RobertaProcessing(("</s>", 2), ("<s>", 0), trim_offsets=False)
    rust.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "RobertaTokenizer", "pad_token": "<pad>"}')
    made = tiny.model("ner", "roberta", vocab_size=rust.get_vocab_size())
    pipe = pipeline("ner", made, tokenizer=tiny.tokenizer(tmp_path))
    text = "Anna Smith works in Zürich 🙂 now"
    answers = pipe(text, aggregation_strategy="first", ignore_labels=[])
    assert " ".join(answer["word"] for answer in answers) == text
    assert all(answer["word"] == text[answer["start"] : answer["end"]] for answer in answers)


def test_nothing_to_label(pipe):
    assert pipe("") == pipe("  \n ") == []
    assert pipe([], is_split_into_words=True) == []
    assert pipe(TEXT, ignore_labels=tiny.NAMES) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"aggregation_strategy": "sum"}, "none, simple, first, average, max"),
        ({"stride": -1}, "stride is -1"),
        ({"is_split_into_words": True}, "expected a list of words"),
    ],
)
def test_bad_options_name_themselves(pipe, options, words):
    with pytest.raises(InputError, match=words):
        pipe("good", **options)
