"""What can not be trained on says so before the first step, with what is wrong and what to do."""

import pytest
import torch
from small import bert, distance, gpt2, padded, rows, texts, trainer
from torch import nn

from pellucid import auto
from pellucid.errors import InputError, NonFiniteError
from pellucid.training import checkpoint
from pellucid.training.arguments import TrainingArguments
from pellucid.training.callbacks import EarlyStoppingCallback, TrainerCallback
from pellucid.training.collators import default_data_collator
from pellucid.training.distributed import tensor_parallel
from pellucid.training.trainer import Trainer


class Never(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        pytest.fail("a step was taken")


def refusal(tmp_path, model=None, data=None, **settings):
    callbacks = [*settings.pop("callbacks", ()), Never]
    with pytest.raises(InputError) as caught:
        trainer(tmp_path, model or bert(), data, callbacks=callbacks, **settings).train()
    return str(caught.value)


def labelled(*labels):
    return [{"input_ids": [7, 8, 9], "label": label} for label in labels]


@pytest.mark.parametrize(
    ("data", "said"),
    [
        ([], "train_dataset is empty"),
        (labelled(0, 1, 3), "row 2 has the label 3; the model has 3 classes, 0 to 2"),
        (labelled(0, -1, 2), "row 1 has the label -1"),
        (labelled(0, 1.5, 2), "of several kinds: whole numbers in row 0, numbers in row 1"),
        (labelled(0, [1], 2), "whole numbers in row 0, whole numbers in lists in row 1"),
        (labelled("good", "bad"), "are text; number them with the model's config.label2id"),
        (labelled(0, None), "of several kinds: whole numbers in row 0, nothing in row 1"),
        (labelled(None, None), "row 0 has no label"),
        ([{"input_id": [7, 8], "label": 1}], "no column 'input_ids' or 'inputs_embeds'; did you mean 'input_id'"),
        ([{"text": "x", "label": 1}], "It has: 'text', 'label'. Tokenize it first"),
        ([{"input_ids": [7, 8], "labelz": 1}], "no column 'labels'; did you mean 'labelz'"),
        ([{"input_ids": [7, 8]}], "without labels there is nothing to learn"),
    ],
)
def test_bad_rows(data, said, tmp_path):
    assert said in refusal(tmp_path, data=data, collate=default_data_collator)


def test_labels_of_tokens(tmp_path):
    wrong = [{"input_ids": [7, 8], "labels": [0, -100]}, {"input_ids": [7, 8], "labels": [0, 5]}]
    said = refusal(tmp_path, bert("ForTokenClassification"), wrong, collate=default_data_collator)
    assert "row 1 has the label 5" in said
    said = refusal(tmp_path, gpt2(), [{"input_ids": [7], "labels": [99]}], collate=default_data_collator)
    assert "99 classes" in said


def test_evaluation_sets_are_checked_too(tmp_path):
    said = refusal(tmp_path, eval_dataset={"far": labelled(7)}, eval_strategy="epoch")
    assert "eval_dataset far: row 0 has the label 7" in said
    assert "there is no eval_dataset" in refusal(tmp_path, eval_strategy="epoch")
    with pytest.raises(InputError, match="There is no eval_dataset"):
        trainer(tmp_path).evaluate()
    with pytest.raises(InputError, match="is empty"):
        trainer(tmp_path).evaluate([])


def test_nothing_that_learns(tmp_path):
    model = bert()
    model.requires_grad_(False)
    assert "no parameter that learns" in refusal(tmp_path, model)


def test_nothing_to_train_on(tmp_path):
    args = TrainingArguments(tmp_path, use_cpu=True)
    with pytest.raises(InputError, match="has no train_dataset"):
        Trainer(bert(), args).train()
    with pytest.raises(InputError, match="needs a model"):
        Trainer(args=args)
    assert "max_steps" in refusal(tmp_path, data=iter(rows(3)))
    assert "There is no step to take" in refusal(tmp_path, data=rows(3), dataloader_drop_last=True)
    with pytest.raises(InputError, match="gave no row"):
        trainer(tmp_path, bert(), iter([]), max_steps=3).train()


def test_settings_that_ask_for_what_is_not_there(tmp_path):
    assert "EarlyStoppingCallback needs evaluations" in refusal(tmp_path, callbacks=[EarlyStoppingCallback()])
    assert "stack of layers" in refusal(tmp_path, Plain(), collate=padded, gradient_checkpointing=True)
    assert "stack of layers" in refusal(tmp_path, Plain(), collate=padded, layerwise_lr_decay=0.9)
    nameless = [{"x": 1, "labels": 1}]
    said = refusal(tmp_path, Plain(), nameless, group_by_length=True, collate=default_data_collator)
    assert "rows have no column 'input_ids'; they have: 'x', 'labels'" in said
    with pytest.raises(InputError, match="is no callback"):
        trainer(tmp_path, callbacks=["print"])
    made = trainer(tmp_path, eval_dataset=rows(2), eval_strategy="epoch", metric_for_best_model="acuracy",
                   compute_metrics=lambda _: {"accuracy": 1.0})  # fmt: skip
    with pytest.raises(InputError, match=r"metric_for_best_model is 'acuracy'.*did you mean 'eval_accuracy'"):
        made.train()


class Plain(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Linear(1, 1)

    def forward(self, input_ids, labels=None, **inputs):
        return self.inner(input_ids[:, :1].float()).mean(), labels


def test_a_loss_that_is_not_finite(tmp_path):
    """The step and the rows are named; weights and checkpoints are those of before."""

    class Spoiler(TrainerCallback):
        def on_step_begin(self, args, state, control, model=None, **kwargs):
            if state.global_step == 6:
                self.before = {name: tensor.clone() for name, tensor in model.state_dict().items()}

    def collate(batch):
        made = padded(batch)
        if any(row["input_ids"][0] == 98 for row in batch):
            made["labels"] = torch.full((len(batch), 3), float("nan"))
        return made

    data = [row | {"input_ids": [7, *row["input_ids"]]} for row in rows(22)]
    data[13]["input_ids"][0] = 98
    spoiler = Spoiler()
    made = trainer(
        tmp_path,
        bert(problem_type="multi_label_classification"),
        [row | {"label": [0.0, 1.0, 0.0]} for row in data],
        collate=collate,
        callbacks=[spoiler],
        train_sampling_strategy="sequential",
        per_device_train_batch_size=1,
        gradient_accumulation_steps=2,
        save_strategy="steps",
        save_steps=3,
    )
    with pytest.raises(NonFiniteError, match=r"In step 7 the loss is nan, not finite; the batch has the rows 13 of"):
        made.train()
    assert distance(spoiler.before, made.model.state_dict()) == 0
    assert checkpoint.last_checkpoint(tmp_path).name == "checkpoint-6"


def test_gradients_that_are_not_finite(tmp_path):
    model = bert()
    model.classifier.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = model.classifier.weight.clone()
    with pytest.raises(NonFiniteError, match="In step 1 the gradients are not finite"):
        trainer(tmp_path, model).train()
    assert torch.equal(model.classifier.weight, before)


def test_a_model_without_a_loss(tmp_path):
    from pellucid.training.evaluator import Evaluator

    made = Evaluator(bert(), TrainingArguments(tmp_path, use_cpu=True), padded)
    with pytest.raises(InputError, match="returned no loss; it computes it from labels; the batch holds input_ids"):
        made.compute_loss(made.model, {"input_ids": torch.ones(1, 3, dtype=torch.long)})
    assert texts(rows(1))["labels"].shape[0] == 1


class Four:
    """As much of a mesh as is looked at before anything is split."""

    def size(self):
        return 4


@pytest.mark.parametrize(
    ("model", "said"),
    [
        (bert, "its layers have attention.self.query"),
        (lambda: llama(num_attention_heads=6, num_key_value_heads=2), "it has (6, 2) heads"),
        (Plain, "no known stack of layers"),
    ],
)
def test_what_can_not_be_split(model, said):
    with pytest.raises(InputError) as caught:
        tensor_parallel(model(), Four())
    assert said in str(caught.value)


def llama(**heads):
    sizes = {"vocab_size": 9, "hidden_size": 24, "intermediate_size": 8, "num_hidden_layers": 1}
    return auto.heads_of("llama")["ForCausalLM"].from_config(auto.config_class("llama")(**sizes | heads))


def test_processes_that_can_not_be_divided(tmp_path, monkeypatch):
    with pytest.raises(InputError, match="tensor_parallel_size is 2, and there are 1 processes"):
        trainer(tmp_path, tensor_parallel_size=2)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(InputError, match="tensor_parallel_size is 2, and there are 3 processes"):
        trainer(tmp_path, tensor_parallel_size=2)
