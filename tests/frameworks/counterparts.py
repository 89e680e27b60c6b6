"""What the tests of Flax and Keras models share: perturbed models of PyTorch, inputs, labels and comparisons."""

import numpy as np
import pytest
import torch

from pellucid import auto
from pellucid.errors import ConfigError
from perturbing import perturb

LABELS = {"id2label": {0: "a", 1: "b", 2: "c"}}
CAUSAL = ("LMHeadModel", "ForCausalLM")
each_loss = pytest.mark.parametrize(
    ("kind", "labels"),
    [
        (None, np.array([0.5, -1.0, 2.0], np.float32)),
        (None, np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1]], np.float32)),
        ("multi_label_classification", np.array([[0, 1, 1], [1, 0, 0], [0, 0, 1]])),
        ("regression", np.ones((3, 3), np.float32)),
    ],
)
TASKS = {
    "text-classification": ["good film", "not the film of anna smith in berlin", "bad"],
    "token-classification": ["anna smith works for acme corp in new york", "berlin"],
    "fill-mask": ["the [MASK] is good", "anna [MASK] in [MASK]"],
    "question-answering": [{"question": "who is anna", "context": "anna smith works for acme corp in berlin " * 8}],
    "feature-extraction": ["good film", "anna smith works for acme corp in new york " * 12],
    "zero-shot-classification": ["good film in berlin"],
    "multiple-choice": [
        {"prompt": "who is anna", "choices": ["good film", "the film is not good", "berlin"]},
        {"prompt": "berlin", "choices": ["bad"]},
    ],
    "embedding": ["good film", "anna smith works for acme corp in new york " * 12],
    "sparse-embedding": ["good film", "anna smith works for acme corp in new york " * 12],
    "text-ranking": [{"text": "who is anna", "text_pair": "anna smith works for acme corp"}],
}
ASKED = {"zero-shot-classification": {"candidate_labels": ["good", "bad"]}}


def heads_in(framework: str, architecture: str) -> list[str]:
    """Return the suffixes of the classes that a framework has of an architecture."""
    found = []
    for suffix, kind in auto.heads_of(architecture).items():
        try:
            auto.counterpart(kind, framework)
        except ConfigError:
            continue
        found.append(suffix)
    return found


def save_perturbed(kind, fields, folder):
    """Build a PyTorch model whose every parameter is perturbed, save it, and return it."""
    torch.manual_seed(0)
    model = kind.from_config(kind.config_class(**fields)).eval()
    perturb(model, 0.1)
    model.save_pretrained(folder)
    return model


def batch(model, padding: str = "", rows: int = 3, length: int = 7):
    """Return inputs of a model, padded on a side or not, as NumPy arrays, and which of the tokens are real."""
    random = np.random.default_rng(0)
    shape = (2, rows, length) if type(model).__name__.endswith("MultipleChoice") else (rows, length)
    ids = random.integers(4, model.config.vocab_size, shape)
    mask = np.ones(shape, np.int64)
    if padding == "left":
        mask[..., 0, :3] = 0
    if padding == "right":
        mask[..., 1, 4:] = 0
    if type(model).__name__.endswith("T5ForSequenceClassification"):  # which reads the last end
        ids[:, [1, 3]] = model.config.eos_token_id
    inputs = {"input_ids": np.where(mask, ids, model.config.pad_token_id or 0)}
    if padding:
        inputs["attention_mask"] = mask
    if "token_type_ids" in model.accepts and getattr(model.config, "type_vocab_size", 99) > 1:
        inputs["token_type_ids"] = random.integers(0, 2, shape)
    if "decoder_input_ids" in model.accepts:
        inputs["decoder_input_ids"] = random.integers(4, model.config.vocab_size, (rows, 5))
    return inputs, mask


def labels_of(model, inputs, mask):
    """Return what a head learns."""
    random, accepts = np.random.default_rng(1), model.accepts
    name, rows = type(model).__name__, len(mask)
    if "start_positions" in accepts:
        return {"start_positions": random.integers(0, 4, rows), "end_positions": np.array([3, 99, 1])}
    if "next_sentence_label" in accepts or name.endswith("NextSentencePrediction"):
        order = random.integers(0, 2, rows)
        if name.endswith("NextSentencePrediction"):
            return {"labels": order}
        return {"labels": np.where(mask, inputs["input_ids"], -100), "next_sentence_label": order}
    if "labels" not in accepts:
        return {}
    if "decoder_input_ids" in inputs:
        target = inputs["decoder_input_ids"].copy()
        target[0, -2:] = -100
        return {"labels": target}
    if name.endswith(("MaskedLM", "CausalLM", "LMHeadModel")):
        return {"labels": np.where(mask, inputs["input_ids"], -100)}
    if name.endswith("TokenClassification"):
        return {"labels": np.where(mask, random.integers(0, model.config.num_labels, mask.shape), -100)}
    return {"labels": random.integers(0, 2, rows)}


def to_torch(inputs):
    return {name: torch.from_numpy(np.asarray(value)) for name, value in inputs.items()}


def assert_same(output, expected, mask):
    """Compare every part of an output, of padding none."""
    assert list(output.keys()) == [name for name in expected.keys() if name != "past_key_values"]  # noqa: SIM118
    for name, part in output.items():
        wanted, part = expected[name].numpy(), np.asarray(part)
        assert part.shape == wanted.shape
        if part.shape[:2] == mask.shape and name != "seq_relationship_logits":
            wanted, part = wanted[mask == 1], part[mask == 1]
        np.testing.assert_allclose(part, wanted, rtol=0, atol=1e-5, err_msg=name)


def assert_same_step(model, before, after):
    """Compare the weights that a model of PyTorch, and another of the same folder, have after a step; these moved."""
    old_model, stepped = type(model).from_pretrained(before), type(model).from_pretrained(after)
    moved = 0.0
    for (name, wanted), own, old in zip(
        model.named_parameters(), stepped.parameters(), old_model.parameters(), strict=True
    ):
        torch.testing.assert_close(own, wanted, rtol=0, atol=1e-6, msg=lambda message, name=name: f"{name}: {message}")
        moved = max(moved, float((wanted - old).detach().abs().max()))
    assert moved > 1e-3


def close(a, b):
    """Compare answers, in which numbers may be rounded otherwise."""
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(close(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(close, a, b))
    if isinstance(a, torch.Tensor):
        return a.shape == b.shape and torch.allclose(a, b, rtol=0, atol=1e-5)
    return a == pytest.approx(b, abs=1e-5) if isinstance(a, float) else a == b
