"""The course's chapter "Behind the pipeline", call for call, beside the original on the same folder.

The checkpoint is a random DistilBERT with the real vocabulary, laid into a Hub cache under the chapter's own name.
Where the real checkpoint is cached, the numbers that the course prints are asserted too.
"""

import os
import shutil
import socket
from pathlib import Path

import pytest
import torch

import pellucid
from pellucid import (
    AutoModel,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,  # type: ignore[attr-defined]
    BertModel,  # type: ignore[attr-defined]
    BertTokenizer,  # type: ignore[attr-defined]
    pipeline,
)
from pellucid.errors import InputError, OfflineError, ShapeError
from perturbing import perturb

SENTENCES = ["I've been waiting for a HuggingFace course my whole life.", "I hate this so much!"]
CHECKPOINT = "distilbert-base-uncased-finetuned-sst-2-english"
VOCABULARY = Path(__file__).parent / "data" / "bert-base-uncased" / "vocab.txt"
COMMIT = "0123456789abcdef0123456789abcdef01234567"


def into_cache(folder, cache, repository):
    """Lay a folder into a Hub cache."""
    root = cache / f"models--{repository.replace('/', '--')}"
    shutil.copytree(folder, root / "snapshots" / COMMIT)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text(COMMIT)


@pytest.fixture(scope="module")
def original():
    """The original's tokenizer and model, random, of the chapter's shape but shallow."""
    import transformers

    torch.manual_seed(0)
    config = transformers.DistilBertConfig(
        n_layers=1, hidden_dim=64, id2label={0: "NEGATIVE", 1: "POSITIVE"}, label2id={"NEGATIVE": 0, "POSITIVE": 1}
    )
    model = transformers.DistilBertForSequenceClassification(config).eval()
    perturb(model, 0.05)
    return transformers.DistilBertTokenizer(vocab=str(VOCABULARY), model_max_length=512), model


@pytest.fixture(scope="module", autouse=True)
def cache(original, tmp_path_factory):
    """A cache that holds the chapter's checkpoint and bert-base-cased, and no network."""
    tokenizer, model = original
    folder = tmp_path_factory.mktemp("chapter")
    tokenizer.save_pretrained(folder)
    model.save_pretrained(folder)
    cache = tmp_path_factory.mktemp("cache")
    into_cache(folder, cache, f"distilbert/{CHECKPOINT}")
    bert = tmp_path_factory.mktemp("bert")
    BertModel(BertConfig(num_hidden_layers=1, intermediate_size=64)).save_pretrained(bert)
    shutil.copy(VOCABULARY, bert)
    (bert / "tokenizer_config.json").write_text('{"tokenizer_class": "BertTokenizer", "model_max_length": 512}')
    into_cache(bert, cache, "google-bert/bert-base-cased")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_CACHE", str(cache))
        patch.delenv("HF_HUB_OFFLINE", raising=False)
        patch.setattr(socket.socket, "connect", lambda *_: pytest.fail("a cached model must not use the network"))
        yield cache


def test_pipeline(original):  # 2.2a
    tokenizer, model = original
    classifier = pipeline("sentiment-analysis")
    answers = classifier(SENTENCES)
    with torch.no_grad():
        wanted = model(**tokenizer(SENTENCES, padding=True, return_tensors="pt")).logits.softmax(-1)
    for answer, row in zip(answers, wanted, strict=True):
        assert answer["label"] == ["NEGATIVE", "POSITIVE"][int(row.argmax())]
        assert answer["score"] == pytest.approx(float(row.max()), abs=1e-5)
    assert classifier(SENTENCES[0]) == [pytest.approx(answers[0], abs=1e-5)]
    assert pipeline("sentiment-analysis", CHECKPOINT)(SENTENCES) == answers


