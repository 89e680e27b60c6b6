"""`Evaluator`: a model with what it takes to compute losses, predictions and metrics of datasets."""

import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError, refuse_unknown
from .arguments import TrainingArguments
from .callbacks import (
    CallbackHandler,
    DefaultFlowCallback,
    PrinterCallback,
    ProgressCallback,
    TrainerCallback,
    TrainerControl,
    TrainerState,
)
from .checkpoint import random_state, restore_random
from .collators import DataCollatorWithPadding, default_data_collator
from .columns import LABELS, Collate, accepted_columns, check_columns, label_columns, to_device
from .distributed import join, unwrapped
from .losses import aligned_labels, count_items, smoothed_loss
from .predictions import PredictionOutput, Predictions, gather_parts, predictions_of, prefixed, speed
from .sampling import Batches, Chunk, deal, stream_steps
from .seeds import set_seed

OPTIONS = (
    *("model", "args", "data_collator", "train_dataset", "eval_dataset", "processing_class", "tokenizer", "model_init"),
    *("compute_loss_func", "compute_metrics", "callbacks", "optimizers", "preprocess_logits_for_metrics"),
)


class Evaluator:
    """Runs a model over datasets without changing it; `Trainer`, which says what the arguments are, does so too."""

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        data_collator: Callable[[list[Any]], Any] | None = None,
        *,
        eval_dataset: Any = None,
        processing_class: Any = None,
        model_init: Callable[[], nn.Module] | None = None,
        compute_loss_func: Callable[..., Tensor] | None = None,
        compute_metrics: Any = None,
        callbacks: Sequence[Any] | None = None,
        preprocess_logits_for_metrics: Callable[[Any, Any], Any] | None = None,
        **options: Any,
    ):
        self.processing_class = options.pop("tokenizer", None) or processing_class
        refuse_unknown(type(self).__name__, options, OPTIONS)
        self.args = args = args if args is not None else TrainingArguments()
        self.world = join(args.device, tensor_parallel_size=args.tensor_parallel_size, timeout=args.ddp_timeout)
        set_seed(args.seed)
        if model is None and model_init is None:
            raise InputError(f"{type(self).__name__} needs a model, or model_init, which builds one.")
        self.model: Any = model if model is not None else model_init()  # type: ignore[misc]
        self.model.to(self.world.device)
        self.model_wrapped: Any = self.model
        self.eval_dataset = eval_dataset
        pads = hasattr(self.processing_class, "pad")
        self.data_collator = data_collator or (
            DataCollatorWithPadding(self.processing_class) if pads else default_data_collator
        )
        self.compute_loss_func, self.compute_metrics = compute_loss_func, compute_metrics
        self.preprocess_logits_for_metrics = preprocess_logits_for_metrics
        self.label_names = list(args.label_names or label_columns(self.model))
        self.class_weights = None if args.class_weights is None else torch.tensor(args.class_weights)
        bar = sys.stderr.isatty() if args.disable_tqdm is None else not args.disable_tqdm
        self.callback_handler = CallbackHandler(
            [DefaultFlowCallback, *(callbacks or ()), ProgressCallback if bar else PrinterCallback]
        )
        self.state = TrainerState(is_world_process_zero=self.world.is_first)
        self.control = TrainerControl()
        self.optimizer: Any = None
        self.lr_scheduler: Any = None

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, by its old name."""
        return self.processing_class

    def is_world_process_zero(self) -> bool:
        """Tell whether this process writes files and logs."""
        return self.world.is_first

    is_local_process_zero = is_world_process_zero

    # --- callbacks ----------------------------------------------------------------------------------------------------

    def add_callback(self, callback: Any) -> None:
        """Add a callback, or one of a class."""
        self.callback_handler.add(callback)

    def pop_callback(self, callback: Any) -> TrainerCallback | None:
        """Remove a callback, or the first of a class, and return it."""
        return self.callback_handler.pop(callback)

    def remove_callback(self, callback: Any) -> None:
        """Remove a callback, or the first of a class."""
        self.callback_handler.pop(callback)

    def _call(self, event: str, **what: Any) -> None:
        self.control = self.callback_handler.call(
            event,
            self.args,
            self.state,
            self.control,
            model=self.model,
            processing_class=self.processing_class,
            optimizer=self.optimizer,
            lr_scheduler=self.lr_scheduler,
            **what,
        )

    def log(self, logs: dict[str, Any]) -> None:
        """Keep values in the history, and tell callbacks."""
        logs = logs | {"epoch": self.state.epoch}
        self.state.log_history.append(logs | {"step": self.state.global_step})
        self._call("on_log", logs=logs)

    # --- losses -------------------------------------------------------------------------------------------------------

    def _collate(self) -> Collate:
        takes = accepted_columns(self.model) if self.args.remove_unused_columns else None
        return Collate(self.data_collator, None if takes is None else (*takes, *LABELS, *self.label_names))

    @contextmanager
    def _own_randomness(self) -> Iterator[None]:
        """Draw from the seed inside, and go on outside as if nothing had been drawn."""
        kept = random_state(self.world.device)
        set_seed(self.args.seed)
        try:
            yield
        finally:
            restore_random(kept, self.world.device)

    def count_items(self, inputs: Mapping[str, Any]) -> float:
        """Return how much a batch counts; see `losses.count_items`."""
        return count_items(self.model, inputs, self.class_weights)

    def compute_loss(
        self, model: nn.Module, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        """Return the mean loss of a batch, to be overridden by those who have another.

        Args:
            model: that computes it.
            inputs: of the model.
            return_outputs: whether to return what the model returned as well.
            num_items_in_batch: what the mean divides by.
        """
        outputs, smoothing = model(**inputs), self.args.label_smoothing_factor
        if self.compute_loss_func is not None:
            loss = self.compute_loss_func(outputs, inputs.get("labels"), num_items_in_batch=num_items_in_batch)
        elif smoothing or self.class_weights is not None:
            if "labels" not in inputs or inputs["labels"].is_floating_point():
                raise InputError("label_smoothing_factor and class_weights are for labels that are classes.")
            loss = smoothed_loss(outputs["logits"], aligned_labels(self.model, inputs), smoothing, self.class_weights)
        else:
            loss = outputs.get("loss") if hasattr(outputs, "get") else outputs[0]
        if loss is None:
            raise InputError(
                f"{type(self.model).__name__} returned no loss; it computes it from {', '.join(self.label_names)}; "
                f"the batch holds {', '.join(inputs)}."
            )
        return (loss, outputs) if return_outputs else loss

    def _autocast(self) -> Any:
        if not (self.args.bf16 or self.args.fp16):
            return nullcontext()
        return torch.autocast(self.world.device.type, torch.bfloat16 if self.args.bf16 else torch.float16)

    # --- evaluating ---------------------------------------------------------------------------------------------------

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: list[str] | None = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return the loss and the metrics of a dataset; of several by name, those of all.

        Args:
            eval_dataset: by default the trainer's own.
            ignore_keys: parts of the model's output to leave out of predictions.
            metric_key_prefix: what names begin with.
        """
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        if dataset is None:
            raise InputError("There is no eval_dataset; give one to evaluate on.")
        if isinstance(dataset, dict):
            metrics: dict[str, float] = {}
            for name, part in dataset.items():
                metrics |= self.evaluate(part, ignore_keys, f"{metric_key_prefix}_{name}")
            return metrics
        only = self.args.prediction_loss_only
        collected = Predictions(None if only else self.compute_metrics)
        metrics = self._run(dataset, collected, metric_key_prefix, ignore_keys).metrics
        self.log(metrics)
        self._call("on_evaluate", metrics=metrics)
        return metrics | {"epoch": self.state.epoch}

    def predict(
        self, test_dataset: Any, ignore_keys: list[str] | None = None, metric_key_prefix: str = "test"
    ) -> PredictionOutput:
        """Return predictions and, where there are labels, those and the metrics."""
        collected = Predictions(self.compute_metrics, keep=True)
        output = self._run(test_dataset, collected, metric_key_prefix, ignore_keys)
        self._call("on_predict", metrics=output.metrics)
        return output

    def _run(self, dataset: Any, collected: Predictions, prefix: str, ignore: list[str] | None) -> PredictionOutput:
        """Go through a dataset without learning; the sources of randomness end where they were."""
        check_columns(self.model, dataset, "The dataset to evaluate on")
        training, began = self.model.training, time.perf_counter()
        self.model.eval()
        loss = items = rows = steps = 0.0
        with self._own_randomness(), torch.no_grad():
            for chunks, chunk, batch in self._eval_batches(dataset):
                found, predictions, labels = self.prediction_step(
                    self.model, to_device(batch, self.world.device), not collected.wants_predictions, ignore
                )
                count = self.count_items(batch) if chunk.counts and found is not None else 0.0
                part = float(found) * count if count and found is not None else 0.0
                part, count = self.world.sum([part, count])
                loss, items, rows, steps = loss + part, items + count, rows + sum(chunks), steps + 1
                self._collect(collected, predictions, labels, len(chunks))
                self._call("on_prediction_step")
        self.model.train(training)
        if not steps:
            raise InputError("The dataset to evaluate on is empty; expected at least one row.")
        predictions, labels, metrics = collected.result()
        metrics = ({"loss": loss / items} if items else {}) | metrics
        metrics = prefixed(metrics, prefix) | speed(prefix, began, int(rows), int(steps))
        return PredictionOutput(predictions, labels, metrics)

    def _collect(self, collected: Predictions, predictions: Any, labels: Any, real: int) -> None:
        if not collected.wants_predictions:
            return
        if self.preprocess_logits_for_metrics is not None and predictions is not None:
            predictions = self.preprocess_logits_for_metrics(predictions, labels)
        gathered = zip(gather_parts(predictions, self.world), gather_parts(labels, self.world), strict=True)
        for part, truth in list(gathered)[:real]:  # after these come stand-ins
            collected.update(part, truth)

    def _eval_batches(self, dataset: Any) -> Iterator[tuple[list[int], Chunk, Any]]:
        """Yield how many rows each process has in a round, this one's chunk, and its batch."""
        size, world, collate = self.args.per_device_eval_batch_size, self.world, self._collate()
        if not (hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")):
            for count, ((chunk, content),) in stream_steps(
                dataset, world.rank, world.size, batch_size=size, chunks=world.size
            ):
                yield [min(size, count - i) for i in range(0, count, size)], chunk, collate(content)
            return
        cut = [Chunk(tuple(range(i, min(i + size, len(dataset))))) for i in range(0, len(dataset), size)]
        rounds = [cut[i : i + world.size] for i in range(0, len(cut), world.size)]
        mine = [deal(step, world.rank, world.size)[0] for step in rounds]
        batches = Batches(dataset, mine, collate, seed=self.args.seed).read(self.args.dataloader_num_workers)
        for step, chunk, batch in zip(rounds, mine, batches, strict=True):
            yield [len(one.rows) for one in step], chunk, batch

    def prediction_step(
        self, model: nn.Module, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Any, Any]:
        """Return the mean loss, the predictions and the labels of a batch, each None where there is none.

        Args:
            model: that predicts.
            inputs: of the model.
            prediction_loss_only: whether the loss is enough.
            ignore_keys: parts of the model's output to leave out.
        """
        labelled = bool(self.label_names) and all(name in inputs for name in self.label_names)
        labels = tuple(inputs[name] for name in self.label_names) if labelled else None
        if "cache" in getattr(unwrapped(model), "accepts", ()):
            inputs = {**inputs, "use_cache": False}
        with torch.no_grad(), self._autocast():
            if labelled:
                count = self.count_items(inputs)
                loss, outputs = self.compute_loss(model, dict(inputs), return_outputs=True, num_items_in_batch=count)
            else:
                loss, outputs = None, model(**inputs)
        predictions = None if prediction_loss_only else predictions_of(outputs, ignore_keys)
        return loss, predictions, labels[0] if labels is not None and len(labels) == 1 else labels
