"""What is stopped and taken up again ends as if it had not stopped, bit for bit."""

import errno
import json
import os
import resource
import shutil
import signal
import warnings

import pytest
import torch
from small import STILL, assert_same_checkpoint, bert, distance, masked, padded, rows, trainer, weights_of

from pellucid.errors import InputError, SaveError
from pellucid.training import checkpoint
from pellucid.training.callbacks import EarlyStoppingCallback, TrainerCallback

STEPS = 12
SETTINGS = {
    "save_strategy": "steps",
    "save_steps": 1,
    "logging_steps": 5,
    "eval_strategy": "steps",
    "eval_steps": 4,
    "warmup_steps": 3,
    "lr_scheduler_type": "cosine",
    "weight_decay": 0.1,
    "metric_for_best_model": "loss",
}


class Killer(TrainerCallback):
    """Ends the process without a word at the beginning of a step."""

    def __init__(self, step):
        self.step = step

    def on_step_begin(self, args, state, control, **kwargs):
        if state.global_step + 1 == self.step:
            os.kill(os.getpid(), signal.SIGKILL)


def run(folder, *callbacks, resume=None, **changes):
    """Train a model with dropout on words masked at random, and return the trainer."""
    made = trainer(
        folder,
        bert("ForMaskedLM"),
        rows(22),
        collate=masked,
        eval_dataset=rows(5, seed=1),
        callbacks=[EarlyStoppingCallback(50), *callbacks],
        **SETTINGS | changes,
    )
    made.train(resume_from_checkpoint=resume)
    return made


