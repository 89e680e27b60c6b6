"""Text from tokens as they come: the pieces are the text of all of them, and no piece breaks a character."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import decoders, models, pre_tokenizers

from pellucid.errors import InputError
from pellucid.tokenizer import Tokenizer

from .cases import FAMILIES, UGLY

ANY = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def pieces(tokenizer, ids, **options):
    stream = tokenizer.decode_stream(**options)
    return [*map(stream.step, ids), stream.flush()]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("skip", [False, True])
def test_texts(both, family, skip):
    ours, _ = both(family)
    for text in UGLY:
        ids = ours(text)["input_ids"]
        for clean in (None, False, True):
            options = {"skip_special_tokens": skip, "clean_up_tokenization_spaces": clean}
            assert "".join(pieces(ours, ids, **options)) == ours.decode(ids, **options)


@pytest.mark.parametrize("family", FAMILIES)
@ANY
@given(data=st.data())
def test_any_ids(both, family, data):
    ours, _ = both(family)
    few = data.draw(st.lists(st.integers(0, len(ours) - 1), min_size=1, max_size=4))
    any_id = st.one_of(st.integers(0, min(300, len(ours) - 1)), st.integers(0, len(ours) - 1), st.sampled_from(few))
    ids = data.draw(st.lists(any_id, max_size=30))
    names = ("skip_special_tokens", "clean_up_tokenization_spaces")
    options = {name: data.draw(st.booleans()) for name in names}
    assert "".join(pieces(ours, ids, **options)) == ours.decode(ids, **options)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    words=st.lists(st.sampled_from(["a", "n", "n't", "'", ".", ",", "!", "m", "s", "ve", "re", "##s", "not", "[SEP]"]))
)
def test_cleaning(both, words):
    tokenizer, _ = both("bert")
    ids = tokenizer.convert_tokens_to_ids(words)
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)


def test_cleaned_text_comes_a_word_late(both):
    tokenizer, _ = both("bert")
    ids = tokenizer("the red fox , he said .", add_special_tokens=False)["input_ids"]
    assert pieces(tokenizer, ids) == ["", "the", " red", "", "", " fox, he", "", " said."]


def test_no_character_is_split(both):
    gpt2, llama = both("gpt2")[0], both("llama")[0]
    for tokenizer in (gpt2, llama):
        ids = tokenizer("a 👍🏽b é漢", add_special_tokens=False)["input_ids"]
        assert len(ids) > 9
        assert "\ufffd" not in "".join(pieces(tokenizer, ids))
        assert all("\ufffd" not in piece for piece in pieces(tokenizer, ids))
    *held, whole, rest = pieces(gpt2, gpt2("👍")["input_ids"])
    assert (set(held), whole, rest) == ({""}, "👍", "")


def test_text_comes_as_soon_as_it_is_certain(both):
    for family in ("gpt2", "llama", "t5", "bert"):
        tokenizer, _ = both(family)
        ids = tokenizer("the red fox and the dog", add_special_tokens=False)["input_ids"]
        *now, rest = pieces(tokenizer, ids, clean_up_tokenization_spaces=False)
        assert all(now) and not rest, now


def test_bytes_that_never_become_a_character(both):
    tokenizer, _ = both("gpt2")
    first = tokenizer("👍")["input_ids"][0]
    assert pieces(tokenizer, [first]) == ["", "\ufffd"]
    stream = tokenizer.decode_stream()
    assert (stream.step(first), stream.flush(), stream.flush()) == ("", "\ufffd", "")
    assert "".join(map(stream.step, tokenizer("again")["input_ids"])) == "again"


def test_unknown_ids(both):
    tokenizer, _ = both("gpt2")
    stream = tokenizer.decode_stream()
    for id in (len(tokenizer), -1, "x"):
        with pytest.raises(InputError):
            stream.step(id)
    assert stream.step(tokenizer("a")["input_ids"][0]) == "a"


@ANY
@given(ids=st.lists(st.integers(0, 9), max_size=20))
@pytest.mark.parametrize("decoder", [None, decoders.BPEDecoder("</w>"), decoders.CTC("|", "-", True)])
def test_rare_decoders(decoder, ids):
    tokens = ["a</w>", "b</w>", "c", "|", "-", "d</w>", "e", "</w>", ".", "f"]
    vocabulary = {token: id for id, token in enumerate(tokens)}
    rust = RustTokenizer(models.WordLevel(vocabulary, "c"))
    rust.pre_tokenizer = pre_tokenizers.Whitespace()
    if decoder is not None:
        rust.decoder = decoder
    tokenizer = Tokenizer(rust)
    assert "".join(pieces(tokenizer, ids)) == tokenizer.decode(ids)