def test_tokenizer():  # 2.2b
    inputs = AutoTokenizer.from_pretrained(CHECKPOINT)(SENTENCES, padding=True, truncation=True, return_tensors="pt")
    assert list(inputs.keys()) == ["input_ids", "attention_mask"]
    assert inputs["input_ids"].tolist() == [
        [101, 1045, 1005, 2310, 2042, 3403, 2005, 1037, 17662, 12172, 2607, 2026, 2878, 2166, 1012, 102],
        [101, 1045, 5223, 2023, 2061, 2172, 999, 102, 0, 0, 0, 0, 0, 0, 0, 0],
    ]
    assert inputs.attention_mask.tolist() == [[1] * 16, [1] * 8 + [0] * 8]


def test_model(original):  # 2.2c
    inputs = AutoTokenizer.from_pretrained(CHECKPOINT)(SENTENCES, padding=True, truncation=True, return_tensors="pt")
    outputs = AutoModel.from_pretrained(CHECKPOINT)(**inputs)
    assert outputs.last_hidden_state.shape == torch.Size([2, 16, 768])
    (unpacked,) = outputs
    for same in (outputs["last_hidden_state"], outputs[0], unpacked):
        assert same is outputs.last_hidden_state
    wanted = original[1].distilbert(**inputs).last_hidden_state
    keep = inputs["attention_mask"].bool()
    assert torch.allclose(outputs[0][keep], wanted[keep], atol=1e-5)


def test_head(original):  # 2.2d, 2.2e, 2.2f
    inputs = AutoTokenizer.from_pretrained(CHECKPOINT)(SENTENCES, padding=True, truncation=True, return_tensors="pt")
    model = AutoModelForSequenceClassification.from_pretrained(CHECKPOINT)
    outputs = model(**inputs)
    assert outputs.logits.shape == (2, 2) and outputs.logits.grad_fn is not None
    assert torch.allclose(outputs.logits, original[1](**inputs).logits, atol=1e-5)
    predictions = torch.nn.functional.softmax(outputs.logits, dim=-1)
    assert torch.allclose(predictions.sum(-1), torch.ones(2))
    assert model.config.id2label == {0: "NEGATIVE", 1: "POSITIVE"}


def test_models(tmp_path):  # 2.3a
    assert BertModel(BertConfig(num_hidden_layers=1)).config.hidden_size == 768
    for loader in (AutoModel, BertModel):
        model = loader.from_pretrained("bert-base-cased")
        assert type(model) is BertModel
        model.save_pretrained(tmp_path)
        assert sorted(os.listdir(tmp_path)) == ["config.json", "model.safetensors"]
        again = BertModel.from_pretrained(tmp_path)
        assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_encoding_text():  # 2.3b, c, d, e, f
    tokenizer = AutoTokenizer.from_pretrained("bert-base-cased")
    encoded = tokenizer("Hello, I'm a single sentence!")
    assert list(encoded) == ["input_ids", "token_type_ids", "attention_mask"]
    assert tokenizer.decode(encoded["input_ids"]) == "[CLS] hello, i'm a single sentence! [SEP]"
    pair = tokenizer("How are you?", "I'm fine, thank you!")
    assert pair["token_type_ids"] == [0] * 6 + [1] * 9
    texts = ["How are you?", "I'm fine, thank you!"]
    with pytest.raises(InputError, match="padding=True"):
        tokenizer(texts, return_tensors="pt")
    assert tokenizer(texts, padding=True, return_tensors="pt")["input_ids"].shape == (2, 10)
    short = tokenizer(texts, padding=True, truncation=True, max_length=5, return_tensors="pt")
    assert short["input_ids"].shape == (2, 5)
    assert len(tokenizer("very " * 1000, truncation=True)["input_ids"]) == 512
    ids = torch.tensor(tokenizer(texts, padding=True)["input_ids"])
    assert AutoModel.from_pretrained("bert-base-cased")(ids).last_hidden_state.shape == (2, 10, 768)


def test_tokenizers(tmp_path):  # 2.4
    sequence = "Using a Transformer network is simple"
    for loader in (AutoTokenizer, BertTokenizer):
        tokenizer = loader.from_pretrained("bert-base-cased")
        tokens = tokenizer.tokenize(sequence)
        assert tokens == ["using", "a", "transform", "##er", "network", "is", "simple"]
        ids = tokenizer.convert_tokens_to_ids(tokens)
        assert len(ids) == 7 and tokenizer.decode(ids) == "using a transformer network is simple"
        assert tokenizer.encode(sequence) == [101, *ids, 102]
        assert tokenizer.batch_decode([ids, ids]) == ["using a transformer network is simple"] * 2
        tokenizer.save_pretrained(tmp_path)
        assert AutoTokenizer.from_pretrained(tmp_path)(sequence) == tokenizer(sequence)


