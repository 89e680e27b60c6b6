"""Other ways to learn: each setting of a training shows in numbers what it is for."""

import pytest
import torch
import torch.nn.functional as F
from small import STILL, bert, distance, gpt2, padded, rows, texts, trainer, weights_of
from torch import nn

from pellucid.training.arguments import TrainingArguments
from pellucid.training.collators import DataCollatorWithFlattening
from pellucid.training.layers import recomputed
from pellucid.training.trainer import Trainer


def test_gradient_checkpointing_changes_nothing(tmp_path):
    ends = []
    for checkpointing in (False, True):
        made = trainer(tmp_path, bert(), gradient_checkpointing=checkpointing)  # with dropout
        made.train()
        ends.append(weights_of(made.model))
    assert distance(*ends) == 0
    assert "forward" not in vars(made.model.bert.encoder.layer[0])


def test_gradient_checkpointing_keeps_less():
    """Of each layer only what goes into it is kept until the way back."""
    kept = []
    for active in (False, True):
        model, sizes = bert(num_hidden_layers=4).train(), []
        with (
            recomputed(model, active=active),
            torch.autograd.graph.saved_tensors_hooks(
                lambda t, sizes=sizes: (sizes.append(t.nbytes), t)[1], lambda t: t
            ),
        ):
            model(**padded(rows(4))).loss  # noqa: B018
        kept.append(sum(sizes))
    assert kept[1] < kept[0] / 3


def test_frozen_parameters_stay(tmp_path):
    model = bert()
    model.bert.requires_grad_(False)
    before = weights_of(model)
    made = trainer(tmp_path, model)
    made.train()
    after = weights_of(model)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"classifier.weight", "classifier.bias"}
    assert sum(len(group["params"]) for group in made.optimizer.param_groups) == 2


def test_layerwise_learning_rates(tmp_path):
    made = trainer(tmp_path, bert(), layerwise_lr_decay=0.5, learning_rate=1.0, weight_decay=0.1)
    made.create_optimizer()
    names = {id(p): name for name, p in made.model.named_parameters()}
    rates = {names[id(p)]: group["lr"] for group in made.optimizer.param_groups for p in group["params"]}
    decays = {names[id(p)]: group["weight_decay"] for group in made.optimizer.param_groups for p in group["params"]}
    assert rates["classifier.weight"] == 1.0 and rates["bert.pooler.dense.weight"] == 1.0
    assert rates["bert.encoder.layer.1.output.dense.weight"] == 0.5
    assert rates["bert.encoder.layer.0.output.dense.weight"] == 0.25
    assert rates["bert.embeddings.word_embeddings.weight"] == 0.125
    assert decays["classifier.weight"] == 0.1 and decays["classifier.bias"] == 0.0
    assert decays["bert.embeddings.LayerNorm.weight"] == 0.0


def test_layers_learn_at_their_rates(tmp_path):
    """One step of plain descent moves each weight by its layer's part of what it moves otherwise."""
    start, ends = weights_of(bert(**STILL)), []
    for decay in (1.0, 0.5):
        made = trainer(tmp_path, bert(**STILL), rows(4), layerwise_lr_decay=decay, optim="sgd", learning_rate=1.0,
                       max_steps=1, max_grad_norm=0)  # fmt: skip
        made.train()
        ends.append(weights_of(made.model))
    parts = {"classifier": 1.0, "bert.encoder.layer.1.": 0.5, "bert.encoder.layer.0.": 0.25, "bert.embeddings": 0.125}
    for name, before in start.items():
        part = next((part for stem, part in parts.items() if name.startswith(stem)), 1.0)
        assert torch.allclose(ends[1][name] - before, part * (ends[0][name] - before), atol=1e-6), name


