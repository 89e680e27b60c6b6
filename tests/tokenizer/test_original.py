"""Every family and every way to call, against the original library: the same numbers."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .cases import FAMILIES, UGLY

EVERYTHING = {"return_token_type_ids": True, "return_offsets_mapping": True, "return_special_tokens_mask": True}
TEXTS = ["The quick brown fox jumps over the lazy dog", "", "Hi!", "  Ångström 中文 👍🏽  [SEP] " * 3, "one two " * 30]
PAIRS = ["What does it do?", "nothing " * 20, "", "x", "ten words " * 5]

every_family = pytest.mark.parametrize("family", FAMILIES)


def same(ours, original):
    """Assert that two encodings have the same columns, and the same in them."""
    columns = {name: original[name] for name in original}
    assert {name: ours[name] for name in ours} == columns


@every_family
def test_single_texts(both, family):
    ours, original = both(family)
    for text in UGLY:
        if family in ("albert", "xlnet") and ("[MASK]" in text or "<mask>" in text):
            continue  # there the original keeps the model's own mask, which does not take the space before it
        same(ours(text, **EVERYTHING), original(text, **EVERYTHING))
        assert ours.tokenize(text) == original.tokenize(text)


@every_family
def test_pairs_and_batches(both, family):
    ours, original = both(family)
    texts = [text for text in UGLY if "mask" not in text.lower()]
    pairs = ["b " + text for text in reversed(texts)]
    same(ours(texts, pairs, **EVERYTHING), original(texts, pairs, **EVERYTHING))
    same(ours(list(zip(texts, pairs, strict=True)), **EVERYTHING), original(texts, pairs, **EVERYTHING))


@every_family
@pytest.mark.parametrize("skip", [False, True])
@pytest.mark.parametrize("clean", [False, True])
def test_decoding(both, family, skip, clean):
    ours, original = both(family)
    rows = [original(text)["input_ids"] for text in [*UGLY, "Hello , I 'm here . Is n't it ?"]]
    options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
    assert ours.batch_decode(rows, **options) == [original.decode(row, **options) for row in rows]


@every_family
def test_attributes(both, family):
    ours, original = both(family)
    assert len(ours) == len(original)
    assert ours.vocab_size == original.vocab_size
    assert ours.get_vocab() == original.get_vocab()
    roles = {name: token for name, token in ours.special_tokens_map.items() if isinstance(token, str)}
    assert roles == original.special_tokens_map
    assert ours.padding_side == original.padding_side
    assert [ours.num_special_tokens_to_add(pair) for pair in (False, True)] == [
        original.num_special_tokens_to_add(pair) for pair in (False, True)
    ]
    if family != "gemma":  # where the original counts the model's symbols as special
        assert ours.all_special_ids == original.all_special_ids
    if family not in ("albert", "xlnet"):  # which learned with token types that the original no longer gives them
        assert ours.pad_token_type_id == original.pad_token_type_id
        assert set(ours.model_input_names) == set(original.model_input_names)


WAYS = [
    {"padding": True},
    {"padding": "longest", "pad_to_multiple_of": 8},
    {"padding": "max_length", "max_length": 40},
    {"padding": "max_length", "max_length": 12, "truncation": True},
    {"padding": "max_length", "max_length": 16, "truncation": True, "pad_to_multiple_of": 8, "padding_side": "left"},
    {"padding": True, "max_length": 10, "verbose": False},
    {"max_length": 10},
    {"truncation": False, "max_length": 10},
    {"truncation": True},
    {"truncation": "longest_first", "max_length": 9},
    {"truncation": True, "max_length": 9, "return_overflowing_tokens": True, "stride": 1, "padding": True},
    {"truncation": True, "max_length": 6, "add_special_tokens": False, "return_overflowing_tokens": True},
    {"return_attention_mask": False, "return_token_type_ids": False, "return_length": True},
    {"add_special_tokens": False},
    {"truncation": "do_not_truncate", "padding": "do_not_pad"},
    {"truncation": True, "max_length": 12, "padding": True, "return_tensors": "np"},
    {"truncation": True, "max_length": 12, "padding": True, "return_tensors": "pt"},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
@pytest.mark.parametrize("family", ["bert", "roberta", "gpt2", "t5"])
def test_ways_to_call(both, family, way):
    ours, original = both(family)
    arguments = {**EVERYTHING, **way}
    if "return_tensors" in way:
        arguments.pop("return_offsets_mapping")
        mine, theirs = ours(TEXTS, **arguments), original(TEXTS, **arguments)
        assert {name: mine[name].tolist() for name in mine} == {name: theirs[name].tolist() for name in theirs}
        assert {type(value) for value in mine.values()} == {type(value) for value in theirs.values()}
        assert {value.dtype for value in mine.values()} == {value.dtype for value in theirs.values()}
        return
    same(ours(TEXTS, **arguments), original(TEXTS, **arguments))
    same(ours(TEXTS[3], **arguments), original(TEXTS[3], **arguments))
    same(ours(TEXTS, PAIRS, **arguments), original(TEXTS, PAIRS, **arguments))


@pytest.mark.parametrize("strategy", ["only_first", "only_second"])
@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("stride", [0, 3])
def test_windows_over_one_side_of_a_pair(both, strategy, side, stride):
    ours, original = both("roberta")
    question, context = "What does it do?", "one two three four five six seven eight nine ten eleven twelve " * 4
    pair = (context, question) if strategy == "only_first" else (question, context)
    arguments = {"truncation": strategy, "max_length": 50, "stride": stride, "return_overflowing_tokens": True}
    ours.truncation_side = original.truncation_side = side
    try:
        same(ours(*pair, **arguments, **EVERYTHING), original(*pair, **arguments, **EVERYTHING))
        batch = [[text] * 3 for text in pair]
        same(ours(*batch, **arguments, **EVERYTHING), original(*batch, **arguments, **EVERYTHING))
    finally:
        ours.truncation_side = original.truncation_side = "right"


def test_words(both):
    ours, original = both("bert")
    words = ["Hello", "wörld", "", "don't", "a b", "中文"]
    arguments = {**EVERYTHING, "is_split_into_words": True}
    same(ours(words, **arguments), original(words, **arguments))
    same(ours(words, ["b", "c"], **arguments), original(words, ["b", "c"], **arguments))
    same(ours([words, ["x"], []], **arguments), original([words, ["x"], []], **arguments))
    same(ours([words, ["x"]], [["y"], words], **arguments), original([words, ["x"]], [["y"], words], **arguments))
    assert ours(words, is_split_into_words=True).word_ids() == original(words, is_split_into_words=True).word_ids()


def test_targets(both):
    ours, original = both("t5")
    same(ours("a b", text_target="c d e"), original("a b", text_target="c d e"))
    same(ours(text_target=["a", "b c"]), original(text_target=["a", "b c"]))
    same(ours(TEXTS, text_target=PAIRS, padding=True), original(TEXTS, text_target=PAIRS, padding=True))


def test_every_lookup(both):
    ours, original = both("bert")
    texts, pairs = ["Hello  wörld, it's", "b unaffable"], ["c", "dd ee"]
    mine, theirs = ours(texts, pairs, padding=True), original(texts, pairs, padding=True)
    for row in range(2):
        assert mine.tokens(row) == theirs.tokens(row)
        assert mine.word_ids(row) == theirs.word_ids(row)
        assert mine.sequence_ids(row) == theirs.sequence_ids(row)
        for token in range(len(mine["input_ids"][row])):
            assert mine.token_to_chars(row, token) == theirs.token_to_chars(row, token)
            assert mine.token_to_word(row, token) == theirs.token_to_word(row, token)
        for sequence, text in enumerate((texts[row], pairs[row])):
            for char in range(len(text) + 2):
                assert mine.char_to_token(row, char, sequence) == theirs.char_to_token(row, char, sequence)
                assert mine.char_to_word(row, char, sequence) == theirs.char_to_word(row, char, sequence)
            for word in range(3):
                tokens = mine.word_to_tokens(row, word, sequence)
                assert tokens == theirs.word_to_tokens(row, word, sequence)
                if tokens is not None:
                    assert mine.word_to_chars(row, word, sequence) == theirs.word_to_chars(row, word, sequence)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=60)
SOUP = st.lists(st.one_of(TEXT, st.sampled_from([" ", "  ", "\n", "[SEP]", "<mask>", "</s>", "don't", "a"]))).map(
    "".join
)


@pytest.mark.parametrize("family", ["bert", "roberta", "t5", "llama"])
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(texts=st.lists(SOUP, min_size=1, max_size=4), length=st.integers(3, 20))
def test_any_text(both, family, texts, length):
    ours, original = both(family)
    same(ours(texts, **EVERYTHING), original(texts, **EVERYTHING))
    arguments = {"truncation": True, "max_length": length, "return_overflowing_tokens": True}
    same(ours(texts, **arguments), original(texts, **arguments))
    rows = ours(texts)["input_ids"]
    options = {"clean_up_tokenization_spaces": False}
    assert ours.batch_decode(rows, **options) == [original.decode(row, **options) for row in rows]
