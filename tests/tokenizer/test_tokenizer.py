"""What a tokenizer promises beside the right numbers: clear errors, no shared state, no noise."""

import copy
import os
import pickle
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import AddedToken, Regex, models, pre_tokenizers
from tokenizers import Tokenizer as RustTokenizer

import pellucid
from pellucid.errors import ArgumentError, InputError, MissingPackageError, TokenizerError
from pellucid.tokenizer import BatchEncoding, Tokenizer

from .cases import UGLY

S1, S2 = "I've been waiting for a HuggingFace course my whole life.", "I hate this so much!"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)
function_scoped = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


# --- the course -------------------------------------------------------------------------------------------------------


def test_the_course(folders):
    tokenizer = pellucid.AutoTokenizer.from_pretrained(folders["distilbert"])
    batch = tokenizer([S1, S2], padding=True, truncation=True, return_tensors="pt")
    assert list(batch) == ["input_ids", "attention_mask"]
    row = [101, 1045, 1005, 2310, 2042, 3403, 2005, 1037, 17662, 12172, 2607, 2026, 2878, 2166, 1012, 102]
    assert batch["input_ids"].tolist() == [row, [101, 1045, 5223, 2023, 2061, 2172, 999, 102] + [0] * 8]
    assert batch.attention_mask.tolist() == [[1] * 16, [1] * 8 + [0] * 8]
    tokens = tokenizer.tokenize("Using a Transformer network is simple")
    assert tokens == ["using", "a", "transform", "##er", "network", "is", "simple"]
    assert tokenizer.decode(tokenizer.convert_tokens_to_ids(tokens)) == "using a transformer network is simple"


def test_decoding_tidies_word_pieces(bert):
    encoded = bert("Hello, I'm a single sentence!")
    assert list(encoded) == ["input_ids", "token_type_ids", "attention_mask"]
    assert bert.decode(encoded["input_ids"]) == "[CLS] hello, i'm a single sentence! [SEP]"
    assert bert.decode(encoded["input_ids"], skip_special_tokens=True) == "hello, i'm a single sentence!"


def test_two_texts_are_a_pair(bert):
    encoded = bert("How are you?", "I'm fine, thank you!")
    assert bert.convert_ids_to_tokens(encoded["input_ids"]).count("[SEP]") == 2
    assert encoded["token_type_ids"] == [0] * 6 + [1] * 9
    assert encoded.sequence_ids()[6:8] == [1, 1]


@pytest.mark.parametrize("framework, kind", [("pt", torch.Tensor), ("np", np.ndarray)])
def test_tensors(bert, framework, kind):
    batch = bert([S1, S2], padding=True, return_tensors=framework)
    assert all(isinstance(value, kind) and value.shape == (2, 16) for value in batch.values())
    assert bert(S1, return_tensors=framework)["input_ids"].shape == (1, 16)
    assert bert.encode(S1, return_tensors=framework).shape == (1, 16)