def in_child(work):
    """Run something in a process of its own; return the signal that ended it, or 0."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of forking beside the threads of pytest
        child = os.fork()
    if child == 0:
        try:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
            work()
        finally:
            os._exit(0)
    return os.WTERMSIG(os.waitpid(child, 0)[1])


@pytest.fixture(scope="module")
def straight(tmp_path_factory):
    """A run that nothing stopped."""
    folder = tmp_path_factory.mktemp("straight")
    run(folder)
    assert len(checkpoint.own_checkpoints(folder)) == STEPS
    return folder


@pytest.mark.parametrize("step", range(1, STEPS))
def test_resumed_from_any_step(step, straight, tmp_path):
    run(tmp_path, resume=straight / f"checkpoint-{step}", save_steps=STEPS)
    assert_same_checkpoint(straight / f"checkpoint-{STEPS}", tmp_path / f"checkpoint-{STEPS}")


@pytest.mark.parametrize("step", [2, 7])
def test_killed_before_a_step(step, straight, tmp_path):
    assert in_child(lambda: run(tmp_path, Killer(step))) == signal.SIGKILL
    assert checkpoint.last_checkpoint(tmp_path).name == f"checkpoint-{step - 1}"
    run(tmp_path, resume=True, save_steps=STEPS)
    assert_same_checkpoint(straight / f"checkpoint-{STEPS}", tmp_path / f"checkpoint-{STEPS}")


@pytest.mark.parametrize("call", [1, 4, 13, 18, 25])
def test_killed_while_saving(call, straight, tmp_path):
    """Each checkpoint is flushed file by file; a kill at any of these moments leaves the one before."""
    flush = os.fsync

    def work():
        calls = 0

        def counted(descriptor):
            nonlocal calls
            calls += 1
            if calls == call:
                os.kill(os.getpid(), signal.SIGKILL)
            flush(descriptor)

        os.fsync = counted
        run(tmp_path)

    assert in_child(work) == signal.SIGKILL
    kept = checkpoint.own_checkpoints(tmp_path)
    assert not [path for path in kept if checkpoint.damage(path)]
    run(tmp_path, resume=True if kept else None, save_steps=STEPS)
    assert_same_checkpoint(straight / f"checkpoint-{STEPS}", tmp_path / f"checkpoint-{STEPS}")
    for path in tmp_path.iterdir():
        if path.name.startswith("."):
            assert "pellucid-" in path.name or checkpoint.OWN in path.name


def test_with_worker_processes(straight, tmp_path):
    """What collators draw in worker processes does not depend on which worker it is, nor on what came before."""
    changes = {"dataloader_num_workers": 2, "save_steps": 7, "eval_strategy": "no", "eval_dataset": None}
    settings = SETTINGS | changes | {"max_steps": 9, "metric_for_best_model": None}
    ends = []
    for resume in (None, tmp_path / "0" / "checkpoint-7"):
        made = trainer(tmp_path / str(len(ends)), bert("ForMaskedLM"), rows(22), collate=masked, **settings)
        made.train(resume_from_checkpoint=resume)
        ends.append(weights_of(made.model))
    assert distance(*ends) == 0


@pytest.mark.parametrize("stops", [5, 9])
def test_rows_that_come_one_by_one(stops, tmp_path):
    class Stream:
        def __iter__(self):
            return iter(rows(22))

    ends = []
    for resume in (None, tmp_path / "0" / f"checkpoint-{stops}"):
        folder = tmp_path / str(len(ends))
        made = trainer(folder, bert(), Stream(), max_steps=STEPS, save_steps=stops, save_strategy="steps")
        made.train(resume_from_checkpoint=resume)
        ends.append(weights_of(made.model))
    assert distance(*ends) == 0


@pytest.mark.parametrize(
    "settings",
    [
        {"optim": "sgd"},
        {"train_sampling_strategy": "group_by_length"},
        {"per_device_train_tokens": 40},
        {"bf16": True},
        {"fp16": True, "max_grad_norm": 0},
        {"lr_scheduler_type": "reduce_lr_on_plateau"},
        {
            "lr_scheduler_type": "greedy",
            "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "min_lr": 1e-7, "smooth": True, "window_size": 2},
        },
        {"gradient_accumulation_steps": 2, "dataloader_drop_last": True},
        {"gradient_checkpointing": True, "neftune_noise_alpha": 5.0},
    ],
    ids=lambda settings: next(iter(settings)),
)
def test_with_other_settings(settings, tmp_path):
    common = {"save_strategy": "steps", "save_steps": 3, "eval_dataset": rows(5, seed=1), "eval_strategy": "epoch"}
    ends = []
    for resume in (None, tmp_path / "0" / "checkpoint-3"):
        made = trainer(tmp_path / str(len(ends)), bert(), **common, **settings)
        made.train(resume_from_checkpoint=resume)
        ends.append(weights_of(made.model))
    assert distance(*ends) == 0


def test_the_same_steps_from_other_batches(tmp_path):
    """Batches of another size that make the same steps are the same training, to rounding."""
    ends = []
    for resume, size in ((None, 6), (tmp_path / "0" / "checkpoint-2", 2)):
        made = trainer(
            tmp_path / str(len(ends)),
            bert(**STILL),
            per_device_train_batch_size=size,
            gradient_accumulation_steps=6 // size,
            learning_rate=1e-3,
            save_strategy="steps",
            save_steps=2,
        )
        made.train(resume_from_checkpoint=resume)
        ends.append(weights_of(made.model))
    assert distance(*ends) < 1e-6


# --- which checkpoint it is -------------------------------------------------------------------------------------------


def test_a_checkpoint_is_a_model(straight):
    from pellucid import AutoModelForMaskedLM

    model = AutoModelForMaskedLM.from_pretrained(straight / "checkpoint-3")
    assert not model.load_report.new and not model.training
    names = {entry.name for entry in (straight / "checkpoint-3").iterdir()}
    assert not [name for name in names if not name.endswith((".json", ".safetensors"))]


def test_save_total_limit_keeps_the_newest_and_the_best(tmp_path):
    made = run(tmp_path, save_total_limit=2, load_best_model_at_end=True, save_steps=4)
    best = made.state.best_model_checkpoint
    kept = sorted(path.name for path in tmp_path.glob("checkpoint-*"))
    assert (
        len(kept) == 2
        and "checkpoint-12" in kept
        and str(tmp_path / kept[0]) in (best, str(tmp_path / "checkpoint-12"))
    )
    loaded = bert("ForMaskedLM", seed=5)
    checkpoint.load_model(best, loaded)
    assert distance(weights_of(loaded), weights_of(made.model)) == 0


def test_the_last_complete_one_is_found(tmp_path):
    run(tmp_path, max_steps=4)
    (tmp_path / "checkpoint-4" / "model.safetensors").write_bytes(b"cut")
    (tmp_path / "checkpoint-3" / "trainer_state.json").unlink()
    with pytest.warns(UserWarning, match="checkpoint-4 is not complete.*checkpoint-3 is not complete.*going on from"):
        assert checkpoint.last_checkpoint(tmp_path).name == "checkpoint-2"


def test_an_earlier_run_is_not_taken_for_this_one(tmp_path):
    run(tmp_path, max_steps=8, save_steps=4)
    run(tmp_path, max_steps=3, save_steps=3)
    assert checkpoint.last_checkpoint(tmp_path).name == "checkpoint-3"
    assert (tmp_path / "checkpoint-8").exists()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, Interrupt(), max_steps=4)
    with pytest.raises(InputError, match="has no checkpoint to go on from"):
        checkpoint.last_checkpoint(tmp_path)


class Interrupt(TrainerCallback):
    def on_step_begin(self, args, state, control, **kwargs):
        raise KeyboardInterrupt


def test_disk_full(tmp_path, monkeypatch):
    write = checkpoint.weights.write_file

    def full(path, tensors):
        if "checkpoint-3" in str(path):
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write(path, tensors)

    monkeypatch.setattr(checkpoint.weights, "write_file", full)
    with pytest.raises(SaveError, match="No space left on device"):
        run(tmp_path)
    assert [path.name for path in checkpoint.own_checkpoints(tmp_path)] == ["checkpoint-1", "checkpoint-2"]
    assert checkpoint.last_checkpoint(tmp_path).name == "checkpoint-2"


def test_files_that_may_not_grow(tmp_path):
    run(tmp_path, max_steps=1)

    def work():
        resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, 10_000))
        try:
            run(tmp_path, resume=True)
        except SaveError as error:
            (tmp_path / "said").write_text(str(error))

    in_child(work)
    assert "checkpoint-2 could not be written" in (tmp_path / "said").read_text()
    assert checkpoint.last_checkpoint(tmp_path).name == "checkpoint-1"


# --- wrong folders ----------------------------------------------------------------------------------------------------


def refusal(tmp_path, resume, **changes):
    with pytest.raises(InputError) as caught:
        run(tmp_path, resume=resume, **changes)
    return str(caught.value)


def test_wrong_folders(straight, tmp_path):
    assert "there is no folder" in refusal(tmp_path, straight / "checkpoint-99")
    assert "did you mean 'checkpoint-12'" in refusal(tmp_path, straight / "chekpoint-12")
    assert "give its checkpoint-12" in refusal(tmp_path, straight)
    assert "has no checkpoint" in refusal(tmp_path, True)
    old = tmp_path / "old"
    old.mkdir()
    (old / "optimizer.pt").touch()
    assert "pickles (optimizer.pt)" in refusal(tmp_path, old)
    run(tmp_path / "only", save_only_model=True, max_steps=1)
    assert "save_only_model" in refusal(tmp_path, tmp_path / "only" / "checkpoint-1")


def test_another_model_or_optimizer(straight, tmp_path):
    made = trainer(tmp_path, bert(), rows(22), collate=padded)
    with pytest.raises(InputError, match="is not a checkpoint of this BertForSequenceClassification"):
        made.train(resume_from_checkpoint=straight / "checkpoint-3")
    assert "written with AdamW" in refusal(tmp_path, straight / "checkpoint-3", optim="sgd")


def test_broken_state(straight, tmp_path):
    copy = tmp_path / "checkpoint-3"
    shutil.copytree(straight / "checkpoint-3", copy)
    (copy / "trainer_state.json").write_text("{")
    assert "trainer_state.json is broken" in refusal(tmp_path, copy)
    (copy / "trainer_state.json").write_text(json.dumps({"log_history": []}))
    assert "of another trainer" in refusal(tmp_path, copy)


def test_randomness_is_restored():
    import random

    import numpy as np

    random.gauss(0, 1), np.random.randn(), torch.rand(1)
    kept = checkpoint.random_state(torch.device("cpu"))
    drawn = [random.random(), random.gauss(0, 1), np.random.randn(3).tolist(), torch.randn(3).tolist()]
    checkpoint.restore_random(kept, torch.device("cpu"))
    assert drawn == [random.random(), random.gauss(0, 1), np.random.randn(3).tolist(), torch.randn(3).tolist()]
