"""`Trainer`: from a model and a dataset to a better model, in steps that can be stopped and taken up again."""

import math
import os
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.optim.lr_scheduler import ReduceLROnPlateau

from ..errors import InputError, NonFiniteError, did_you_mean
from ..hub import push
from ..model import Model
from . import checkpoint
from .arguments import TrainingArguments
from .callbacks import (
    TrainerControl,
    TrainerState,
    resolved_steps,
)
from .collators import DataCollatorWithFlattening
from .columns import (
    check_columns,
    check_labels,
    column_names,
    to_device,
)
from .distributed import agree, exchange, gathered, is_split, shard, tensor_parallel
from .evaluator import Evaluator
from .feed import Feed, Step
from .layers import recomputed
from .losses import noisy_embeddings
from .optimizers import build_optimizer, gradient_norm
from .predictions import predictions_of, speed
from .sampling import Chunk, read_rows
from .schedules import get_scheduler
from .seeds import set_seed

PROGRESS = {"total": 0.0, "logged": 0.0, "steps": 0, "norm": 0.0, "rate": 0.0}  # losses, and since the last log


class TrainOutput(NamedTuple):
    """What `train` returns.

    Attributes:
        global_step: updates of the weights.
        training_loss: the mean over the steps.
        metrics: how long it took, and the loss, by name.
    """

    global_step: int
    training_loss: float
    metrics: dict[str, float]


