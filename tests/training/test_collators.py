"""Collators give the original's batches; what is random is right in the mean; packed batches equal single texts."""

import numpy as np
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

import tiny
from pellucid import BatchEncoding, Layout, auto
from pellucid.errors import InputError
from pellucid.training import collators
from pellucid.training.collators import (
    DataCollatorForLanguageModeling,
    DataCollatorForMultipleChoice,
    DataCollatorForSeq2Seq,
    DataCollatorForTokenClassification,
    DataCollatorForWholeWordMask,
    DataCollatorWithFlattening,
    DataCollatorWithPadding,
    default_data_collator,
)

TEXTS = ["good film", "the film of berlin is not good", "who works for acme corp in new york", "bad"]


def tokenizers(side="right"):
    """Return ours and the original's over the same small vocabulary."""
    ours, theirs = tiny.tokenizer(), transformers.AutoTokenizer.from_pretrained(tiny.vocabulary())
    if side == "left":
        ours = type(ours).from_pretrained(tiny.vocabulary(), padding_side="left")
        theirs.padding_side = "left"
    return ours, theirs


def encoded(**columns):
    rows = [dict(tiny.tokenizer()(text)) for text in TEXTS]
    return [row | {name: make(row["input_ids"]) for name, make in columns.items()} for row in rows]


def equal(ours, theirs):
    assert set(ours.keys()) == set(theirs.keys())
    for name, value in theirs.items():
        assert torch.equal(torch.as_tensor(ours[name]), torch.as_tensor(value)), name
        assert ours[name].dtype == value.dtype, name


def both(name, features, side="right", **options):
    """Run a collator of ours and the original's of the same name."""
    ours, theirs = tokenizers(side)
    made = getattr(collators, name)(ours, **options)([dict(row) for row in features])
    expected = getattr(transformers, name)(theirs, **options)([dict(row) for row in features])
    return made, expected


# --- equal to the original --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "features",
    [
        [{"input_ids": [1, 2], "label": 1, "x": 0.5}, {"input_ids": [3, 4], "label": 0, "x": 1.0}],
        [{"input_ids": torch.tensor([1, 2]), "label_ids": [1, 2], "s": "text"}] * 2,
        [{"input_ids": np.array([1, 2]), "label": 0.5, "n": None}] * 2,
        [{"label": torch.tensor(3)}] * 2,
        [{"labels": [0.0, 1.0]}] * 2,
        [{"flag": True}, {"flag": False}],
    ],
)
def test_default(features):
    made = default_data_collator(features)
    assert type(made) is dict
    expected = transformers.default_data_collator(features)
    if features[0].get("flag") is not None:
        expected["flag"] = expected["flag"].long()  # numbers, as models take them
    equal(made, expected)
    equal(collators.DefaultDataCollator("np")(features), {n: v.numpy() for n, v in expected.items()})


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "options", [{}, {"pad_to_multiple_of": 8}, {"padding": "max_length", "max_length": 20}, {"return_tensors": "np"}]
)
def test_padding(options, side):
    made, expected = both("DataCollatorWithPadding", encoded(label=lambda ids: len(ids) % 2), side, **options)
    equal(made, expected)
    assert isinstance(made, BatchEncoding) and made.labels is made["labels"]
    if "return_tensors" not in options:  # in numpy the original has numbers of 64 bits
        equal(*both("DataCollatorWithPadding", encoded(labels=lambda ids: [0.0, 1.0]), side, **options))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("options", [{}, {"pad_to_multiple_of": 8}, {"label_pad_token_id": -1}])
def test_token_classification(options, side):
    features = encoded(labels=lambda ids: [-100, *range(len(ids) - 2), -100])
    equal(*both("DataCollatorForTokenClassification", features, side, **options))


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize(
    "options",
    [{}, {"pad_to_multiple_of": 8}, {"label_pad_token_id": -1}, {"padding": "max_length", "max_length": 40}],
)
def test_seq2seq(options, side):
    features = encoded(labels=lambda ids: [7, *ids, *ids])
    equal(*both("DataCollatorForSeq2Seq", features, side, **options))


@pytest.mark.parametrize("architecture", ["bart", "t5", "mbart", "m2m_100", "prophetnet"])
def test_seq2seq_gives_the_decoder_its_inputs(architecture):
    from cases import CASES

    config = auto.config_class(architecture)(**CASES[architecture])
    model = auto.AutoModelForSeq2SeqLM.from_config(config).eval()
    features = [{"input_ids": [5, 6, 7], "labels": [8, 9, 2]}, {"input_ids": [5, 6], "labels": [9, 2]}]
    batch = DataCollatorForSeq2Seq(tiny.tokenizer(), model=model)(features)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    with torch.no_grad():
        shifted = model(**inputs, decoder_input_ids=batch["decoder_input_ids"]).logits
        assert torch.equal(shifted, model(**inputs, labels=batch["labels"]).logits)