@pytest.mark.parametrize("framework, package", [("tf", "tensorflow"), ("jax", "jax")])
def test_a_framework_that_is_not_installed(bert, framework, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    monkeypatch.setitem(sys.modules, f"{package}.numpy", None)
    with pytest.raises(MissingPackageError, match=f"pip install {package}"):
        bert(S1, return_tensors=framework)


def test_lengths(bert):
    assert [len(row) for row in bert([S1, S2], padding="max_length", max_length=20)["input_ids"]] == [20, 20]
    assert [len(row) for row in bert([S1, S2], truncation=True, max_length=5)["input_ids"]] == [5, 5]
    assert len(bert("word " * 2000, truncation=True)["input_ids"]) == 512
    assert bert.max_len_single_sentence == 510


def test_character_spans(bert):
    encoded = bert("My name is Sylvain and I work at Hugging Face in Brooklyn.")
    assert encoded.word_ids()[:6] == [None, 0, 1, 2, 3, 3]
    start, end = encoded.word_to_chars(3)
    assert "My name is Sylvain and I work at Hugging Face in Brooklyn."[start:end] == "Sylvain"


# --- properties -------------------------------------------------------------------------------------------------------


@function_scoped
@given(texts=st.lists(TEXT, min_size=1, max_size=5))
def test_a_row_of_a_batch_is_the_row_alone(bert, texts):
    batch = bert(texts, padding=True)
    for text, ids, mask in zip(texts, batch["input_ids"], batch["attention_mask"], strict=True):
        alone = bert(text)["input_ids"]
        assert ids[: len(alone)] == alone
        assert set(ids[len(alone) :]) <= {bert.pad_token_id}
        assert mask == [1] * len(alone) + [0] * (len(ids) - len(alone))


@function_scoped
@given(
    texts=st.lists(TEXT, min_size=1, max_size=5), side=st.sampled_from(["left", "right"]), multiple=st.integers(1, 9)
)
def test_padding_later_is_padding_at_once(bert, texts, side, multiple):
    options = {"padding_side": side, "pad_to_multiple_of": multiple}
    at_once = bert(texts, padding=True, return_special_tokens_mask=True, **options)
    separate = [dict(bert(text, return_special_tokens_mask=True)) for text in texts]
    assert dict(bert.pad(separate, **options)) == dict(at_once)
    assert dict(bert.pad(bert(texts, return_special_tokens_mask=True), **options)) == dict(at_once)


@function_scoped
@given(text=TEXT)
def test_offsets_name_the_characters(gpt2, text):
    encoded = gpt2(text, return_offsets_mapping=True)
    assert "".join(text[start:end] for start, end in _without_repeats(encoded["offset_mapping"])) == text
    for token, (start, end) in enumerate(encoded["offset_mapping"]):
        assert encoded.token_to_chars(token) == (start, end)


def _without_repeats(spans):
    """Several tokens may share a character; keep each once."""
    done = 0
    for start, end in spans:
        yield max(start, done), end
        done = max(done, end)


@function_scoped
@given(text=TEXT, length=st.integers(2, 30), stride=st.integers(0, 5))
def test_windows_cover_the_text(bert, text, length, stride):
    if stride >= length - 2:
        return
    whole = bert(text, add_special_tokens=False)["input_ids"]
    if length == 2:
        return
    windows = bert(text, truncation=True, max_length=length, stride=stride, return_overflowing_tokens=True)["input_ids"]
    assert all(len(window) <= length for window in windows)
    covered = windows[0][1:-1]
    for window in windows[1:]:
        assert covered[len(covered) - stride :] == window[1 : 1 + stride]
        covered += window[1 + stride : -1]
    assert covered == whole


@function_scoped
@given(text=TEXT)
def test_bytes_survive_the_round_trip(gpt2, text):
    assert gpt2.decode(gpt2(text)["input_ids"]) == text


# --- threads, copies, forks -------------------------------------------------------------------------------------------


def test_threads_do_not_disturb_each_other(bert):
    texts = [text for text in UGLY if text.strip()] * 2
    ways = [
        {},
        {"padding": True},
        {"padding": "max_length", "max_length": 33},
        {"truncation": True, "max_length": 7},
        {"truncation": True, "max_length": 9, "return_overflowing_tokens": True, "stride": 2},
        {"padding": True, "padding_side": "left", "pad_to_multiple_of": 16},
        {"truncation": True, "max_length": 12, "padding": True, "add_special_tokens": False},
        {"truncation": True, "max_length": 40, "padding": "max_length", "return_tensors": "np"},
    ]

    def encode(number):
        way = ways[number % len(ways)]
        results = [bert(texts, **way), bert(texts[5], **way)]
        return [
            {name: value.tolist() if hasattr(value, "tolist") else value for name, value in result.items()}
            for result in results
        ]

    expected = [encode(number) for number in range(len(ways))]
    with ThreadPoolExecutor(16) as pool:
        for number, result in enumerate(pool.map(encode, range(256))):
            assert result == expected[number % len(ways)]


def test_threads_that_add_tokens(bert):
    before = len(bert)
    with ThreadPoolExecutor(16) as pool:
        added = list(pool.map(lambda number: bert.add_tokens([f"new{number}", f"more{number}"]), range(32)))
    assert added == [2] * 32
    assert len(bert) == before + 64
    assert sorted(bert.convert_tokens_to_ids([f"new{number}" for number in range(32)])) == sorted(
        {bert.convert_tokens_to_ids(f"new{number}") for number in range(32)}
    )


def test_many_settings_keep_few_copies(bert):
    for length in range(3, 200):
        bert(S1, truncation=True, max_length=length)
    assert len(bert._engine._copies) < 50


@pytest.mark.parametrize("clone", [copy.deepcopy, lambda tokenizer: pickle.loads(pickle.dumps(tokenizer))])
def test_copies(bert, clone):
    bert.add_tokens(["newtoken"])
    bert.pad_token = "[MASK]"
    twin = clone(bert)
    assert type(twin) is type(bert)
    assert dict(twin([S1, "newtoken"], padding=True)) == dict(bert([S1, "newtoken"], padding=True))
    twin.add_tokens(["anothertoken"])
    assert len(twin) == len(bert) + 1


def test_a_call_does_not_change_the_pickle(bert):
    before = pickle.dumps(bert)
    bert([S1], truncation=True, max_length=5, padding=True)
    assert pickle.dumps(bert) == before


def test_the_wrapped_object_is_not_shared(bert):
    rust = bert.backend_tokenizer
    rust.enable_truncation(2)
    rust.add_tokens(["newtoken"])
    assert len(bert(S1)["input_ids"]) == 16
    tokenizer = Tokenizer(tokenizer_object=rust, pad_token="[PAD]")
    assert rust.truncation["max_length"] == 2
    assert len(tokenizer(S1)["input_ids"]) == 16


def test_fork_is_quiet(folders):
    program = """
import os, sys
from pellucid import AutoTokenizer
tokenizer = AutoTokenizer.from_pretrained(sys.argv[1])
first = tokenizer(["some text"] * 100)["input_ids"]
child = os.fork()
if child == 0:
    os._exit(0 if tokenizer(["some text"] * 100)["input_ids"] == first else 1)
assert os.waitpid(child, 0)[1] == 0
assert "TOKENIZERS_PARALLELISM" not in os.environ
assert "torch" not in sys.modules and "numpy" not in sys.modules
"""
    environment = {name: value for name, value in os.environ.items() if name != "TOKENIZERS_PARALLELISM"}
    command = [sys.executable, "-c", program, folders["bert"]]
    result = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=60)
    assert (result.returncode, result.stderr) == (0, "")