def test_one_sequence_is_no_batch():  # 2.5a, b
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    model = AutoModelForSequenceClassification.from_pretrained(CHECKPOINT)
    ids = tokenizer.convert_tokens_to_ids(tokenizer.tokenize(SENTENCES[0]))
    with pytest.raises(ShapeError, match=r"expected a batch.*input_ids\[None\]"):
        model(torch.tensor(ids))
    with pytest.raises(IndexError):
        model(torch.tensor(ids))
    assert model(torch.tensor([ids])).logits.shape == (1, 2)


def test_attention_mask_matters():  # 2.5c
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    model = AutoModelForSequenceClassification.from_pretrained(CHECKPOINT)
    batch = torch.tensor([[200, 200, 200], [200, 200, tokenizer.pad_token_id]])
    alone = model(torch.tensor([[200, 200]])).logits
    unmasked = model(batch).logits
    masked = model(batch, attention_mask=torch.tensor([[1, 1, 1], [1, 1, 0]])).logits
    assert not torch.allclose(unmasked[1:], alone, atol=1e-3)
    assert torch.allclose(masked[1:], alone, atol=1e-5)


def test_putting_it_all_together():  # 2.6
    tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT)
    texts = [SENTENCES[0], "So have I!"]
    assert [len(row) for row in tokenizer(texts, padding="longest")["input_ids"]] == [16, 16]
    assert [len(row) for row in tokenizer(texts, padding="max_length")["input_ids"]] == [512, 512]
    assert [len(row) for row in tokenizer(texts, padding="max_length", max_length=8)["input_ids"]] == [16, 8]
    assert [len(row) for row in tokenizer(texts, max_length=8, truncation=True)["input_ids"]] == [8, 6]
    for kind, of in (("pt", torch.Tensor), ("np", __import__("numpy").ndarray)):
        assert isinstance(tokenizer(texts, padding=True, return_tensors=kind)["input_ids"], of)
    words = "i've been waiting for a huggingface course my whole life."
    assert tokenizer.decode(tokenizer(SENTENCES[0])["input_ids"]) == f"[CLS] {words} [SEP]"
    model = AutoModelForSequenceClassification.from_pretrained(CHECKPOINT)
    assert model(**tokenizer(texts, padding=True, truncation=True, return_tensors="pt")).logits.shape == (2, 2)


def test_default_model_offline_and_not_cached(tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(OfflineError, match="pellucid/sentiment"):
        pipeline("sentiment-analysis")


def test_names_of_the_package():
    assert pellucid.BertForMaskedLM.__name__ == "BertForMaskedLM"
    with pytest.raises(AttributeError, match="did you mean 'AutoModel'"):
        pellucid.AutoModle  # noqa: B018


def test_the_numbers_of_the_course(monkeypatch, user_cache):
    """Only where the real checkpoint has been downloaded before."""
    monkeypatch.setenv("HF_HUB_CACHE", str(user_cache))
    try:
        tokenizer = AutoTokenizer.from_pretrained(CHECKPOINT, local_files_only=True)
        model = AutoModelForSequenceClassification.from_pretrained(CHECKPOINT, local_files_only=True)
    except OfflineError:
        pytest.skip("the real checkpoint is not in this machine's cache")
    logits = model(**tokenizer(SENTENCES, padding=True, return_tensors="pt")).logits
    assert torch.allclose(logits, torch.tensor([[-1.5607, 1.6123], [4.1692, -3.3464]]), atol=1e-3)
    answers = pipeline("sentiment-analysis", model=model, tokenizer=tokenizer)(SENTENCES)
    assert [answer["score"] for answer in answers] == pytest.approx([0.9598047, 0.9994558], abs=1e-3)