def test_multiple_choice():
    rows = [tiny.tokenizer()(pair) for pair in (TEXTS[:2], TEXTS[2:])]
    features = [dict(row) | {"label": i} for i, row in enumerate(rows)]
    ours, theirs = tokenizers()
    equal(
        DataCollatorForMultipleChoice(ours)([dict(row) for row in features]),
        transformers.DataCollatorForMultipleChoice(theirs)([dict(row) for row in features]),
    )


@pytest.mark.parametrize("options", [{}, {"pad_to_multiple_of": 8}])
def test_language_modeling_without_masks(options):
    equal(*both("DataCollatorForLanguageModeling", encoded(), mlm=False, **options))


def test_language_modeling_takes_plain_ids():
    rows = [row["input_ids"] for row in encoded()]
    collate = DataCollatorForLanguageModeling(tiny.tokenizer(), mlm=False)
    equal(collate(rows), collate([{"input_ids": torch.tensor(row)} for row in rows]))
    equal(collate(rows), collate([{"input_ids": row, "labels": row} for row in rows]))


def test_an_end_of_text_that_is_also_padding_is_learned():
    words = tiny.tokenizer()
    rows = [{"input_ids": [9, words.pad_token_id]}, {"input_ids": [9]}]
    labels = DataCollatorForLanguageModeling(words, mlm=False)(rows)["labels"]
    assert labels.tolist() == [[9, words.pad_token_id], [9, -100]]


# --- random -----------------------------------------------------------------------------------------------------------


def test_masks_are_what_the_paper_says():
    words = tiny.tokenizer()
    torch.manual_seed(0)
    ids = torch.randint(5, len(words), (400, 100))
    ids[:, 0], ids[:, -1] = words.cls_token_id, words.sep_token_id
    batch = DataCollatorForLanguageModeling(words)([{"input_ids": row} for row in ids])
    chosen = batch["labels"] != -100
    assert torch.equal(batch["labels"][chosen], ids[chosen])
    assert torch.equal(batch["input_ids"][~chosen], ids[~chosen])
    assert not chosen[torch.isin(ids, torch.tensor(words.all_special_ids))].any()
    free = 400 * 98
    assert abs(int(chosen.sum()) / free - 0.15) < 4 * (0.15 * 0.85 / free) ** 0.5
    count = int(chosen.sum())
    masked = batch["input_ids"] == words.mask_token_id
    same = batch["input_ids"] == ids
    assert abs(int((chosen & masked).sum()) / count - 0.8) < 4 * (0.8 * 0.2 / count) ** 0.5 + 1 / len(words)
    assert abs(int((chosen & same).sum()) / count - 0.1) < 4 * (0.1 * 0.9 / count) ** 0.5 + 1 / len(words)


def test_masks_follow_the_seed():
    ids = [{"input_ids": [2, *range(5, 40), 3]}] * 4

    def drawn(seed):
        return DataCollatorForLanguageModeling(tiny.tokenizer(), seed=seed)(ids)["input_ids"]

    torch.manual_seed(1)
    state = torch.get_rng_state()
    assert torch.equal(drawn(3), drawn(3)) and not torch.equal(drawn(3), drawn(4))
    assert torch.equal(state, torch.get_rng_state())  # a collator's own draws
    free = DataCollatorForLanguageModeling(tiny.tokenizer())
    first = free(ids)["input_ids"]
    torch.set_rng_state(state)
    assert torch.equal(free(ids)["input_ids"], first)


def test_special_tokens_of_a_row_are_never_hidden():
    row = {"input_ids": [9] * 50, "special_tokens_mask": [1] * 49 + [0]}
    batch = DataCollatorForLanguageModeling(tiny.tokenizer(), mlm_probability=1.0)([row] * 4)
    assert (batch["labels"] != -100).tolist() == [[False] * 49 + [True]] * 4
    assert "special_tokens_mask" not in batch


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("told", ["word_ids", "offset_mapping", "##"])
def test_whole_words_are_hidden_together(told, side):
    words = tokenizers(side)[0]
    texts = ["qx good zzz film", "unknown berlin", "a"]
    batch = words(texts, return_offsets_mapping=told == "offset_mapping")
    rows = [{name: batch[name][i] for name in batch} for i in range(len(texts))]
    if told == "word_ids":
        rows = [row | {"word_ids": batch.word_ids(i)} for i, row in enumerate(rows)]
    collate = DataCollatorForWholeWordMask(words, mlm_probability=0.5, seed=0)
    seen = set()
    for _ in range(40):
        labels = collate([dict(row) for row in rows])["labels"]
        for i in range(len(texts)):
            length = len(batch["input_ids"][i])
            real = labels[i, :length] if side == "right" else labels[i, -length:]
            chosen = (real != -100).tolist()
            of_word = {}
            for word, hidden in zip(batch.word_ids(i), chosen, strict=True):
                of_word.setdefault(word, set()).add(hidden)
            assert all(len(answers) == 1 for answers in of_word.values()) and of_word[None] == {False}
            seen |= {(i, word, *answers) for word, answers in of_word.items() if word is not None}
    assert len(seen) == 2 * (4 + 2 + 1)  # each word was hidden, and was not


