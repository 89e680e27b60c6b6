"""Embeddings that learn: losses by hand, what ranks how high, and tables of pairs up to a folder that runs."""

import json

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

import pellucid
import tiny
from pellucid import pipeline
from pellucid.errors import InputError
from pellucid.training.contrastive import (
    contrastive_loss,
    pool,
    rank_correlation,
    ranking_loss,
    retrieval,
    similarity_loss,
)
from pellucid.training.predictions import EvalPrediction
from pellucid.training.run import split

TASK = "embedding"
PLACES = ("berlin", "paris", "york", "corp")
PAIRS = [
    {"anchor": f"{word} works in {place}", "positive": f"{place} {word}"} for word in tiny.WORDS for place in PLACES
]
FEW = {"num_train_epochs": 1, "use_cpu": True}


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """A folder with a tiny random encoder."""
    folder = tmp_path_factory.mktemp("base")
    tiny.model("feature-extraction").save_pretrained(folder)
    tiny.tokenizer().save_pretrained(folder)
    return folder


def train(rows, model, folder, **options):
    return pellucid.train(TASK, rows, model=model, output_dir=folder, **FEW | options)


def scored(score):
    return [row | {"score": score(i)} for i, row in enumerate(PAIRS)]


# --- losses -----------------------------------------------------------------------------------------------------------


@given(st.integers(2, 7), st.integers(2, 3), st.integers(1, 12), st.integers(0, 10**6))
def test_the_ranking_loss_is_that_of_each_anchor_among_its_rivals(rows, texts, different, seed):
    draw = torch.Generator().manual_seed(seed)
    vectors = torch.randn(rows, texts, 5, generator=draw)
    numbers = torch.randint(different, (rows, texts), generator=draw)
    losses = []
    for i in range(rows):
        right = {int(numbers[i, 0])} | {int(row[1]) for row in numbers if row[0] == numbers[i, 0]}
        others = [(j, k) for j in range(rows) for k in range(1, texts) if int(numbers[j, k]) not in right]
        cosines = [F.cosine_similarity(vectors[i, 0], vectors[j, k], dim=0) for j, k in [(i, 1), *others]]
        losses.append(-(torch.stack(cosines) * 20).log_softmax(0)[0])
    assert torch.allclose(ranking_loss(vectors, numbers), torch.stack(losses).mean(), atol=1e-4)


def test_losses_of_scored_pairs():
    vectors = torch.tensor([[[1.0, 0], [2, 0]], [[0, 1], [3, 0]], [[1, 0], [0.6, 0.8]]])  # cosines 1, 0, 0.6
    assert similarity_loss(vectors, torch.tensor([1.0, 0.5, 0.5])).item() == pytest.approx((0.25 + 0.01) / 3)
    same, other = (contrastive_loss(vectors, torch.full((3,), alike)).item() for alike in (1.0, 0.0))
    assert same == pytest.approx((1 + 0.4**2) / 6) and other == pytest.approx((0.5**2 + 0.1**2) / 6)


def test_padding_is_not_pooled():
    hidden, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 0, 0], [0, 1, 1, 1]])
    mean, last, first = (pool(hidden, mask, (mode,)) for mode in ("mean", "lasttoken", "cls"))
    assert torch.allclose(mean[0], hidden[0, :2].mean(0)) and torch.allclose(mean[1], hidden[1, 1:].mean(0))
    assert torch.equal(last, hidden[[0, 1], [1, 3]]) and torch.equal(first, hidden[[0, 1], [0, 1]])


# --- metrics ----------------------------------------------------------------------------------------------------------


