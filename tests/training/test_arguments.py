"""Spellings of all versions, and what is refused."""

import json

import pytest

from pellucid.errors import ArgumentError, InputError
from pellucid.training.arguments import TrainingArguments, in_steps
from pellucid.training.seq2seq import Seq2SeqTrainingArguments


def test_old_spellings():
    args = TrainingArguments(
        "out",
        evaluation_strategy="epoch",
        no_cuda=True,
        per_gpu_train_batch_size=3,
        warmup_ratio=0.1,
        group_by_length=True,
        fsdp="full_shard",
        overwrite_output_dir=True,
        report_to="none",
        logging_dir="logs",
        do_train=True,
    )
    assert (args.eval_strategy, args.use_cpu, args.per_device_train_batch_size) == ("epoch", True, 3)
    assert (args.warmup_steps, args.train_sampling_strategy, args.parallel) == (0.1, "group_by_length", "fsdp")
    assert args.get_warmup_steps(200) == 20 and args.eval_steps == args.logging_steps


def test_the_defaults_are_the_originals():
    import transformers

    theirs, ours = transformers.TrainingArguments("out", use_cpu=True), TrainingArguments("out")
    different = {"output_dir", "use_cpu", "disable_tqdm", "optim", "eval_steps", "lr_scheduler_kwargs", "hub_strategy",
                 "lr_scheduler_type", "warmup_steps"}  # fmt: skip
    wanted = {name: getattr(theirs, name) for name in ours.to_dict() if hasattr(theirs, name) and name not in different}
    wanted = {name: getattr(value, "value", value) for name, value in wanted.items()}
    assert {name: ours.to_dict()[name] for name in wanted} == wanted
    assert theirs.lr_scheduler_type.value == ours.lr_scheduler_type and theirs.warmup_steps == ours.warmup_steps


def test_misspelt():
    with pytest.raises(ArgumentError, match=r"no argument 'learning_rat'; did you mean 'learning_rate'"):
        TrainingArguments("out", learning_rat=1)
    with pytest.raises(ArgumentError, match="nothing_like_it"):
        Seq2SeqTrainingArguments("out", nothing_like_it=1)
    with pytest.raises(ArgumentError, match=r"report_to='wandb' is not implemented.*TrainerCallback"):
        TrainingArguments("out", report_to="wandb")
    with pytest.raises(ArgumentError, match="given twice"):
        TrainingArguments("out", output_dir="out")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"eval_strategy": "epochs"}, "did you mean 'epoch'"),
        ({"lr_scheduler_type": "greedy"}, "follows a metric, but eval_strategy is 'no'"),
        ({"per_device_train_batch_size": 0}, "per_device_train_batch_size is 0"),
        ({"learning_rate": -1.0}, "learning_rate is -1.0"),
        ({"learning_rate": float("nan")}, "learning_rate is nan"),
        ({"logging_steps": 0}, "logging_steps is 0"),
        ({"save_steps": 2.5}, "save_steps is 2.5"),
        ({"save_total_limit": 0}, "save_total_limit is 0"),
        ({"bf16": True, "fp16": True}, "bf16 and fp16"),
        ({"load_best_model_at_end": True}, "needs to save when it evaluates"),
        ({"load_best_model_at_end": True, "eval_strategy": "steps", "eval_steps": 3, "save_steps": 4}, "multiple"),
        ({"optim": "adamw"}, "did you mean"),
    ],
)
def test_impossible(given, said):
    with pytest.raises(InputError, match=said):
        TrainingArguments("out", **given)


def test_parts_of_all_steps():
    assert in_steps(0.25, 10) == 3 and in_steps(4, 10) == 4 and in_steps(4.0, 10) == 4 and in_steps(0, 10) == 0


def test_as_json():
    args = Seq2SeqTrainingArguments("out", predict_with_generate=True, hub_token="secret", sortish_sampler=True)
    said = json.loads(args.to_json_string())
    assert said["predict_with_generate"] is True and "secret" not in args.to_json_string()
    assert said["train_sampling_strategy"] == "group_by_length"
    assert "learning_rate=5e-05" in repr(args)