# --- packed -----------------------------------------------------------------------------------------------------------


def test_flattening_equals_the_original_but_for_the_mask():
    for features in (
        [{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9]}],
        [{"input_ids": [5, 6, 7], "labels": [1, -100, 3]}, {"input_ids": [8, 9], "labels": [4, 5]}],
    ):
        made, expected = (
            kind()(features) for kind in (DataCollatorWithFlattening, transformers.DataCollatorWithFlattening)
        )
        for name in ("input_ids", "labels"):
            assert torch.equal(made[name], expected[name])
        assert torch.equal(made["attention_mask"].positions, expected["position_ids"])


@pytest.mark.parametrize("task", ["text-generation", "text-classification"])
def test_packed_losses_equal_those_of_padded_texts(task):
    model = tiny.model(task, "gpt2" if task == "text-generation" else "bert")
    features = [{name: row[name] for name in ("input_ids",)} for row in encoded()]
    if task == "text-classification":
        features = [row | {"label": i % 2} for i, row in enumerate(features)]
        padded = DataCollatorWithPadding(tiny.tokenizer())(features)
    else:
        padded = DataCollatorForLanguageModeling(tiny.tokenizer(), mlm=False)(features)
    with torch.no_grad():
        packed = model(**DataCollatorWithFlattening()(features)).loss
        assert packed.item() == pytest.approx(model(**padded).loss.item(), abs=1e-5)


def test_a_layout_moves():
    layout = DataCollatorWithFlattening()([{"input_ids": [5, 6, 7]}, {"input_ids": [8, 9]}])["attention_mask"]
    assert isinstance(layout, Layout)
    moved = layout.to("meta")
    assert (moved.positions.device.type, moved.lengths) == ("meta", (3, 2))


# --- what is wrong ----------------------------------------------------------------------------------------------------


@given(lengths=st.lists(st.integers(1, 12), min_size=1, max_size=6), side=st.sampled_from(["right", "left"]))
@settings(max_examples=40, deadline=None)
def test_labels_lie_beside_their_tokens(lengths, side):
    words = tokenizers(side)[0]
    rows = [{"input_ids": list(range(10, 10 + n)), "labels": list(range(10, 10 + n))} for n in lengths]
    batch = DataCollatorForTokenClassification(words)(rows)
    real = batch["attention_mask"].bool()
    assert torch.equal(batch["labels"][real], batch["input_ids"][real])
    assert (batch["labels"][~real] == -100).all()


@pytest.mark.parametrize(
    "collate, rows, words",
    [
        (default_data_collator, [], "no rows"),
        (default_data_collator, [{"a": 1}, {"b": 1}], "Row 1 of the batch has no 'a'"),
        (default_data_collator, [{"a": [1, 2]}, {"a": [1]}], "'a' can not become a tensor: its values are of 1 to 2"),
        (DataCollatorWithPadding, [{"input_ids": [1], "text": "x"}], "'text' can not become a tensor"),
        (DataCollatorWithPadding, [{"ids": [1]}], "input_ids"),
        (DataCollatorForTokenClassification, [{"input_ids": [1], "labels": [1, 2]}], "2 labels for 1 tokens"),
        (DataCollatorForTokenClassification, [{"input_ids": [1], "labels": 1}], "one label a token"),
        (DataCollatorForMultipleChoice, [{"input_ids": [[1], [2]]}, {"input_ids": [[1]]}], "as many lists"),
        (DataCollatorWithFlattening, [{"ids": [1]}], "'input_ids'"),
    ],
)
def test_wrong_rows_are_named(collate, rows, words):
    if isinstance(collate, type):
        collate = collate() if collate is DataCollatorWithFlattening else collate(tiny.tokenizer())
    with pytest.raises(InputError, match=words):
        collate(rows)


def test_wrong_arguments_are_named():
    with pytest.raises(InputError, match="mlm_probability"):
        DataCollatorForLanguageModeling(tiny.tokenizer(), mlm_probability=1.5)
    with pytest.raises(InputError, match="'pt' or 'np'"):
        default_data_collator([{"a": 1}], "tf")
    with pytest.raises(InputError, match="leave model= out"):
        rows = [{"input_ids": [1], "labels": [1]}]
        DataCollatorForSeq2Seq(tiny.tokenizer(), tiny.model("text-classification"))(rows)
