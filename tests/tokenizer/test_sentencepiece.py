"""SentencePiece models, against the library that makes them."""

import pytest
import sentencepiece
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import pellucid
from pellucid.errors import MissingFileError, TokenizerError
from pellucid.tokenizer.sentencepiece import BPE, UNIGRAM, read_model

from .cases import SENTENCEPIECE, UGLY, write_folder

MODELS = {  # name -> class; those whose own steps before the model's do not change a text
    "t5": "T5Tokenizer",
    "albert": "DebertaV2Tokenizer",
    "xlnet": "BigBirdTokenizer",
    "llama": "LlamaTokenizer",
    "collapsed": "LlamaTokenizer",
    "gemma": "GemmaTokenizer",
    "symbols": "GemmaTokenizer",
}
ROLES = {"albert": {"unk_token": "<unk>", "pad_token": "<pad>", "mask_token": "<unk>"}}
ROLES["xlnet"] = {"cls_token": "<cls>", "sep_token": "<sep>", "mask_token": "<mask>"}
ROLES["symbols"] = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<unk>"}


def load(vocabularies, folder, model):
    """Return a tokenizer of a model without special tokens around, and the original."""
    write_folder(folder, vocabularies, {f"{model}.model": "spiece.model"})
    options = {"add_bos_token": False, **ROLES.get(model, {})}
    ours = getattr(pellucid, MODELS[model]).from_pretrained(folder, **options)
    return ours, sentencepiece.SentencePieceProcessor(model_file=str(folder / "spiece.model"))


def is_plain(text):
    """Whether a text has no special token, which SentencePiece does not look for, and no pieces whose scores tie."""
    return not any(token in text for token in ("<s>", "[CLS]", "<mask>", "[MASK]", "aaaa", "\x85"))


@pytest.mark.parametrize("model", MODELS)
def test_same_ids(vocabularies, tmp_path, model):
    ours, original = load(vocabularies, tmp_path / "folder", model)
    for text in filter(is_plain, UGLY):
        assert ours(text, add_special_tokens=False)["input_ids"] == original.encode(text), text


@pytest.mark.parametrize("model", ["llama", "gemma", "collapsed", "symbols"])
@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(st.one_of(st.characters(exclude_categories=["Cs"]), st.sampled_from("  \n eta")), max_size=60))
def test_any_text(vocabularies, tmp_path_factory, model, text):
    ours, original = loaded(vocabularies, tmp_path_factory, model)
    assert ours(text, add_special_tokens=False)["input_ids"] == original.encode(text)


def loaded(vocabularies, tmp_path_factory, model, kept={}):  # noqa: B006 - kept between examples
    key = vocabularies, model
    if key not in kept:
        kept[key] = load(vocabularies, tmp_path_factory.mktemp(model) / "folder", model)
    return kept[key]


@pytest.mark.parametrize("model", SENTENCEPIECE)
def test_same_pieces(vocabularies, model):
    read = read_model((vocabularies / f"{model}.model").read_bytes(), "x")
    original = sentencepiece.SentencePieceProcessor(model_file=str(vocabularies / f"{model}.model"))
    ids = range(original.get_piece_size())
    assert [piece for piece, _, _ in read.pieces] == [original.id_to_piece(id) for id in ids]
    assert [score for _, score, _ in read.pieces] == [original.get_score(id) for id in ids]
    assert [kind == 3 for _, _, kind in read.pieces] == [original.is_control(id) for id in ids]
    assert [kind == 2 for _, _, kind in read.pieces] == [original.is_unknown(id) for id in ids]
    assert [kind == 6 for _, _, kind in read.pieces] == [original.is_byte(id) for id in ids]
    assert read.kind == (BPE if SENTENCEPIECE[model]["model_type"] == "bpe" else UNIGRAM)
    assert read.add_dummy_prefix == SENTENCEPIECE[model].get("add_dummy_prefix", True)
    assert read.byte_fallback == SENTENCEPIECE[model].get("byte_fallback", False)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damage_is_told(vocabularies, data):
    content = bytearray((vocabularies / "llama.model").read_bytes()[:3000])
    for _ in range(data.draw(st.integers(1, 5))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert read_model(bytes(content), "here/x.model").pieces
    except TokenizerError as error:
        assert "here/x.model" in str(error)


@pytest.mark.parametrize("content", [b"", b"\x80" * 50, b"not a model", b"\x0a\xff\xff\xff\xff\x0f", b"\x00" * 100])
def test_what_is_no_model(tmp_path, content):
    (tmp_path / "tokenizer.model").write_bytes(content)
    with pytest.raises(TokenizerError, match=r"tokenizer\.model"):
        pellucid.LlamaTokenizer.from_pretrained(tmp_path)


def test_no_file_or_two(tmp_path):
    (tmp_path / "vocab.txt").write_text("a\n")
    with pytest.raises(MissingFileError, match=r"no vocabulary.*vocab\.txt"):
        pellucid.T5Tokenizer.from_pretrained(tmp_path)
    for name in ("a.model", "b.model"):
        (tmp_path / name).write_bytes(b"x")
    with pytest.raises(MissingFileError, match=r"several vocabularies \(a\.model, b\.model\)"):
        pellucid.T5Tokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize("count", [-1, 10**9, "many", 1.5])
def test_absurd_numbers_of_sentinels(vocabularies, tmp_path, count):
    write_folder(tmp_path / "x", vocabularies, {"t5.model": "spiece.model"}, {"extra_ids": count})
    with pytest.raises(TokenizerError, match="extra_ids"):
        pellucid.T5Tokenizer.from_pretrained(tmp_path / "x")


def test_a_space_after_a_special_token(vocabularies, tmp_path):
    for legacy, second in ((True, "▁b"), (False, "b")):
        folder = tmp_path / str(legacy)
        write_folder(folder, vocabularies, {"llama.model": "tokenizer.model"}, {"legacy": legacy})
        tokenizer = pellucid.LlamaTokenizer.from_pretrained(folder)
        assert tokenizer.tokenize("a</s>b") == ["▁a", "</s>", second]


@pytest.mark.real
@pytest.mark.parametrize("file", ["tokenizer.model.v1", "mistral_instruct_tokenizer_241114.model.v7"])
def test_a_real_model(wheel, tmp_path, file):
    source = wheel("mistral-common==1.13.1") / "mistral_common" / "data"
    write_folder(tmp_path / "x", source, {file: "tokenizer.model"})
    ours = pellucid.LlamaTokenizer.from_pretrained(tmp_path / "x")
    original = sentencepiece.SentencePieceProcessor(model_file=str(source / file))
    for text in UGLY:
        if "<s>" not in text:
            assert ours(text)["input_ids"] == [1, *original.encode(text)], text
            assert ours.decode(original.encode(text)) == original.decode(original.encode(text))