# --- what is not a text -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text, message",
    [
        (None, "text is None"),
        (5, r"text is 5 \(int\)"),
        (b"bytes", r"text is b'bytes' \(bytes\)"),
        ({"text": "a"}, "text is {'text': 'a'}"),
        (["good", None], "item 1 of the texts is None"),
        (["good", "better", 5], r"item 2 of the texts is 5 \(int\)"),
        (["good", b"x"], "item 1 of the texts is b'x'"),
        ([[]], "item 0 of the texts is a list of 0 items"),
        (["a", ["b", "c", "d"]], "item 1 of the texts is a list of 3 items"),
        ([["a"]], "item 0 of the texts is a list of 1 items"),
        ([["a", None]], "item 0 of the texts is None"),
        ([[["a"], "b"]], "item 0"),
        ("a\ud800b", r"the text has the lone surrogate U\+D800 at character 1"),
        (["ok", "ab\udfff"], r"item 1 of the texts has the lone surrogate U\+DFFF at character 2"),
    ],
)
def test_inputs_that_are_no_texts(bert, text, message):
    for arguments in ({}, {"truncation": True, "max_length": 8, "padding": True}):
        with pytest.raises(InputError, match=message):
            bert(text, **arguments)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"text": "a", "text_pair": ["b"]}, "text_pair must be one too"),
        ({"text": ["a", "b"], "text_pair": ["c"]}, "text has 2 items and text_pair 1"),
        ({"text": ["a", "b"], "text_pair": "c"}, "text_pair is 'c'"),
        ({"text": ["a", "b"], "text_pair": ["c", None]}, "item 1 of the texts is None"),
        ({"text": "a b", "is_split_into_words": True}, "text is 'a b'"),
        ({"text": ["a", 5], "is_split_into_words": True}, r"a word of the text is 5 \(int\)"),
        ({"text": [["a"], ["b", None]], "is_split_into_words": True}, "a word of item 1 of the texts is None"),
        ({"text": [["a"], "b"], "is_split_into_words": True}, "item 1 of the texts is 'b'"),
        ({"text": "a", "padding": "longst"}, "padding='longst' is not one of"),
        ({"text": "a", "truncation": "first"}, "truncation='first' is not one of"),
        (
            {"text": "a", "truncation": True, "max_length": 0},
            "max_length=0 is too small: the special tokens alone are 2",
        ),
        ({"text": "a", "truncation": True, "max_length": 1}, "max_length=1 is too small"),
        ({"text": "a", "text_pair": "b", "truncation": True, "max_length": 2}, "the special tokens alone are 3"),
        ({"text": "a", "truncation": True, "max_length": -3}, "max_length is -3"),
        ({"text": "a", "truncation": True, "max_length": "8"}, "max_length is '8'"),
        ({"text": "a", "truncation": True, "max_length": 8, "stride": 6}, "stride=6 is too large"),
        ({"text": "a", "truncation": True, "max_length": 8, "stride": -1}, "stride is -1"),
        (
            {"text": "a", "text_pair": "b " * 50, "truncation": "only_first", "max_length": 9},
            "only_first.*max_length=9",
        ),
        ({"text": "b " * 50, "truncation": "only_second", "max_length": 9}, "needs a text_pair"),
        ({"text": "a", "padding": True, "padding_side": "top"}, "padding_side is 'top'"),
        ({"text": "a", "padding": True, "pad_to_multiple_of": 0}, "pad_to_multiple_of is 0"),
        (
            {"text": "a", "padding": True, "truncation": True, "max_length": 9, "pad_to_multiple_of": 8},
            "not a multiple",
        ),
        ({"text": "a", "return_tensors": "xx"}, "return_tensors='xx' is not one of"),
        ({"text": ["a", "b c"], "return_tensors": "pt"}, "'input_ids' has rows of 3 to 4 items.*padding=True"),
        ({"text": ["a", "b c"], "return_tensors": "np"}, "padding=True"),
    ],
)
def test_impossible_calls(bert, arguments, message):
    with pytest.raises(InputError, match=message):
        bert(**arguments)


