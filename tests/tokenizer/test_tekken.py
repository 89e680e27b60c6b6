"""tekken.json, against tiktoken."""

import base64
import json

import pytest
import tiktoken
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pellucid
from pellucid import AutoTokenizer
from pellucid.errors import TokenizerError
from pellucid.tokenizer.tiktoken import read_ranks

from .cases import UGLY

PATTERN = (
    r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+"
    r"|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*"
    r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = 30


@pytest.fixture(scope="module")
def content(vocabularies):
    """What a tekken.json with the vocabulary of ranks.tiktoken holds, and more tokens than it uses."""
    ranks = read_ranks((vocabularies / "ranks.tiktoken").read_bytes(), "ranks")
    vocab = [
        {"rank": rank, "token_bytes": base64.b64encode(token).decode(), "token_str": None}
        for token, rank in sorted(ranks.items(), key=lambda item: item[1])
    ]
    config = {
        "pattern": PATTERN,
        "num_vocab_tokens": len(vocab),
        "default_vocab_size": len(vocab) - 50 + SPECIAL,
        "default_num_special_tokens": SPECIAL,
        "version": "v3",
    }
    return {"config": config, "vocab": vocab}


def load(folder, content, **options):
    (folder / "tekken.json").write_text(json.dumps(content))
    return AutoTokenizer.from_pretrained(folder, **options)


def tiktoken_of(content):
    used = content["vocab"][: content["config"]["default_vocab_size"] - content["config"]["default_num_special_tokens"]]
    ranks = {base64.b64decode(entry["token_bytes"]): entry["rank"] for entry in used}
    return tiktoken.Encoding("x", pat_str=content["config"]["pattern"], mergeable_ranks=ranks, special_tokens={})


@pytest.fixture(scope="module")
def loaded(content, tmp_path_factory):
    return load(tmp_path_factory.mktemp("tekken"), content), tiktoken_of(content)


def test_same_ids(content, tmp_path):
    tokenizer, original = load(tmp_path, content), tiktoken_of(content)
    assert len(tokenizer) == content["config"]["default_vocab_size"]
    for text in UGLY:
        if "<s>" not in text:
            ids = tokenizer(text)["input_ids"]
            assert ids == [1, *(SPECIAL + id for id in original.encode(text, disallowed_special=()))]
            assert tokenizer.decode(ids, skip_special_tokens=True) == text


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("  \n eta")), max_size=60))
def test_any_text(loaded, text):
    ours, original = loaded
    ids = ours(text, add_special_tokens=False)["input_ids"]
    assert ids == [SPECIAL + id for id in original.encode(text, disallowed_special=())]


def test_special_tokens(content, tmp_path):
    tokenizer = load(tmp_path, content)
    roles = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    assert tokenizer.special_tokens_map == roles
    assert tokenizer("[INST]a[/INST]</s><SPECIAL_29>")["input_ids"][1:2] == [3]
    assert tokenizer("[INST]a[/INST]</s><SPECIAL_29>")["input_ids"][-3:] == [4, 2, 29]
    assert tokenizer("a", "a")["input_ids"].count(1) == 2
    assert tokenizer.padding_side == "left"
    assert load(tmp_path, content, add_bos_token=False, add_eos_token=True)("a")["input_ids"][-1] == 2


def test_special_tokens_that_the_file_names(content, tmp_path):
    named = [{"rank": id, "token_str": token, "is_control": True} for id, token in enumerate(["<unk>", "<s>", "[MY]"])]
    tokenizer = load(tmp_path, {**content, "special_tokens": named})
    assert tokenizer("[MY]")["input_ids"] == [1, 2]
    assert (tokenizer.eos_token, tokenizer.pad_token) == (None, None)
    assert tokenizer.convert_ids_to_tokens(3) == "<SPECIAL_3>"
    assert len(tokenizer) == content["config"]["default_vocab_size"]


def test_beside_other_files(content, tmp_path):
    (tmp_path / "tokenizer_config.json").write_text('{"tokenizer_class": "LlamaTokenizer", "pad_token": "</s>"}')
    tokenizer = load(tmp_path, content)
    assert (type(tokenizer), tokenizer.pad_token_id) == (pellucid.LlamaTokenizer, 2)
    tokenizer.save_pretrained(tmp_path / "saved")
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again(UGLY)["input_ids"] == tokenizer(UGLY)["input_ids"]
    (tmp_path / "saved" / "tekken.json").write_text("{}")  # a tokenizer.json comes first
    assert AutoTokenizer.from_pretrained(tmp_path / "saved")(UGLY)["input_ids"] == tokenizer(UGLY)["input_ids"]


@pytest.mark.parametrize(
    "change, fault",
    [
        (lambda c: c.pop("config"), "'config'"),
        (lambda c: c["config"].pop("pattern"), "'pattern'"),
        (lambda c: c["config"].update(pattern="(("), "regular expression"),
        (lambda c: c["config"].update(default_vocab_size="many"), "many"),
        (lambda c: c["config"].update(default_vocab_size=10**9), "do not make up 1000000000"),
        (lambda c: c["config"].update(default_num_special_tokens=10**9), "do not make up"),
        (lambda c: c["config"].update(default_num_special_tokens=-1), "do not make up"),
        (lambda c: c["config"].update(default_vocab_size=SPECIAL + 20), "single byte"),
        (lambda c: c["vocab"].reverse(), "in order"),
        (lambda c: c["vocab"].__setitem__(5, {"rank": 5, "token_bytes": "!"}), "tekken.json is broken"),
        (lambda c: c["vocab"].__setitem__(300, {**c["vocab"][299], "rank": 300}), "different tokens"),
        (lambda c: c.update(vocab={}), "tekken.json is broken"),
        (lambda c: c.update(special_tokens=[{"rank": 99, "token_str": "<x>"}]), "ranks above 29, such as 99"),
        (lambda c: c.update(special_tokens=[5]), "tekken.json is broken"),
    ],
)
def test_broken_files(content, tmp_path, change, fault):
    broken = json.loads(json.dumps(content))
    change(broken)
    with pytest.raises(TokenizerError, match=fault) as caught:
        load(tmp_path, broken)
    assert "tekken.json" in str(caught.value)


@pytest.mark.real
def test_a_real_vocabulary(wheel, tmp_path):
    source = wheel("mistral-common==1.13.1") / "mistral_common" / "data" / "tekken_240911.json"
    content = json.loads(source.read_text())
    tokenizer, original = load(tmp_path, content), tiktoken_of(content)
    for text in UGLY:
        if "<s>" not in text:
            ids = original.encode(text, disallowed_special=())
            assert tokenizer(text)["input_ids"] == [1, *(1000 + id for id in ids)]
