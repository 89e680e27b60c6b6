"""Beside the original's Trainer, step by step: the same losses, learning rates, gradients and weights."""

import pytest
import small
import torch

import pellucid
from pellucid.training.arguments import TrainingArguments
from pellucid.training.trainer import Trainer

SETTINGS = {
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "learning_rate": 1e-3,
    "weight_decay": 0.1,
    "warmup_steps": 3,
    "lr_scheduler_type": "cosine",
    "max_grad_norm": 0.5,
    "logging_steps": 1,
    "eval_strategy": "epoch",
    "save_strategy": "no",
    "train_sampling_strategy": "sequential",
    "disable_tqdm": True,
    "use_cpu": True,
}
NAMES = ("loss", "grad_norm", "learning_rate", "epoch", "step", "eval_loss", "eval_right")


def texts(batch):
    made = small.texts(batch)
    made["labels"][:, 0] = -100  # which nothing predicts, and the original counts all the same
    return made


def right(prediction):
    predictions, labels = prediction
    return {"right": float((predictions.argmax(-1) == labels).mean())}


def both(theirs, head, changes, tmp_path, **given):
    """Train the original's model with the original's Trainer, and ours of the same weights with ours."""
    import transformers

    theirs.save_pretrained(tmp_path / "start")
    ours = getattr(pellucid, head).from_pretrained(tmp_path / "start")
    settings = SETTINGS | changes
    trainers = []
    for trainer, arguments, model in (
        (transformers.Trainer, transformers.TrainingArguments, theirs),
        (Trainer, TrainingArguments, ours),
    ):
        args = arguments(str(tmp_path / "out"), remove_unused_columns=False, **settings)
        trainers.append(trainer(model, args, train_dataset=small.rows(22), eval_dataset=small.rows(9, seed=1), **given))
        trainers[-1].train()
    return trainers


def assert_same(theirs, ours, names):
    histories = [[log for log in t.state.log_history if "train_loss" not in log] for t in (theirs, ours)]
    assert len(histories[0]) == len(histories[1]) > 5
    for their_log, our_log in zip(*histories, strict=True):
        for name in names:
            assert (name in their_log) == (name in our_log)
            if name in their_log:
                assert float(our_log[name]) == pytest.approx(float(their_log[name]), abs=1e-5), (name, our_log)
    for name, tensor in theirs.model.state_dict().items():
        assert torch.allclose(ours.model.state_dict()[name], tensor, atol=1e-5), name


@pytest.mark.parametrize(
    "changes",
    [{}, {"label_smoothing_factor": 0.1}, {"max_steps": 7, "warmup_steps": 0.2, "lr_scheduler_type": "linear"}],
    ids=["plain", "smoothed", "steps"],
)
def test_classification(changes, tmp_path):
    import transformers

    theirs = transformers.BertForSequenceClassification(
        transformers.BertConfig(**small.BERT, **small.STILL, num_labels=3)
    )
    head = "AutoModelForSequenceClassification"
    trainers = both(theirs, head, changes, tmp_path, data_collator=small.padded, compute_metrics=right)
    assert_same(*trainers, NAMES)
    predictions = [trainer.predict(small.rows(9, seed=1)) for trainer in trainers]
    assert predictions[1].predictions == pytest.approx(predictions[0].predictions, abs=1e-4)
    assert (predictions[1].label_ids == predictions[0].label_ids).all()
    assert predictions[0].metrics.keys() - {"test_model_preparation_time"} == predictions[1].metrics.keys()


def test_accumulated_language_modeling(tmp_path):
    """Of classification the original adds up the means of accumulated batches, so that only this can be compared."""
    import transformers

    config = transformers.GPT2Config(
        vocab_size=99, n_embd=32, n_layer=2, n_head=4, n_positions=40, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0,
        bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    theirs = transformers.GPT2LMHeadModel(config)
    trainers = both(theirs, "AutoModelForCausalLM", {"gradient_accumulation_steps": 2}, tmp_path, data_collator=texts)
    assert_same(*trainers, [name for name in NAMES if not name.startswith("eval")])