def test_noise_on_embeddings(tmp_path):
    """Noise in training alone, within alpha / sqrt(T E)."""
    from pellucid.training.losses import noisy_embeddings

    model = bert(**STILL)
    batch = padded(rows(4))
    quiet = model.eval()(**batch).logits
    seen = []
    model.bert.embeddings.word_embeddings.register_forward_hook(lambda m, i, out: seen.append(out))
    with noisy_embeddings(model, 5.0):
        assert torch.equal(model(**batch).logits, quiet)
        assert not torch.equal(model.train()(**batch).logits, quiet)
    assert torch.equal(model(**batch).logits, quiet)
    ends = []
    for alpha in (None, 5.0, 5.0):
        made = trainer(tmp_path, bert(**STILL), neftune_noise_alpha=alpha)
        made.train()
        ends.append(weights_of(made.model))
    assert distance(ends[0], ends[1]) > 1e-4 and distance(ends[1], ends[2]) == 0


def test_half_precision(tmp_path):
    losses = []
    for settings in ({}, {"bf16": True}, {"fp16": True}):
        made = trainer(tmp_path, bert(**STILL), rows(8), num_train_epochs=1, eval_dataset=rows(3), **settings)
        made.train()
        losses.append(made.evaluate()["eval_loss"])
        assert made.model.dtype == torch.float32
    for loss in losses[1:]:
        assert loss != losses[0] and loss == pytest.approx(losses[0], rel=0.02)


def test_compiling(tmp_path, monkeypatch):
    asked = {}
    model = bert(**STILL)
    monkeypatch.setattr(model, "compile", lambda **options: asked.update(options))
    trainer(tmp_path, model, rows(4), max_steps=1, torch_compile=True, torch_compile_mode="reduce-overhead").train()
    assert asked == {"backend": "inductor", "mode": "reduce-overhead"}


def test_what_is_compiled_learns_the_same(tmp_path):
    from torch._dynamo.utils import counters

    ends = []
    for settings in ({}, {"torch_compile": True, "torch_compile_backend": "aot_eager"}):
        counters.clear()
        made = trainer(tmp_path, bert(**STILL), rows(8), max_steps=3, learning_rate=1e-3, optim="sgd", **settings)
        made.train()
        ends.append(weights_of(made.model))
    assert counters["stats"]["unique_graphs"] > 0
    assert distance(*ends) < 1e-6


def test_any_module(tmp_path):
    class Line(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Linear(1, 1)

        def forward(self, x, labels=None):
            y = self.inner(x)[:, 0]
            return {"loss": F.mse_loss(y, labels), "y": y} if labels is not None else {"y": y}

    data = [{"x": [float(i)], "labels": 2.0 * i + 1} for i in range(8)]
    args = TrainingArguments(tmp_path, learning_rate=0.3, num_train_epochs=60, lr_scheduler_type="constant",
                             save_steps=60, use_cpu=True)  # fmt: skip
    made = Trainer(Line(), args, train_dataset=data, eval_dataset=data)
    made.train()
    assert made.evaluate()["eval_loss"] < 0.1
    assert made.predict([{"x": [4.0]}]).predictions == pytest.approx([9.0], abs=1.0)
    made.save_model(tmp_path / "end")
    again = Trainer(Line(), args, train_dataset=data)
    assert again.train(resume_from_checkpoint=True).global_step == 60
    assert distance(weights_of(again.model), weights_of(made.model)) == 0


def test_packed_texts_train_as_padded_ones(tmp_path):
    """Texts one after the other, without padding, make the same steps; a budget of tokens holds."""
    data = [{"input_ids": row["input_ids"]} for row in rows(22)]
    ends = []
    for collate in (texts, DataCollatorWithFlattening()):
        made = trainer(tmp_path, gpt2(), data, collate=collate, learning_rate=1e-3, optim="sgd",
                       gradient_accumulation_steps=2, eval_dataset=data[:5])  # fmt: skip
        made.train()
        ends.append((weights_of(made.model), made.evaluate()["eval_loss"]))
    assert distance(ends[0][0], ends[1][0]) < 1e-6 and ends[0][1] == pytest.approx(ends[1][1], abs=1e-5)
    sizes = []

    class Watched(DataCollatorWithFlattening):
        def __call__(self, batch):
            sizes.append(sum(len(row["input_ids"]) for row in batch))
            return super().__call__(batch)

    trainer(tmp_path, gpt2(), data, collate=Watched(), per_device_train_tokens=40).train()
    assert 30 < max(sizes) <= 40