def test_unknown_arguments(bert):
    with pytest.raises(ArgumentError, match="'truncatoin'; did you mean 'truncation'"):
        bert("a", truncatoin=True)
    with pytest.raises(ArgumentError, match="'maxlength'; did you mean 'max_length'"):
        bert.encode("a", maxlength=3)
    with pytest.raises(ArgumentError, match="'skip_special_token'; did you mean 'skip_special_tokens'"):
        bert.decode([1], skip_special_token=True)
    with pytest.raises(TypeError, match="'pad_tokn'; did you mean 'pad_token'"):
        Tokenizer(tokenizer_object=bert.backend_tokenizer, pad_tokn="x")


def test_nothing_and_next_to_nothing(bert):
    assert dict(bert([])) == {"input_ids": [], "token_type_ids": [], "attention_mask": []}
    assert bert([], padding=True, return_tensors="pt")["input_ids"].shape == (0, 0)
    assert bert("")["input_ids"] == [101, 102]
    assert bert([""])["input_ids"] == [[101, 102]]
    assert bert("", add_special_tokens=False)["input_ids"] == []
    assert bert.decode([]) == ""
    assert bert.batch_decode([]) == []
    assert bert.tokenize("") == []


def test_many_forms_of_many_texts(bert):
    expected = dict(bert([S1, S2]))
    for texts in ((S1, S2), (text for text in (S1, S2)), np.array([S1, S2]), {S1: 0, S2: 1}.keys()):
        assert dict(bert(texts)) == expected


def test_long_texts(bert):
    assert len(bert("word " * 100_000)["input_ids"]) == 100_002
    assert bert("a" * 1_000_000)["input_ids"] == [101, 100, 102]


def test_a_text_without_a_known_limit(gpt2):
    assert gpt2.model_max_length is None
    assert len(gpt2("word " * 3000, truncation=True)["input_ids"]) > 3000
    with pytest.raises(InputError, match=r"needs max_length=\.\.\."):
        gpt2("a", padding="max_length")


def test_no_padding_token(gpt2):
    gpt2.pad_token = None
    with pytest.raises(InputError, match="there is no padding token"):
        gpt2(["a", "b c"], padding=True)
    gpt2.pad_token = gpt2.eos_token
    assert gpt2(["a", "b c d"], padding=True)["input_ids"][0][-1] == gpt2.eos_token_id