def test_the_rank_of_the_right_text():
    anchors, texts = torch.eye(4), torch.eye(4) + 0.1
    texts[1] = texts[0] * 2  # as near to the first anchor as its own
    vectors = torch.stack([anchors, texts], 1).numpy()
    numbers = torch.tensor([[0, 4], [1, 5], [2, 6], [3, 7]])
    found = retrieval(EvalPrediction(vectors, numbers.numpy()))
    assert found == pytest.approx({"accuracy@1": 0.5, "mrr": (1 / 2 + 1 / 4 + 1 + 1) / 4})
    numbers[1, 1] = 4  # the same text, which is no rival
    found = retrieval(EvalPrediction(vectors, numbers.numpy()))
    assert found == pytest.approx({"accuracy@1": 0.75, "mrr": (1 + 1 / 3 + 1 + 1) / 4})


def test_vectors_that_are_all_alike_find_nothing():
    numbers = torch.arange(20).view(10, 2).numpy()
    found = retrieval(EvalPrediction(torch.ones(10, 2, 4).numpy(), numbers))
    assert found == pytest.approx({"accuracy@1": 0.0, "mrr": 0.1})


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 4)), min_size=2, max_size=30))
def test_spearman_is_the_correlation_of_ranks(values):
    angles, scores = (torch.tensor(part, dtype=torch.float32) for part in zip(*values, strict=True))
    turned = torch.stack([(angles / 4).cos(), (angles / 4).sin()], -1)
    vectors = torch.stack([torch.tensor([1.0, 0]).expand_as(turned), turned], 1)
    found = rank_correlation(EvalPrediction(vectors.numpy(), scores.numpy()))["spearman"]
    ranks = [[(x > y).sum() + (x == y).sum() / 2 for x in y] for y in (-angles, scores)]
    expected = torch.corrcoef(torch.tensor(ranks)).nan_to_num()[0, 1]  # nothing to be ordered: 0
    assert found == pytest.approx(float(expected), abs=1e-5)


# --- from a table to a folder -----------------------------------------------------------------------------------------


def test_pairs_are_found_better_than_before(base, tmp_path, capfd):
    settings = {"num_train_epochs": 4, "learning_rate": 3e-3, "patience": 4, "eval_on_start": True}
    folder, metrics = train(PAIRS, base, tmp_path / "out", **settings)
    assert capfd.readouterr() == ("", "")
    _, before = train(PAIRS, base, tmp_path / "same", learning_rate=0.0)
    assert metrics["mrr"] > before["mrr"] + 0.2 and metrics["accuracy@1"] > before["accuracy@1"]
    pipe = pipeline(TASK, folder)
    vectors = pipe([PAIRS[0]["anchor"], PAIRS[0]["positive"]])
    assert torch.allclose(vectors.norm(dim=-1), torch.ones(2)) and pipe.limit == tiny.POSITIONS
    entries = json.loads((folder / "modules.json").read_text())
    assert [entry["type"].rpartition(".")[2] for entry in entries] == ["Transformer", "Pooling", "Normalize"]
    assert json.loads((folder / "1_Pooling" / "config.json").read_text())["pooling_mode_mean_tokens"] is True
    assert "| mrr |" in (folder / "README.md").read_text()


def test_what_is_trained_is_what_the_pipeline_computes(base, tmp_path):
    """The loss of held-out scores, from vectors of the pipeline, is what the training has reported."""
    held = scored(lambda i: i % 3 / 2)[::5]
    folder, metrics = train(scored(lambda i: i % 3 / 2), base, tmp_path / "out", validation=held)
    first, second = (pipeline(TASK, folder)([row[name] for row in held]) for name in ("anchor", "positive"))
    truth = torch.tensor([row["score"] for row in held])
    expected = (F.cosine_similarity(first, second) - truth).square().mean()
    assert metrics["loss"] == pytest.approx(float(expected), abs=1e-5) and -1 <= metrics["spearman"] <= 1


