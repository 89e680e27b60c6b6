"""What happens beside training: when to log, evaluate and save, and who is told.

A callback is an object whose methods are called at the events that they are named after, with the arguments, the state
and the control, which it may change.
"""

import dataclasses
import json
import sys
import time
from dataclasses import dataclass, field
from typing import Any

from ..errors import InputError
from .arguments import TrainingArguments, in_steps

EVENTS = (
    *("on_init_end", "on_train_begin", "on_train_end", "on_epoch_begin", "on_epoch_end", "on_step_begin"),
    *("on_pre_optimizer_step", "on_optimizer_step", "on_substep_end", "on_step_end", "on_evaluate", "on_predict"),
    *("on_save", "on_log", "on_prediction_step"),
)


@dataclass
class TrainerState:
    """Where a training is; written into every checkpoint.

    Attributes:
        epoch: how many have passed, with the part of the current one.
        global_step: updates of the weights.
        max_steps: how many there will be.
        num_train_epochs: as many as were begun at the end.
        logging_steps, eval_steps, save_steps: every so many steps.
        train_batch_size: rows that a process reads at once.
        log_history: all that was logged.
        best_metric, best_global_step, best_model_checkpoint: the best evaluation, and where its weights are.
        epochs_done: whole epochs.
        rows_read: of the current epoch's order.
        is_world_process_zero: whether this process writes files and logs.
    """

    epoch: float = 0.0
    global_step: int = 0
    max_steps: int = 0
    num_train_epochs: int = 0
    logging_steps: int = 500
    eval_steps: int = 500
    save_steps: int = 500
    train_batch_size: int | None = None
    log_history: list[dict[str, Any]] = field(default_factory=list)
    best_metric: float | None = None
    best_global_step: int | None = None
    best_model_checkpoint: str | None = None
    epochs_done: int = 0
    rows_read: int = 0
    is_world_process_zero: bool = True

    @property
    def is_local_process_zero(self) -> bool:
        """Whether this process logs."""
        return self.is_world_process_zero

    def to_dict(self) -> dict[str, Any]:
        """Return all fields."""
        return dataclasses.asdict(self)

    def to_json_string(self) -> str:
        """Return all fields as JSON."""
        return json.dumps(self.to_dict(), indent=2)


@dataclass
class TrainerControl:
    """What is to be done next; callbacks change it."""

    should_training_stop: bool = False
    should_epoch_stop: bool = False
    should_save: bool = False
    should_evaluate: bool = False
    should_log: bool = False


class TrainerCallback:
    """The base of callbacks: define the events that you want to hear of.

    An event is called with `(args, state, control, **what)`; `what` has `model`, `processing_class`, `optimizer`,
    `lr_scheduler`, and of some events `logs` or `metrics`. One that has `state_dict` and `load_state_dict` goes on
    where it was when training is resumed.
    """

    def on_init_end(self, args, state, control, **kwargs):
        """The trainer was built."""

    def on_train_begin(self, args, state, control, **kwargs):
        """Training begins."""

    def on_train_end(self, args, state, control, **kwargs):
        """Training has ended."""

    def on_epoch_begin(self, args, state, control, **kwargs):
        """An epoch begins."""

    def on_epoch_end(self, args, state, control, **kwargs):
        """An epoch has ended."""

    def on_step_begin(self, args, state, control, **kwargs):
        """A step begins."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        """Gradients are there and clipped."""

    def on_optimizer_step(self, args, state, control, **kwargs):
        """Weights were changed; gradients are still there."""

    def on_substep_end(self, args, state, control, **kwargs):
        """A batch was read whose step goes on."""

    def on_step_end(self, args, state, control, **kwargs):
        """A step has ended."""

    def on_evaluate(self, args, state, control, **kwargs):
        """The model was evaluated."""

    def on_predict(self, args, state, control, **kwargs):
        """Predictions were made."""

    def on_save(self, args, state, control, **kwargs):
        """A checkpoint was written."""

    def on_log(self, args, state, control, **kwargs):
        """Something was logged."""

    def on_prediction_step(self, args, state, control, **kwargs):
        """A batch was evaluated."""


class DefaultFlowCallback(TrainerCallback):
    """Logs, evaluates and saves when the arguments say so."""

    def on_step_end(self, args, state, control, **kwargs):
        """Do what is due every so many steps, and at the last one."""
        step = state.global_step
        if (step == 1 and args.logging_first_step) or (
            args.logging_strategy == "steps" and step % state.logging_steps == 0
        ):
            control.should_log = True
        if args.eval_strategy == "steps" and step % state.eval_steps == 0 and step >= args.eval_delay:
            control.should_evaluate = True
        if args.save_strategy == "steps" and step % state.save_steps == 0:
            control.should_save = True
        if step >= state.max_steps:
            control.should_training_stop = True
            control.should_save |= args.save_strategy == "steps"

    def on_epoch_end(self, args, state, control, **kwargs):
        """Do what is due every epoch."""
        control.should_log |= args.logging_strategy == "epoch"
        control.should_evaluate |= args.eval_strategy == "epoch" and state.epoch >= args.eval_delay
        control.should_save |= args.save_strategy == "epoch"


class EarlyStoppingCallback(TrainerCallback):
    """Stops when `metric_for_best_model` has not become better for a while.

    Args:
        early_stopping_patience: how many evaluations in a row may be no better.
        early_stopping_threshold: by how much better counts as better.
    """

    def __init__(self, early_stopping_patience: int = 1, early_stopping_threshold: float = 0.0):
        self.early_stopping_patience, self.early_stopping_threshold = early_stopping_patience, early_stopping_threshold
        self.worse = 0

    def on_train_begin(self, args, state, control, **kwargs):
        """Check that something is evaluated that can get better."""
        if args.eval_strategy == "no" or not args.metric_for_best_model:
            raise InputError(
                f"EarlyStoppingCallback needs evaluations to compare: eval_strategy is {args.eval_strategy!r}, "
                f"metric_for_best_model {args.metric_for_best_model!r}; set both, or load_best_model_at_end=True."
            )

    def on_evaluate(self, args, state, control, metrics=None, **kwargs):
        """Count evaluations that were no better."""
        name = args.metric_for_best_model
        value = (metrics or {}).get(name if name.startswith("eval_") else f"eval_{name}")
        if value is None:
            return  # one of several evaluation sets
        sign, best = (1 if args.greater_is_better else -1), state.best_metric
        better = best is None or sign * (value - best) > self.early_stopping_threshold
        self.worse = 0 if better else self.worse + 1
        control.should_training_stop |= self.worse >= self.early_stopping_patience

    def state_dict(self) -> dict[str, Any]:
        """Return how many evaluations in a row were no better."""
        return {"worse": self.worse}

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Go on counting."""
        self.worse = values["worse"]