@pytest.mark.parametrize(
    "ids, message", [([99999], "99999 is not in the vocabulary, which has 30522"), ([-100], "-100")]
)
def test_ids_that_are_not_in_the_vocabulary(bert, ids, message):
    for method in (bert.decode, bert.convert_ids_to_tokens, lambda ids: bert.batch_decode([ids])):
        with pytest.raises(InputError, match=message):
            method(ids)


def test_ids_that_are_no_ids(bert):
    for ids in (["x"], [1.5], [None]):
        with pytest.raises(InputError, match="expected an integer"):
            bert.decode(ids)


def test_ids_in_many_forms(bert):
    row = bert("hello there")["input_ids"]
    text = bert.decode(row)
    for ids in (tuple(row), np.array(row), torch.tensor(row), iter(row), list(torch.tensor(row)), list(np.array(row))):
        assert bert.decode(ids) == text
    for ids in ([row, row], np.array([row, row]), torch.tensor([row, row]), [np.array(row), np.array(row)]):
        assert bert.decode(ids) == bert.batch_decode(ids) == [text, text]
    assert bert.decode(row[1]) == bert.decode(torch.tensor(row[1])) == "hello"


def test_a_regular_expression_that_explodes():
    rust = RustTokenizer(models.WordLevel({"a": 0, "[UNK]": 1}, unk_token="[UNK]"))
    rust.pre_tokenizer = pre_tokenizers.Split(Regex(r"(a+)+$"), "removed")
    tokenizer = Tokenizer(tokenizer_object=rust)
    with pytest.raises(TokenizerError, match="failed on this input"):
        tokenizer("a" * 40 + "!")
    with pytest.raises(TokenizerError, match="failed on this input"):
        tokenizer(["ok", "a" * 40 + "!"])
    assert tokenizer("b")["input_ids"] == [1, 1] or tokenizer("b")["input_ids"]


# --- vocabulary -------------------------------------------------------------------------------------------------------


def test_adding_tokens(bert):
    assert bert.add_tokens(["new1", "hello", AddedToken("new2", lstrip=True)]) == 2
    assert (bert.vocab_size, len(bert)) == (30522, 30524)
    assert bert.add_tokens("new1") == 0
    assert bert.tokenize("a new1 new2b") == ["a", "new1", " new2", "b"]
    assert bert.get_added_vocab()["new1"] == 30522
    assert bert.add_special_tokens({"additional_special_tokens": ["<x>"], "pad_token": "<p>"}) == 2
    assert bert.pad_token_id == 30524
    assert bert.decode(bert("a <x> b")["input_ids"], skip_special_tokens=True) == "a b"
    assert bert.all_special_tokens == ["[UNK]", "[SEP]", "<p>", "[CLS]", "[MASK]", "<x>"]
    assert bert.add_special_tokens({"extra_special_tokens": ["<y>"]}, replace_extra_special_tokens=False) == 1
    assert bert.extra_special_tokens == bert.additional_special_tokens == ["<x>", "<y>"]


def test_a_word_becomes_special(bert):
    assert bert.add_special_tokens({"eos_token": "hello"}) == 0
    assert bert.eos_token_id == 7592
    assert bert.decode([7592, 2088], skip_special_tokens=True) == "world"


def test_adding_what_is_no_token(bert):
    with pytest.raises(InputError, match="'pad_tok'; did you mean 'pad_token'"):
        bert.add_special_tokens({"pad_tok": "<p>"})
    with pytest.raises(InputError, match="5 is not a token"):
        bert.add_tokens([5])


def test_setting_special_tokens(bert):
    bert.pad_token = "[SEP]"
    assert bert.pad_token_id == 102
    bert.pad_token_id = 0
    assert bert.pad_token == "[PAD]"
    with pytest.raises(InputError, match=r"'zork' is not in the vocabulary.*add_special_tokens"):
        bert.pad_token = "zork"
    with pytest.raises(InputError, match="99999"):
        bert.eos_token_id = 99999
    assert bert.bos_token is None and bert.bos_token_id is None


def test_settings_are_the_calls_own(bert):
    bert.padding_side = "left"
    assert bert(["a", "b c"], padding=True)["input_ids"][0] == [0, 101, 1037, 102]
    bert.truncation_side = "left"
    assert bert("a b c", truncation=True, max_length=3)["input_ids"] == [101, 1039, 102]
    bert.model_max_length = 4
    assert len(bert("a b c", truncation=True)["input_ids"]) == 4
    bert.model_max_length = 1e30
    assert bert.model_max_length is None
    bert.model_input_names = ["input_ids"]
    assert list(bert("a")) == ["input_ids"]