class Trainer(Evaluator):
    """Trains, evaluates and saves a model.

    A step's loss is the mean over all that counts in the step (labels other than -100; rows, where there are no
    classes), however many batches and processes it is made of.

    Args:
        model: one of this library, or any `nn.Module` that returns a loss first or by the name `loss`.
        args: how to train; defaults if None.
        data_collator: from a list of rows to a batch; by default pads with `processing_class`, or stacks without one.
        train_dataset: a list of dictionaries, anything with `len` and rows by index, or an iterable.
        eval_dataset: the same; or several by name.
        processing_class: the tokenizer, which is saved beside the model; `tokenizer` is another name of it.
        model_init: a function that builds the model, in place of `model`.
        compute_loss_func: `(outputs, labels, num_items_in_batch) -> loss`: the mean over the batch.
        compute_metrics: a function of an `EvalPrediction`, which has all predictions; or an object with
            `update(predictions, labels)` and `compute()`, which sees one batch at a time.
        callbacks: objects or classes, see `TrainerCallback`.
        optimizers: an optimizer and a scheduler of its learning rate, in place of those that `args` describes.
        preprocess_logits_for_metrics: `(logits, labels) -> predictions`, for each batch before it is kept.

    Raises:
        ArgumentError: for an argument that does not exist.
        InputError: if there is no model.
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        train_dataset: Any = None,
        eval_dataset: Any = None,
        processing_class: Any = None,
        *,
        optimizers: tuple[Any, Any] = (None, None),
        **options: Any,
    ):
        super().__init__(
            model, args, data_collator, eval_dataset=eval_dataset, processing_class=processing_class, **options
        )
        self.train_dataset = train_dataset
        self.optimizer, self.lr_scheduler = self._given = optimizers
        self._progress = dict(PROGRESS)
        self._call("on_init_end")

    # --- before the first step ----------------------------------------------------------------------------------------

    def create_optimizer(self) -> torch.optim.Optimizer:
        """Build the optimizer, unless there is one."""
        if self.optimizer is None:
            self.optimizer = build_optimizer(self.model, self.args)
        return self.optimizer

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """Build what changes the learning rate, unless there is one."""
        if self.lr_scheduler is None:
            self.lr_scheduler = get_scheduler(
                self.args.lr_scheduler_type,
                optimizer or self.optimizer,
                num_warmup_steps=self.args.get_warmup_steps(num_training_steps),
                num_training_steps=num_training_steps,
                scheduler_specific_kwargs=self.args.lr_scheduler_kwargs,
            )
        return self.lr_scheduler

    def _feed(self) -> Feed:
        """Check what is to be learned from, and return what deals it out."""
        if self.train_dataset is None:
            raise InputError(f"{type(self).__name__} has no train_dataset; give it one to train on.")
        sets = {"train_dataset": self.train_dataset}
        if self.args.eval_strategy != "no":
            if self.eval_dataset is None:
                raise InputError(
                    f"eval_strategy is {self.args.eval_strategy!r}, and there is no eval_dataset; give one."
                )
            several = self.eval_dataset if isinstance(self.eval_dataset, dict) else {"": self.eval_dataset}
            sets |= {f"eval_dataset {name}".strip(): dataset for name, dataset in several.items()}
        for what, dataset in sets.items():
            check_columns(self.model, dataset, what)
            check_labels(self.model, dataset, what)
        packed = isinstance(self.data_collator, DataCollatorWithFlattening)
        feed = Feed(self.train_dataset, self._collate(), self.args, self.world, packed)
        self._check_batch(feed)
        return feed

    def _check_batch(self, feed: Feed) -> None:
        """Make a batch of the first rows, to see before the first step that there is something to learn from."""
        if feed.is_stream or self.compute_loss_func or type(self).compute_loss is not Trainer.compute_loss:
            return
        with self._own_randomness():
            batch = feed.collate(read_rows(self.train_dataset, range(min(2, len(self.train_dataset)))))
        if not isinstance(batch, Mapping) or not self.label_names or any(name in batch for name in self.label_names):
            return
        names = column_names(self.train_dataset) or list(batch)
        wanted = " and ".join(map(repr, self.label_names))
        raise InputError(
            f"train_dataset has no column {wanted}{did_you_mean(self.label_names[0], names) or '.'} It has: "
            f"{', '.join(map(repr, names))}; without labels there is nothing to learn."
        )

    def _wrap(self) -> None:
        """Put the model on the processes that there are."""
        args, world = self.args, self.world
        in_products = not world.is_alone and world.mesh["tensor"].size() > 1
        if world.is_alone or _is_split(self.model):
            pass
        elif in_products or args.parallel == "fsdp":
            if self.optimizer is not None:
                raise InputError("A model in parts needs an optimizer of these; leave out optimizers.")
            agree(self.model)
            if in_products:
                tensor_parallel(self.model, world.mesh["tensor"])
            if world.size > 1:
                shard(self.model, world)
        else:
            self.model_wrapped = nn.parallel.DistributedDataParallel(
                self.model,
                device_ids=[world.device] if world.device.type == "cuda" else None,
                process_group=world.mesh["data"].get_group(),
                find_unused_parameters=bool(args.ddp_find_unused_parameters),
            )
        if args.torch_compile:
            self.model.compile(backend=args.torch_compile_backend or "inductor", mode=args.torch_compile_mode)

    # --- training -----------------------------------------------------------------------------------------------------

    def train(
        self, resume_from_checkpoint: str | os.PathLike | bool | None = None, ignore_keys_for_eval: Any = None
    ) -> TrainOutput:
        """Train, from the beginning or from a checkpoint on.

        Args:
            resume_from_checkpoint: a checkpoint's folder, or True for the last complete one in `args.output_dir`.
            ignore_keys_for_eval: parts of the model's output to leave out of predictions.

        Raises:
            InputError: if there is nothing to learn from, with what is wrong; before the first step.
            NonFiniteError: if the loss or the gradients are not finite; the last checkpoint is as it was.
        """
        wanted = self.args.resume_from_checkpoint if resume_from_checkpoint is None else resume_from_checkpoint
        feed, args = self._feed(), self.args
        total = feed.total_steps()
        path = (checkpoint.last_checkpoint(args.output_dir) if wanted is True else Path(wanted)) if wanted else None
        kept = checkpoint.read_state(path) if path else None
        self.optimizer, self.lr_scheduler = self._given  # another training has its own
        self.scaler = torch.amp.GradScaler(self.world.device.type, enabled=args.fp16)
        self._wrap()
        self.create_optimizer()
        self.create_scheduler(total, self.optimizer)
        self._begin(feed, total, path, kept)
        began, before = time.perf_counter(), self.state.global_step
        self._call("on_train_begin")
        with (
            recomputed(self.model, active=args.gradient_checkpointing),
            noisy_embeddings(self.model, args.neftune_noise_alpha),
        ):
            self._loop(feed, ignore_keys_for_eval)
        return self._end(began, before)

    def _begin(self, feed: Feed, total: int, path: Path | None, kept: dict[str, Any] | None) -> None:
        """Set the state to the beginning, or to a checkpoint's."""
        args, steps = self.args, resolved_steps(self.args, total)
        set_seed(args.seed + self.world.rank)
        self.state = TrainerState(is_world_process_zero=self.world.is_first)
        self._progress = dict(PROGRESS)
        if path is not None and kept is not None:
            fields, training = self.state.to_dict().keys() & kept.keys(), kept["training"]
            self.state = TrainerState(**{name: kept[name] for name in fields})
            self.state.is_world_process_zero = self.world.is_first
            self._progress = training["progress"]
            self.callback_handler.load_state_dict(training["callbacks"])
            checkpoint.load_model(path, self.model)
            checkpoint.load_training(path, self._training(), training, self.world)
        elif self.world.is_first:
            checkpoint.begin_run(args.output_dir)
        self.state.max_steps, self.state.num_train_epochs = total, math.ceil(args.num_train_epochs)
        self.state.train_batch_size = args.per_device_train_batch_size
        for name, value in steps.items():
            setattr(self.state, name, value)
        self.control = TrainerControl()

    def _training(self) -> checkpoint.Training:
        return checkpoint.Training(self.model, self.optimizer, self.lr_scheduler, self.scaler)

    def _loop(self, feed: Feed, ignore: Any) -> None:
        state = self.state
        if self.args.eval_on_start and not state.global_step:
            self._evaluate_on_the_way(ignore)
        self.optimizer.zero_grad()
        while state.global_step < state.max_steps and not self.control.should_training_stop:
            self.control.should_epoch_stop = False
            self._call("on_epoch_begin")
            finished, read = True, state.rows_read
            for step in feed.steps(state.epochs_done, state.rows_read):
                self._step(step)
                self._report(ignore)
                if self.control.should_epoch_stop or self.control.should_training_stop:
                    finished = step.done == 1
                    break
            if feed.is_stream and finished and read == state.rows_read == 0:
                raise InputError("train_dataset gave no row; give an object whose __iter__ begins anew each time.")
            if finished or self.control.should_epoch_stop:
                state.epochs_done, state.rows_read = state.epochs_done + 1, 0
            self._call("on_epoch_end")
            self._report(ignore)
            if feed.is_stream and state.global_step < state.max_steps and feed.is_used_up():
                break

    def _step(self, step: Step) -> None:
        """Compute the gradients of a step's batches, and change the weights once."""
        args, state, progress = self.args, self.state, self._progress
        self.model.train()
        self._call("on_step_begin")
        batches = list(step.batches)
        items = [self.count_items(batch) if chunk.counts else 0.0 for chunk, batch in batches]
        total = self.world.sum([sum(items)])[0] or 1.0
        losses = []
        for i, ((_, batch), count) in enumerate(zip(batches, items, strict=True)):
            last = i == len(batches) - 1
            with exchange(self.model_wrapped, now=last):
                batch = to_device(batch, self.world.device)
                losses.append(self.training_step(self.model_wrapped, batch, count / total))
            if not last:
                self._call("on_substep_end")
        parts = torch.stack(losses).tolist()
        loss = self.world.sum([sum(parts)])[0]
        self.scaler.unscale_(self.optimizer)
        progress["norm"] = gradient_norm(self.model, args.max_grad_norm)
        self._check_finite(loss, parts, [chunk for chunk, _ in batches])
        self._call("on_pre_optimizer_step")
        scale = self.scaler.get_scale()
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._call("on_optimizer_step")
        progress["rate"] = self.lr_scheduler.get_last_lr()[0]
        if self.scaler.get_scale() >= scale and not isinstance(self.lr_scheduler, ReduceLROnPlateau):
            self.lr_scheduler.step()  # but for a step that was left out in fp16
        self.optimizer.zero_grad()
        state.global_step += 1
        state.rows_read += step.rows
        state.epoch = state.global_step / state.max_steps if step.done is None else state.epochs_done + step.done
        for name, more in (("total", loss), ("logged", loss), ("steps", 1)):
            progress[name] += more
        self._call("on_step_end")

    def _check_finite(self, loss: float, parts: list[float], chunks: list[Chunk]) -> None:
        """Stop before weights are spoilt; in fp16 the scaler leaves out steps with gradients that are too large."""
        finite = torch.isfinite(torch.tensor([loss, 0.0 if self.args.fp16 else self._progress["norm"]]))
        if bool(finite.all()):
            return
        wrong = [row for part, chunk in zip(parts, chunks, strict=True) if part - part != 0 for row in chunk.rows]
        rows = wrong or [row for chunk in chunks for row in chunk.rows]
        listed = ", ".join(map(str, rows[:32])) + (", ..." if len(rows) > 32 else "")
        kept = checkpoint.own_checkpoints(self.args.output_dir)
        what = "gradients are" if finite[0] else f"loss is {loss},"
        last = f"; the last one is {kept[-1]}" if kept else ""
        raise NonFiniteError(
            f"In step {self.state.global_step + 1} the {what} not finite; the batch has the rows {listed} of "
            f"train_dataset. Weights and checkpoints are those of before{last}. Look at these rows, or lower "
            "learning_rate."
        )

    def training_step(self, model: nn.Module, inputs: dict[str, Any], weight: float = 1.0) -> Tensor:
        """Add a batch's gradients to those of its step.

        Args:
            model: that computes the loss.
            inputs: of the model.
            weight: the batch's part of all that counts in the step.

        Returns:
            The batch's part of the step's loss.
        """
        alone = self.world.size == 1
        if not weight and alone:
            return torch.zeros((), device=self.world.device)
        with self._autocast():
            loss, outputs = self.compute_loss(
                model, dict(inputs), return_outputs=True, num_items_in_batch=self.count_items(inputs)
            )
            if not weight:  # nothing to learn from, but the others wait for gradients
                loss = predictions_of(outputs).sum() * 0.0
        part = loss * weight
        self.scaler.scale(part * self.world.size).backward()  # gradients are averaged over processes
        return part.detach().float()

    # --- on the way ---------------------------------------------------------------------------------------------------

    def _report(self, ignore: Any) -> None:
        """Log, evaluate and save, as callbacks have decided."""
        control, progress = self.control, self._progress
        if control.should_log and progress["steps"]:
            control.should_log = False
            mean = progress["logged"] / progress["steps"]
            progress["logged"], progress["steps"] = 0.0, 0
            self.log({"loss": mean, "grad_norm": progress["norm"], "learning_rate": progress["rate"]})
        if control.should_evaluate:
            control.should_evaluate = False
            better = self._evaluate_on_the_way(ignore)
            if self.args.save_strategy == "best":
                control.should_save = better
        if control.should_save:
            control.should_save = False
            self._save_checkpoint()

    def _evaluate_on_the_way(self, ignore: Any) -> bool:
        """Evaluate, and tell whether the model is the best so far."""
        metrics = self.evaluate(ignore_keys=ignore)
        name = self.args.metric_for_best_model
        if isinstance(self.lr_scheduler, ReduceLROnPlateau):
            self.lr_scheduler.step(metrics[_metric(metrics, name or "loss")])
        if name is None:
            return False
        value, best = metrics[_metric(metrics, name)], self.state.best_metric
        if best is not None and not (value > best if self.args.greater_is_better else value < best):
            return False
        self.state.best_metric, self.state.best_global_step = value, self.state.global_step
        return True

    def _save_checkpoint(self) -> None:
        args, state = self.args, self.state
        path = Path(args.output_dir) / f"{checkpoint.PREFIX}{state.global_step}"
        if state.best_global_step == state.global_step:
            state.best_model_checkpoint = str(path)
        checkpoint.save(
            path,
            self._training(),
            state.to_dict(),
            {"progress": self._progress, "callbacks": self.callback_handler.state_dict()},
            self.world,
            write_model=self._write,
            limit=args.save_total_limit,
            best=state.best_model_checkpoint,
            model_only=args.save_only_model,
        )
        self._call("on_save")
        if args.push_to_hub and args.hub_strategy == "every_save":
            self.push_to_hub(f"Step {state.global_step}")

    def _end(self, began: float, before: int) -> TrainOutput:
        args, state = self.args, self.state
        if args.load_best_model_at_end and state.best_model_checkpoint:
            self.world.wait()
            checkpoint.load_model(state.best_model_checkpoint, self.model)
        steps = state.global_step - before
        mean = self._progress["total"] / max(1, state.global_step)
        rows = steps * args.per_device_train_batch_size * args.gradient_accumulation_steps * self.world.size
        metrics = speed("train", began, rows, steps) | {"train_loss": mean}
        self.log(metrics)
        self.model_wrapped = self.model
        self._call("on_train_end")
        if args.push_to_hub and args.hub_strategy == "end":
            self.push_to_hub()
        return TrainOutput(state.global_step, mean, metrics | {"epoch": state.epoch})

    # --- saving -------------------------------------------------------------------------------------------------------

    def save_model(self, output_dir: str | os.PathLike | None = None) -> None:
        """Write the model, and the tokenizer if there is one, into a folder; all processes must call this.

        Args:
            output_dir: the folder, by default `args.output_dir`.
        """
        with gathered(self.model, self.world):
            if self.world.is_first:
                self._write(Path(output_dir or self.args.output_dir))
        self.world.wait()

    def _write(self, place: Path) -> None:
        if isinstance(self.model, Model):
            self.model.save_pretrained(place)
        else:
            from ..folder import rewrite
            from ..weights import is_weight_file, write

            with rewrite(place, replaces=is_weight_file) as staging:
                write(staging, self.model.state_dict())
        if hasattr(self.processing_class, "save_pretrained"):
            self.processing_class.save_pretrained(place)
        (place / "training_args.json").write_text(self.args.to_json_string() + "\n", encoding="utf-8")

    def push_to_hub(self, commit_message: str | None = None, **options: Any) -> str:
        """Upload the model and the tokenizer to `args.hub_model_id`, by default a repository called as the folder.

        Args:
            commit_message: the first line of the commit.
            options: further ones of `Model.push_to_hub`.
        """
        args = self.args
        name = args.hub_model_id or Path(args.output_dir).resolve().name
        options = {"token": args.hub_token, "private": args.hub_private_repo} | options
        with tempfile.TemporaryDirectory() as folder:
            self.save_model(folder)
            return push(folder, name, commit_message=commit_message, **options) if self.world.is_first else ""


def _metric(metrics: Mapping[str, Any], name: str) -> str:
    """Return the name under which a metric was evaluated."""
    full = name if name.startswith("eval_") else f"eval_{name}"
    if full not in metrics:
        raise InputError(
            f"metric_for_best_model is {name!r}; an evaluation gives {', '.join(metrics)}{did_you_mean(full, metrics)}."
        )
    return full


def _is_split(model: nn.Module) -> bool:
    return any(map(is_split, model.parameters()))