@pytest.mark.parametrize("pooling", ["cls", "lasttoken"])
def test_a_folder_of_sentence_transformers_keeps_its_modules(base, tmp_path, pooling):
    first, _ = train(PAIRS, base, tmp_path / "first")
    (first / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode": pooling}), encoding="utf-8")
    (first / "sentence_bert_config.json").write_text('{"max_seq_length": 12, "do_lower_case": true}', encoding="utf-8")
    second, _ = train(PAIRS, first, tmp_path / "second")
    pipe = pipeline(TASK, second)
    assert pipe.sentence.modes == (pooling,) and pipe.limit == 12 and pipe.sentence.reading["do_lower_case"]


def test_triplets_and_labels_of_0_and_1(base, tmp_path):
    triplets = [row | {"negative": f"{row['positive']} not"} for row in PAIRS]
    _, metrics = train(triplets, base, tmp_path / "triplets")
    assert 0 <= metrics["accuracy@1"] <= metrics["mrr"] <= 1
    lines = ["sentence1;sentence2;label", *(f"{r['anchor']};{r['positive']};{i % 2}" for i, r in enumerate(PAIRS))]
    (tmp_path / "pairs.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    _, metrics = train(tmp_path / "pairs.csv", base, tmp_path / "pairs")
    assert set(metrics) == {"loss", "spearman"} and metrics["loss"] <= 0.5


def test_an_anchor_is_in_one_part_only():
    examples = [{"anchor": f"anchor {i // 4}"} for i in range(80)]
    learned, held = ({example["anchor"] for example in part} for part in split(examples, 0.2, 1))
    assert learned and held and not learned & held


# --- bad tables -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("rows", "options", "message"),
    [
        ([{"anchor": "a", "positve": "b"}] * 2, {}, "did you mean 'positve'"),
        ([{"anchor": "a", "positive": ""}] * 2, {}, "'positive' is empty in row 1, 2"),
        ([{"anchor": "a", "positive": "b"}, {"anchor": "a"}], {}, "'positive' is missing in row 2"),
        ([{"anchor": "a", "positive": "b", "negative": "b"}] * 2, {}, "'negative' repeats another text .* row 1"),
        ([{"anchor": "a", "positive": "b", "negative": " "}] * 2, {}, "'negative' is empty in row 1, 2"),
        ([{"anchor": "a", "positive": "b", "negative": "c", "score": 1}] * 2, {}, "a third text, 'negative', and a sc"),
        ([{"anchor": "a", "positive": "b", "score": 1.2}] * 2, {}, "is 1.2 in row 1; expected numbers from 0"),
        ([{"anchor": "a", "positive": "b", "score": "high"}] * 2, {}, "is 'high' in row 1"),
        ([{"anchor": "a", "positive": "b", "score": float("nan")}] * 2, {}, "is nan in row 1"),
        ([{"anchor": "a", "positive": "b", "score": "1"}] * 2, {}, "All 2 rows have 1 in 'score'"),
        ([{"anchor": "a", "positive": "b", "simil": 1}] * 2, {"score": "simi"}, "did you mean 'simil'"),
        ([{"anchor": "a", "positive": "b", "sim": "0.5"}] * 2, {}, "'sim' has '0.5', which may be a score"),
        ([{"anchor": "a", "positive": "b"}] * 2, {"target": "anchor"}, "'anchor' is named twice"),
        ([{"anchor": "a", "positive": "b"}] * 2, {}, "2 examples can not be split"),
        (PAIRS, {"validation": scored(lambda i: i % 2)}, "validation has text, target, score"),
    ],
)
def test_unusable_tables(rows, options, message, tmp_path):
    with pytest.raises(InputError, match=message):
        train(rows, "no/such-model", tmp_path / "out", **options)


def test_settings_that_do_not_fit(base, tmp_path):
    with pytest.raises(InputError, match="each row is compared with the others"):
        train(PAIRS, base, tmp_path / "out", per_device_train_batch_size=1)
    with pytest.raises(InputError, match="labels that are classes"):
        train(PAIRS, base, tmp_path / "out", label_smoothing_factor=0.1)
    with pytest.raises(InputError, match="no column for score="):
        pellucid.train("text-classification", [{"text": "a", "label": "b"}], score="b", output_dir=tmp_path / "out")