def test_conversions(bert):
    assert bert.convert_tokens_to_ids(["hello", "zzzzz", "[CLS]"]) == [7592, 100, 101]
    assert bert.convert_ids_to_tokens([101, 7592], skip_special_tokens=True) == ["hello"]
    assert bert.convert_ids_to_tokens(101) == "[CLS]"
    assert bert.convert_tokens_to_string(["hel", "##lo"]) == "hello"
    with pytest.raises(InputError, match="neither a token"):
        bert.convert_tokens_to_ids(None)


def test_special_tokens_around_ids(bert):
    assert bert.build_inputs_with_special_tokens([1, 2]) == [101, 1, 2, 102]
    assert bert.build_inputs_with_special_tokens([1, 2], [3]) == [101, 1, 2, 102, 3, 102]
    assert bert.create_token_type_ids_from_sequences([1, 2], [3]) == [0, 0, 0, 0, 1, 1]
    assert bert.get_special_tokens_mask([1, 2], [3]) == [1, 0, 0, 1, 0, 1]
    assert bert.get_special_tokens_mask([101, 2, 102], already_has_special_tokens=True) == [1, 0, 1]
    assert [bert.num_special_tokens_to_add(), bert.num_special_tokens_to_add(pair=True)] == [2, 3]


# --- pad --------------------------------------------------------------------------------------------------------------


def test_padding_rows(bert):
    padded = bert.pad([{"input_ids": [1, 2], "labels": [5]}, {"input_ids": [1], "labels": [5, 6]}])
    assert dict(padded) == {
        "input_ids": [[1, 2], [1, 0]],
        "labels": [[5], [5, 6]],
        "attention_mask": [[1, 1], [1, 0]],
    }
    assert dict(bert.pad({"input_ids": [1, 2]}, padding="max_length", max_length=3)) == {
        "input_ids": [1, 2, 0],
        "attention_mask": [1, 1, 0],
    }
    tensors = bert.pad({"input_ids": [torch.tensor([1, 2]), torch.tensor([3])]}, return_tensors="pt")
    assert tensors["input_ids"].tolist() == [[1, 2], [3, 0]]


@pytest.mark.parametrize(
    "rows, message",
    [
        ({"ids": [1]}, "needs dictionaries with 'input_ids'.*'ids'"),
        ([1, 2], "row 0"),
        ([{"input_ids": [1]}, {"input_ids": [1], "labels": 1}], "row 1"),
        ("text", "'str'"),
    ],
)
def test_padding_what_is_no_rows(bert, rows, message):
    with pytest.raises(InputError, match=message):
        bert.pad(rows)


# --- construction -----------------------------------------------------------------------------------------------------


def test_wrapping_a_rust_tokenizer(bert, tmp_path):
    bert.backend_tokenizer.save(str(tmp_path / "tokenizer.json"))
    for source in ({"tokenizer_object": bert.backend_tokenizer}, {"tokenizer_file": tmp_path / "tokenizer.json"}):
        tokenizer = pellucid.PreTrainedTokenizerFast(**source, pad_token="[PAD]", unk_token="[UNK]", bos_token="<new>")
        assert tokenizer([S1, S2], padding=True)["input_ids"] == bert([S1, S2], padding=True)["input_ids"]
        assert tokenizer.bos_token_id == 30522
    with pytest.raises(InputError, match="either tokenizer_object or tokenizer_file"):
        Tokenizer()
    with pytest.raises(TokenizerError, match=r"absent\.json can not be read"):
        Tokenizer(tokenizer_file=tmp_path / "absent.json")


def test_repr(bert):
    assert "30522 tokens, model_max_length=512" in repr(bert)
    assert bool(bert) and bert.is_fast


def test_batch_type(bert):
    assert isinstance(bert("a"), BatchEncoding)
    assert isinstance(bert.encode_plus("a", "b"), BatchEncoding)
    assert bert.batch_encode_plus([("a", "b")])["input_ids"] == [bert("a", "b")["input_ids"]]