class PrinterCallback(TrainerCallback):
    """Prints what is logged, a line each, to the standard output."""

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Print the values, shortened."""
        if state.is_world_process_zero and logs:
            print({name: _short(value) for name, value in logs.items()}, flush=True)


class ProgressCallback(PrinterCallback):
    """Shows a bar with the time that is left, and prints what is logged above it."""

    def __init__(self) -> None:
        self.bar: Any = None
        self.began = 0.0

    def on_train_begin(self, args, state, control, **kwargs):
        """Show the bar."""
        from tqdm import tqdm

        if state.is_world_process_zero:
            self.bar = tqdm(total=state.max_steps, initial=state.global_step, unit="step", file=sys.stderr)
        self.began = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Move the bar on."""
        if self.bar is not None:
            self.bar.update(state.global_step - self.bar.n)

    def on_log(self, args, state, control, logs=None, **kwargs):
        """Print the values above the bar."""
        if self.bar is None:
            super().on_log(args, state, control, logs=logs)
        elif logs:
            self.bar.write(str({name: _short(value) for name, value in logs.items()}), file=sys.stdout)

    def on_train_end(self, args, state, control, **kwargs):
        """Take the bar away."""
        if self.bar is not None:
            self.bar.close()
        self.bar = None


def _short(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value


class CallbackHandler:
    """Calls callbacks in order.

    Args:
        callbacks: objects, or classes of which one is built.
    """

    def __init__(self, callbacks: list[Any]):
        self.callbacks: list[TrainerCallback] = []
        for callback in callbacks:
            self.add(callback)

    def add(self, callback: Any) -> None:
        """Add a callback, or one of a class.

        Raises:
            InputError: if it is none.
        """
        callback = callback() if isinstance(callback, type) else callback
        if not any(hasattr(callback, event) for event in EVENTS):
            raise InputError(
                f"{callback!r:.80} is no callback: it has none of {', '.join(EVENTS)}. Derive it from TrainerCallback."
            )
        self.callbacks.append(callback)

    def pop(self, callback: Any) -> TrainerCallback | None:
        """Remove a callback, or the first of a class, and return it; None if there is none."""
        for one in self.callbacks:
            if one is callback or type(one) is callback:
                self.callbacks.remove(one)
                return one
        return None

    def call(
        self, event: str, args: TrainingArguments, state: TrainerState, control: TrainerControl, **what: Any
    ) -> TrainerControl:
        """Tell all callbacks of an event."""
        for callback in self.callbacks:
            if (method := getattr(callback, event, None)) is not None:
                control = method(args, state, control, **what) or control
        return control

    def state_dict(self) -> dict[str, Any]:
        """Return what callbacks have to remember, by their class's name and place."""
        stateful = [c for c in self.callbacks if hasattr(c, "state_dict")]
        return {f"{type(c).__name__}.{i}": c.state_dict() for i, c in enumerate(stateful)}  # type: ignore[attr-defined]

    def load_state_dict(self, values: dict[str, Any]) -> None:
        """Give callbacks back what they had to remember."""
        stateful = [c for c in self.callbacks if hasattr(c, "load_state_dict")]
        for i, callback in enumerate(stateful):
            if (value := values.get(f"{type(callback).__name__}.{i}")) is not None:
                callback.load_state_dict(value)  # type: ignore[attr-defined]


def resolved_steps(args: TrainingArguments, total: int) -> dict[str, int]:
    """Return how often to log, evaluate and save, in steps."""
    names = ("logging_steps", "eval_steps", "save_steps")
    return {name: max(1, in_steps(getattr(args, name), total)) for name in names}
