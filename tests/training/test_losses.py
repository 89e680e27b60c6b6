"""What counts in a batch, for every architecture and head: means weighted by it are the mean over all rows."""

import pytest
import torch
import torch.nn.functional as F
from small import bert, gpt2, rows, texts

from cases import CASES, HEADS
from pellucid import Layout, auto
from pellucid.errors import InputError
from pellucid.training.losses import add_noise, aligned_labels, count_items, noisy_embeddings, smoothed_loss

TWO_LOSSES = {"bamba:biases"}  # the second, of all scores, is no mean over labels
LOSSES = [
    (case, suffix)
    for case in CASES
    for suffix in HEADS.get(case, ())
    if case not in TWO_LOSSES
    and suffix.endswith(("LM", "LMHeadModel", "Classification", "Generation", "PreTraining", "Prediction"))
    and "Entity" not in suffix
]


def batch_of(suffix, architecture, vocabulary):
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(5, min(vocabulary, 90), (4, 9), generator=generator)
    mask = torch.ones(4, 9, dtype=torch.long)
    mask[0, 6:], mask[2, 3:] = 0, 0
    labels = ids.masked_fill(mask == 0, -100)
    if "Sequence" in suffix or "Sentence" in suffix:
        labels = torch.tensor([0, 1, 1, 0])
    elif "Token" in suffix:
        labels = torch.randint(0, 3, (4, 9), generator=generator).masked_fill(mask == 0, -100)
    elif suffix == "ForPreTraining" and architecture in ("electra", "funnel"):
        labels = torch.randint(0, 2, (4, 9), generator=generator)
    return {"input_ids": ids, "attention_mask": mask, "labels": labels}


@pytest.mark.parametrize(("case", "suffix"), LOSSES)
def test_weighted_means_are_the_mean(case, suffix):
    architecture = case.partition(":")[0]
    cls, config = auto.heads_of(architecture)[suffix], auto.config_class(architecture)
    torch.manual_seed(0)
    model = cls.from_config(config.from_dict(CASES[case], where=case, num_labels=3)).eval()
    batch = batch_of(suffix, architecture, getattr(model.config, "vocab_size", 99))
    with torch.no_grad():
        whole = model(**batch).loss
        if whole is None:
            pytest.skip("this head has no loss of labels alone")
        parts = [{name: value[s] for name, value in batch.items()} for s in (slice(0, 1), slice(1, 2), slice(2, 4))]
        counts = [count_items(model, part) for part in parts]
        mean = sum(model(**part).loss * count for part, count in zip(parts, counts, strict=True)) / sum(counts)
    assert float(mean) == pytest.approx(float(whole), abs=1e-5)


def test_there_are_many():
    assert len(LOSSES) > 300


def test_packed_texts_count_as_padded_ones():
    data = rows(4)
    padded_batch = texts(data)
    ids = torch.tensor([[token for row in data for token in row["input_ids"]]])
    layout = Layout.packed([len(row["input_ids"]) for row in data])
    packed = {"input_ids": ids, "attention_mask": layout, "labels": ids}
    model = gpt2().eval()
    assert count_items(model, packed) == count_items(model, padded_batch)
    assert model(**packed).loss.item() == pytest.approx(model(**padded_batch).loss.item(), abs=1e-5)
    aligned = aligned_labels(model, padded_batch)
    assert F.cross_entropy(model(**padded_batch).logits.flatten(0, 1), aligned.flatten()).item() == pytest.approx(
        model(**padded_batch).loss.item(), abs=1e-6
    )


def test_a_class_that_a_user_derived_counts_as_its_base():
    made = gpt2()
    batch = texts(rows(3))
    expected = count_items(made, batch)
    made.__class__ = type("Mine", (type(made),), {"__module__": __name__})
    assert count_items(made, batch) == expected < count_items(bert("ForMaskedLM"), batch)


def test_rows_count_where_there_are_no_classes():
    model = bert()
    assert count_items(model, {"input_ids": torch.zeros(5, 3)}) == 5
    assert count_items(model, {"labels": torch.zeros(5, 3)}) == 5  # several of several, or numbers
    assert count_items(model, {"labels": torch.tensor([1, 0, -100])}) == 2
    assert count_items(model, {"labels": torch.tensor([1, 0, -100])}, torch.tensor([0.5, 2.0])) == 2.5
    assert count_items(model, {"labels": torch.tensor([-100])}) == 0


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 1.0])
def test_smoothing_is_what_it_says(smoothing):
    logits, labels = torch.randn(2, 3, 7), torch.tensor([[1, 2, -100], [6, -100, 0]])
    spread = (1 - smoothing) * F.one_hot(labels.clamp(min=0), 7) + smoothing / 7
    wanted = -(spread * logits.log_softmax(-1)).sum(-1)[labels != -100].mean()
    assert float(smoothed_loss(logits, labels, smoothing)) == pytest.approx(wanted.item(), abs=1e-6)


def test_noise():
    x = torch.ones(2, 4, 9)
    noise = add_noise(x, 6.0) - x
    assert 0.9 < float(noise.abs().max()) <= 1.0
    with pytest.raises(InputError, match=r"has no nn\.Embedding"), noisy_embeddings(torch.nn.Linear(2, 2), 5.0):
        pass
