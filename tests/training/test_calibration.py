"""Probabilities that can be believed: temperatures by hand, and a classifier that was too sure."""

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import pellucid
import tiny
from pellucid import auto
from pellucid.training.calibration import (
    LEAST,
    calibrate,
    divide_logits,
    expected_error,
    fit_temperature,
    last_layer,
    reliability,
)


def drawn(texts, *, temperature, seed=0, classes=3):
    """Return logits, and labels drawn from the probabilities that they have at a temperature."""
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(texts, classes, generator=draw) * 3
    return logits, (logits / temperature).softmax(-1).multinomial(1, generator=draw).squeeze(-1)


@pytest.mark.parametrize("temperature", [0.5, 1.0, 4.0])
def test_the_temperature_that_labels_were_drawn_at_is_found(temperature):
    assert fit_temperature(*drawn(20000, temperature=temperature)) == pytest.approx(temperature, rel=0.05)


def test_no_other_temperature_is_better():
    logits, labels = drawn(5000, temperature=2.5)
    found = fit_temperature(logits, labels)
    losses = [float(F.cross_entropy(logits / (found * factor), labels)) for factor in (0.97, 1, 1.03)]
    assert losses[1] == min(losses)


@given(st.integers(2, 50), st.integers(2, 5), st.integers(0, 10**6))
def test_a_temperature_is_always_a_number(texts, classes, seed):
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(texts, classes, generator=draw) * 1000
    for labels in (logits.argmax(-1), logits.argmin(-1)):
        assert 0.01 < fit_temperature(logits, labels) < 60


def test_being_always_right_does_not_make_certain():
    logits = torch.tensor([[1.0, -1.0]]).repeat(200, 1)
    temperature = fit_temperature(logits, torch.zeros(200, dtype=torch.long))
    assert (logits[0] / temperature).softmax(-1)[0].item() == pytest.approx(201 / 202, abs=1e-4)


def test_the_error_is_that_of_the_definition():
    logits = torch.tensor([[math.log(0.9), math.log(0.1)]]).repeat(10, 1)
    bins = reliability(logits, torch.tensor([0] * 6 + [1] * 4))
    assert [b.answers for b in bins] == [10] and expected_error(bins) == pytest.approx(0.3)


def test_an_overconfident_model_errs_less():
    found = calibrate(*drawn(2000, temperature=3.0))
    before, after = expected_error(found.before), expected_error(found.after)
    assert found.temperature == pytest.approx(3, rel=0.2) and after < before / 3
    assert set(found.metrics()) == {"ece"} and "would bring" in found.describe()
    applied = found._replace(is_applied=True)
    assert applied.metrics() == {"ece": after, "ece_before_calibration": before, "temperature": found.temperature}
    assert "no answer changes" in applied.describe()


def test_what_is_calibrated_or_small_stays():
    few = calibrate(*drawn(LEAST - 1, temperature=3.0))
    assert few.temperature == 1 and few.before == few.after and "too few" in few.describe()
    logits, labels = torch.randn(400, 2), torch.arange(400) % 4 // 2  # both halves alike: nothing to be known
    assert calibrate(torch.zeros_like(logits), labels).describe().startswith("No temperature")


@pytest.mark.parametrize(
    "architecture", ["bert", "distilbert", "roberta", "gpt2", "xlnet", "bart", "electra", "albert"]
)
def test_the_last_layer_divides_all_logits(architecture):
    model = tiny.model("text-classification", architecture)
    layer, ids = last_layer(model), torch.tensor([[5, 6, 7, model.config.eos_token_id or 8]])
    assert layer is not None
    with torch.no_grad():
        before = model(ids).logits
        divide_logits(layer, 4.0)
        assert torch.allclose(model(ids).logits * 4, before, atol=1e-5)


def noisy(texts, seed):
    """Rows, of which some say "bad" and are labelled "good", which nothing in the text tells."""
    draw = torch.Generator().manual_seed(seed)
    wrong = (torch.rand(texts, generator=draw) < 0.3).tolist()
    words = [("bad", "good")[i % 2] for i in range(texts)]
    return [
        {"text": f"the film is {word} {tiny.WORDS[i % 20]}", "label": "good" if wrong[i] else word}
        for i, word in enumerate(words)
    ]


@pytest.fixture(scope="module")
def overconfident(tmp_path_factory):
    """A folder of a classifier that has learned something, and is far too sure of it."""
    base, out = tmp_path_factory.mktemp("base"), tmp_path_factory.mktemp("out") / "out"
    tiny.model("feature-extraction").save_pretrained(base)
    tiny.tokenizer().save_pretrained(base)
    settings = {"num_train_epochs": 4, "learning_rate": 1e-2, "use_cpu": True}
    pellucid.train("text-classification", noisy(160, 1), model=base, output_dir=out, **settings)
    model = auto.AutoModelForSequenceClassification.from_pretrained(out)
    divide_logits(model.classifier, 0.1)
    model.save_pretrained(out)
    return out


@pytest.mark.parametrize("lora", [None, 2])
def test_training_writes_a_calibrated_model(overconfident, tmp_path, lora):
    held = noisy(400, 2)
    options = {"model": overconfident, "validation": held, "output_dir": tmp_path / "out", "lora": lora}
    options |= {"learning_rate": 0.0, "num_train_epochs": 1, "use_cpu": True}
    folder, metrics = pellucid.train("text-classification", noisy(160, 1), **options)
    assert metrics["ece"] < metrics["ece_before_calibration"] - 0.1 and metrics["temperature"] > 2
    pipe = pellucid.pipeline("text-classification", folder)
    numbers = {name: i for i, name in pipe.model.config.id2label.items()}
    truth = torch.tensor([numbers[row["label"]] for row in held])
    answers = pipe([row["text"] for row in held], top_k=None)
    scores = torch.tensor([[{a["label"]: a["score"] for a in answer}[n] for n in numbers] for answer in answers])
    assert F.nll_loss(scores.log(), truth).item() == pytest.approx(metrics["loss"], abs=1e-3)  # of the written model
    assert expected_error(reliability(scores.log(), truth)) < metrics["ece_before_calibration"]
    page, card = (folder / "report.html").read_text(), (folder / "README.md").read_text()
    assert "was divided by the temperature" in page and "was divided by the temperature" in card
    assert page.count("<svg") == 2 and "with the temperature" in page
    if lora:
        plain = auto.AutoModelForSequenceClassification.from_pretrained(overconfident)
        plain.load_adapter(folder / "adapter")
        ids = pellucid.AutoTokenizer.from_pretrained(folder)("the film is good", return_tensors="pt").input_ids
        merged = auto.AutoModelForSequenceClassification.from_pretrained(folder)
        assert torch.allclose(plain.eval()(ids).logits, merged.eval()(ids).logits, atol=1e-4)
