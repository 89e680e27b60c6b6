"""The Trainer's promises: exact steps, metrics, callbacks, and the ways in which users call it."""

import os

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from small import STILL, bert, distance, gpt2, masked, padded, rows, texts, trainer, weights_of

from pellucid.errors import ArgumentError
from pellucid.training.arguments import TrainingArguments
from pellucid.training.callbacks import EarlyStoppingCallback, TrainerCallback
from pellucid.training.metrics import Accuracy
from pellucid.training.trainer import Trainer

# --- accumulation -----------------------------------------------------------------------------------------------------

KINDS = {
    "classes": (lambda: bert(**STILL), padded),
    "tokens": (lambda: bert("ForMaskedLM", **STILL), texts),
    "next-tokens": (gpt2, texts),
}


@pytest.mark.parametrize("batch", [1, 2, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_accumulation_is_exact(kind, batch, tmp_path):
    """So many batches of a few rows are one of many, the last step of an epoch, which is smaller, included."""
    make, collate = KINDS[kind]
    ends, losses = [], []
    for size, times in ((6, 1), (batch, 6 // batch)):
        made = trainer(
            tmp_path,
            make(),
            rows(22),
            collate=collate,
            per_device_train_batch_size=size,
            gradient_accumulation_steps=times,
            learning_rate=1e-3,
            logging_steps=1,
            optim="sgd",
            max_grad_norm=0,
        )
        made.train()
        ends.append(weights_of(made.model))
        losses.append([log["loss"] for log in made.state.log_history if "loss" in log])
    assert len(losses[0]) == 8
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    assert distance(*ends) < 1e-6


def test_a_step_with_nothing_to_learn_changes_nothing(tmp_path):
    """Rows without labels weigh nothing, alone in a batch too; the mean of nothing would be NaN."""

    def some(batch):
        made = texts(batch)
        made["labels"][made["input_ids"][:, 0] < 50] = -100
        return made

    ends = []
    for size, times in ((6, 1), (1, 6)):
        made = trainer(tmp_path, bert("ForMaskedLM", **STILL), rows(22), collate=some, learning_rate=1e-3, optim="sgd",
                       per_device_train_batch_size=size, gradient_accumulation_steps=times)  # fmt: skip
        made.train()
        ends.append(weights_of(made.model))
    assert distance(*ends) < 1e-6


def test_the_users_own_losses(tmp_path):
    """A mean, and a sum over what is to be divided by, are the same step."""

    class Mean(Trainer):
        def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
            labels = inputs.pop("labels")
            outputs = model(**inputs)
            loss = F.cross_entropy(outputs.logits, labels)
            return (loss, outputs) if return_outputs else loss

    def total(outputs, labels, num_items_in_batch=None):
        return F.cross_entropy(outputs.logits, labels, reduction="sum") / num_items_in_batch

    ends = []
    for kind, given in ((Trainer, {}), (Mean, {}), (Trainer, {"compute_loss_func": total})):
        args = TrainingArguments(
            tmp_path, per_device_train_batch_size=2, gradient_accumulation_steps=3, save_strategy="no", use_cpu=True
        )
        made = kind(bert(**STILL), args, data_collator=padded, train_dataset=rows(22), eval_dataset=rows(7), **given)
        made.train()
        ends.append([*made.state.log_history, made.evaluate()["eval_loss"], weights_of(made.model)])
    assert distance(ends[0][-1], ends[1][-1]) < 1e-7 and distance(ends[0][-1], ends[2][-1]) < 1e-7
    assert ends[0][-2] == pytest.approx(ends[1][-2]) == pytest.approx(ends[2][-2])


def test_class_weights(tmp_path):
    """The weighted mean over a step, whichever batches it is made of; torch's own in one batch."""
    weights = torch.tensor([1.0, 2.0, 5.0])
    ends = []
    for size, times in ((4, 1), (2, 2), (1, 4)):
        made = trainer(tmp_path, bert(**STILL), rows(4), class_weights=weights.tolist(),
                       num_train_epochs=1, logging_steps=1,
                       per_device_train_batch_size=size, gradient_accumulation_steps=times)  # fmt: skip
        batch = padded(rows(4))
        wanted = F.cross_entropy(made.model(**batch).logits.detach(), batch["labels"], weights)
        made.train()
        assert made.state.log_history[0]["loss"] == pytest.approx(wanted.item(), abs=1e-6)
        ends.append(weights_of(made.model))
    assert distance(ends[0], ends[1]) < 1e-6 and distance(ends[0], ends[2]) < 1e-6


# --- evaluating -------------------------------------------------------------------------------------------------------


def right(prediction):
    predictions, labels = prediction
    return {"accuracy": float((np.argmax(predictions, axis=-1) == labels).mean())}


def test_metrics_of_all_predictions_and_streaming_ones_agree(tmp_path):
    data, results = rows(13), []
    for compute in (right, Accuracy()):
        made = trainer(tmp_path, bert(), eval_dataset=data, compute_metrics=compute, per_device_eval_batch_size=4)
        results.append(made.evaluate())
        assert results[-1]["eval_accuracy"] == made.evaluate()["eval_accuracy"]  # nothing of the first is left
    assert results[0]["eval_accuracy"] == pytest.approx(results[1]["eval_accuracy"])
    batch = padded(data)
    loss = made.model.eval()(**batch).loss
    assert results[0]["eval_loss"] == pytest.approx(loss.item(), abs=1e-6)


def test_streaming_keeps_no_predictions(tmp_path):
    sizes = []

    class Watcher:
        def update(self, predictions, labels):
            sizes.append((len(predictions), len(labels)))

        def compute(self):
            return {"seen": sum(size for size, _ in sizes)}

    made = trainer(tmp_path, bert(), eval_dataset=rows(13), compute_metrics=Watcher(), per_device_eval_batch_size=4)
    assert made.evaluate()["eval_seen"] == 13 and sizes == [(4, 4), (4, 4), (4, 4), (1, 1)]


def test_the_loss_of_an_evaluation_counts_tokens(tmp_path):
    data = rows(9)
    made = trainer(tmp_path, gpt2(), data, collate=texts, eval_dataset=data, per_device_eval_batch_size=2)
    loss = made.model.eval()(**texts(data)).loss
    assert made.evaluate()["eval_loss"] == pytest.approx(loss.item(), abs=1e-5)


def test_predictions_of_several_lengths_are_filled_up(tmp_path):
    data = [{"input_ids": [7] * n} for n in (3, 5)]
    args = TrainingArguments(tmp_path, per_device_eval_batch_size=1, use_cpu=True)
    made = Trainer(bert("ForTokenClassification", num_labels=9), args, data_collator=texts)
    output = made.predict(data)
    assert output.predictions.shape == (2, 5, 9) and (output.predictions[0, 3:] == -100).all()
    assert output.label_ids.tolist() == [[7, 7, 7, -100, -100], [7] * 5]
    assert made.predict([{"input_ids": [7, 8]}]).predictions.shape == (1, 2, 9)


def test_several_evaluation_sets(tmp_path):
    made = trainer(tmp_path, bert(), eval_dataset={"near": rows(4), "far": rows(5, seed=3)}, eval_strategy="epoch")
    made.train()
    logged = {name for log in made.state.log_history for name in log}
    assert {"eval_near_loss", "eval_far_loss"} <= logged


def test_preprocessed_logits(tmp_path):
    args = TrainingArguments(tmp_path, use_cpu=True)
    made = Trainer(bert(), args, data_collator=padded, preprocess_logits_for_metrics=lambda x, _: x.argmax(-1))
    assert made.predict(rows(5)).predictions.shape == (5,)


def test_an_evaluation_leaves_randomness_alone(tmp_path):
    ends = []
    for strategy in ("no", "steps"):
        made = trainer(tmp_path, bert("ForMaskedLM"), collate=masked, eval_dataset=rows(5), eval_strategy=strategy,
                       eval_steps=2)  # fmt: skip
        made.train()
        ends.append(weights_of(made.model))
    assert distance(*ends) == 0
    assert made.evaluate()["eval_loss"] == made.evaluate()["eval_loss"]  # the same words are masked


# --- callbacks and states ---------------------------------------------------------------------------------------------


def test_early_stopping_and_the_best_model(tmp_path):
    worse = iter([1.0, 0.5, 0.7, 0.6, 0.9, 0.1])

    def metric(_):
        return {"error_loss": next(worse)}

    kept = {}

    class Keeper(TrainerCallback):
        def on_save(self, args, state, control, model=None, **kwargs):
            kept[state.global_step] = weights_of(model)

    made = trainer(
        tmp_path,
        bert(),
        eval_dataset=rows(3),
        compute_metrics=metric,
        callbacks=[EarlyStoppingCallback(early_stopping_patience=2), Keeper],
        num_train_epochs=6,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="error_loss",
    )
    assert made.args.greater_is_better is False
    made.train()
    assert made.state.epoch == 4 and made.state.best_metric == 0.5 and made.state.best_global_step == 12
    assert distance(weights_of(made.model), kept[12]) == 0


def test_events_come_in_order(tmp_path):
    heard = []

    class Listener:
        def __getattr__(self, name):
            if not name.startswith("on_"):
                raise AttributeError(name)
            return lambda args, state, control, **kwargs: heard.append(name.removeprefix("on_"))

    made = trainer(tmp_path, bert(), rows(8), callbacks=[Listener()], num_train_epochs=1, eval_dataset=rows(2),
                   gradient_accumulation_steps=2, eval_strategy="epoch", save_strategy="epoch",
                   logging_steps=1)  # fmt: skip
    made.train()
    assert heard == [
        *("init_end", "train_begin", "epoch_begin", "step_begin", "substep_end", "pre_optimizer_step"),
        *("optimizer_step", "step_end", "log", "epoch_end", "prediction_step", "log", "evaluate", "save", "log"),
        "train_end",
    ]


def test_callbacks_steer(tmp_path):
    class Stopper(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == 3

    made = trainer(tmp_path, bert(), callbacks=[Stopper])
    assert made.train().global_step == 3
    assert isinstance(made.pop_callback(Stopper), Stopper) and made.pop_callback(Stopper) is None


def test_trained_twice_is_trained_anew(tmp_path):
    made = trainer(tmp_path, bert())
    first = made.train()
    second = made.train()
    assert second.global_step == first.global_step == 12
    assert second.training_loss < first.training_loss


def test_optimizers_of_the_user(tmp_path):
    model = bert()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    made = trainer(tmp_path, model, optimizers=(optimizer, None), lr_scheduler_type="constant")
    made.train()
    assert made.optimizer is optimizer


@pytest.mark.parametrize("size", [1, 4])
def test_silence_and_one_line_a_log(size, tmp_path, capfd):
    made = trainer(
        tmp_path, bert(), logging_steps=6, eval_strategy="epoch", eval_dataset=rows(2), save_strategy="epoch"
    )
    made.train()
    out, err = capfd.readouterr()
    assert err == ""
    assert len(out.splitlines()) == 5 and out.startswith("{'loss': ")


# --- datasets of users ------------------------------------------------------------------------------------------------


class Table:
    """As much of a `datasets.Dataset` as matters: columns, rows by index, several at once."""

    def __init__(self, content):
        self.content = content
        self.column_names = list(content[0])

    def __len__(self):
        return len(self.content)

    def __getitem__(self, key):
        if isinstance(key, str):
            return [row[key] for row in self.content]
        return dict(self.content[key])

    def __getitems__(self, keys):
        return [self[key] for key in keys]


class Rows(torch.utils.data.Dataset):
    def __init__(self, content):
        self.content = content

    def __len__(self):
        return len(self.content)

    def __getitem__(self, index):
        return {name: torch.tensor(value) for name, value in self.content[index].items()}


def test_kinds_of_datasets(tmp_path):
    data = rows(22)
    ends = []
    for given in (data, tuple(data), Table([row | {"text": "x", "idx": 1} for row in data])):
        made = trainer(tmp_path, bert(), given)
        made.train()
        ends.append(weights_of(made.model))
    assert distance(ends[0], ends[1]) == distance(ends[0], ends[2]) == 0
    same = [{"input_ids": [7, 8, 9], "labels": 1}] * 5
    made = Trainer(bert(), TrainingArguments(tmp_path, max_steps=2, use_cpu=True), train_dataset=Rows(same))
    assert made.train().global_step == 2  # by the default collator


def test_rows_that_come_one_by_one(tmp_path):
    def stream():
        yield from rows(22)

    made = trainer(tmp_path, bert(), stream(), max_steps=3)
    assert made.train().global_step == 3
    with pytest.warns(UserWarning, match="ended before max_steps=99"):
        assert trainer(tmp_path, bert(), stream(), max_steps=99).train().global_step == 6
    evaluated = trainer(tmp_path, bert(), eval_dataset=stream(), per_device_eval_batch_size=5).evaluate()
    assert evaluated["eval_loss"] == pytest.approx(bert().eval()(**padded(rows(22))).loss.item(), abs=1e-6)


def test_columns_that_only_a_collator_asks_for(tmp_path):
    seen = []

    def collate(batch):
        seen.extend(sorted(row) for row in batch)
        assert [row["text"] for row in batch] == [row.get("text") for row in batch]
        assert "text" not in batch[0] and batch[0].get("other") is None and batch[0].pop("text") == "x"
        batch[0].pop("label")  # of a copy
        batch[0]["label"] = 1
        return padded(batch)

    data = [row | {"text": "x"} for row in rows(8)]
    trainer(tmp_path, bert(), data, collate=collate, num_train_epochs=1).train()
    assert {tuple(names) for names in seen} == {("input_ids", "label")}
    assert all("label" in row for row in data)
    kept = []
    trainer(tmp_path, bert(), data, collate=lambda batch: kept.append(list(batch[0])) or padded(batch),
            num_train_epochs=1, remove_unused_columns=False).train()  # fmt: skip
    assert kept[0] == ["input_ids", "label", "text"]


def test_group_by_length_pads_less(tmp_path):
    def padding(**settings):
        wasted = []

        def collate(batch):
            made = padded(batch)
            wasted.append(int((made["attention_mask"] == 0).sum()))
            return made

        trainer(tmp_path, bert(), rows(64, most=30), collate=collate, num_train_epochs=1, **settings).train()
        return sum(wasted)

    assert padding(group_by_length=True) < padding() / 3


# --- the rest ---------------------------------------------------------------------------------------------------------


def test_model_init_and_positional_arguments(tmp_path):
    made = Trainer(None, TrainingArguments(tmp_path, use_cpu=True), padded, rows(4), rows(2), model_init=bert)
    made.train()
    assert made.evaluate()["eval_loss"] > 0


def test_misspelt_arguments(tmp_path):
    with pytest.raises(ArgumentError, match="did you mean 'train_dataset'"):
        Trainer(bert(), TrainingArguments(tmp_path, use_cpu=True), train_data=rows(4))


def test_what_is_saved_loads(tmp_path):
    from pellucid import AutoModelForSequenceClassification
    from tiny import tokenizer

    made = trainer(tmp_path, bert(), processing_class=tokenizer())
    made.train()
    made.save_model(tmp_path / "end")
    loaded = AutoModelForSequenceClassification.from_pretrained(tmp_path / "end")
    assert distance(weights_of(loaded), weights_of(made.model)) == 0
    assert {"tokenizer.json", "training_args.json", "config.json"} <= {p.name for p in (tmp_path / "end").iterdir()}


def test_the_best_alone_is_saved(tmp_path):
    errors = iter([0.5, 0.7, 0.3, 0.4])
    made = trainer(tmp_path, bert(), eval_dataset=rows(3), compute_metrics=lambda _: {"error": next(errors)},
                   num_train_epochs=4, eval_strategy="epoch", save_strategy="best", metric_for_best_model="error",
                   greater_is_better=False, load_best_model_at_end=True)  # fmt: skip
    made.train()
    assert sorted(path.name for path in tmp_path.glob("checkpoint-*")) == ["checkpoint-18", "checkpoint-6"]
    assert made.state.best_model_checkpoint == str(tmp_path / "checkpoint-18")


@pytest.mark.parametrize(("strategy", "times"), [("every_save", 2), ("end", 1)])
def test_uploads(strategy, times, tmp_path, monkeypatch):
    sent = []
    monkeypatch.setattr(
        "pellucid.training.trainer.push",
        lambda folder, name, **options: sent.append((name, sorted(os.listdir(folder)), options["token"])),
    )
    made = trainer(tmp_path, bert(), save_strategy="epoch", push_to_hub=True, hub_model_id="me/mine", hub_token="t",
                   hub_strategy=strategy)  # fmt: skip
    made.train()
    assert sent == [("me/mine", ["config.json", "model.safetensors", "training_args.json"], "t")] * times


def test_accelerate_takes_our_models():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True)
    model, data = bert(**STILL), [padded(rows(4))]
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    plain = bert(**STILL)
    own = torch.optim.AdamW(plain.parameters(), lr=1e-2)
    model, optimizer = accelerator.prepare(model, optimizer)
    for batch in data * 3:
        for one, its, step in ((model, optimizer, accelerator.backward), (plain, own, lambda loss: loss.backward())):
            loss = one(**batch).loss
            step(loss)
            its.step()
            its.zero_grad()
    assert distance(weights_of(accelerator.unwrap_model(model)), weights_of(plain)) == 0
