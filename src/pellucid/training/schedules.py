"""Learning-rate schedules: by which factor the optimizer's learning rate is multiplied at each step.

A schedule is a plain function from the step to the factor; `torch.optim.lr_scheduler.LambdaLR` applies it. Two follow
a metric instead of the step, and `Trainer` tells them of each evaluation.
"""

import inspect
import math
from collections.abc import Callable
from typing import Any, Literal, SupportsFloat

from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR, LRScheduler, ReduceLROnPlateau

from ..errors import InputError, did_you_mean, refuse_unknown

Factor = Callable[[int], float]

CURVES = ("linear", "cosine", "1-sqrt")


def get_scheduler(
    name: str,
    optimizer: Optimizer,
    num_warmup_steps: int | None = None,
    num_training_steps: int | None = None,
    scheduler_specific_kwargs: dict[str, Any] | None = None,
) -> LRScheduler:
    """Return a schedule by name.

    Args:
        name: one of `SCHEDULES`, such as "linear", "cosine" or "constant_with_warmup".
        optimizer: whose learning rates are multiplied.
        num_warmup_steps: over how many steps the rate grows to its full height, for the schedules that warm up.
        num_training_steps: of the whole training, for the schedules that end.
        scheduler_specific_kwargs: further arguments of that schedule's function.

    Raises:
        InputError: if there is no such schedule, or it needs a number that is not given.
        ArgumentError: for a further argument that it does not have.
    """
    name = str(getattr(name, "value", name))  # of the original's enumeration
    if name not in SCHEDULES:
        raise InputError(
            f"There is no schedule {name!r}{did_you_mean(name, SCHEDULES) or '.'} Known: {', '.join(SCHEDULES)}."
        )
    make, further = SCHEDULES[name], dict(scheduler_specific_kwargs or {})
    known = inspect.signature(make).parameters
    if name == "reduce_lr_on_plateau":
        known = inspect.signature(ReduceLROnPlateau).parameters
    refuse_unknown(f"The schedule {name!r}", further, [n for n in known if n not in ("optimizer", "last_epoch")])
    counts = {"num_warmup_steps": num_warmup_steps, "num_training_steps": num_training_steps}
    given = {n: count for n, count in counts.items() if n in known and count is not None} | further
    needed = [n for n, p in known.items() if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD]
    if missing := [n for n in needed if n != "optimizer" and n not in given]:
        raise InputError(f"The schedule {name!r} needs {' and '.join(missing)}; pass it.")
    return make(optimizer, **given)


def get_constant_schedule(optimizer: Optimizer, last_epoch: int = -1) -> LambdaLR:
    """Keep the learning rate as it is."""
    return LambdaLR(optimizer, lambda step: 1.0, last_epoch)


def get_constant_schedule_with_warmup(optimizer: Optimizer, num_warmup_steps: int, last_epoch: int = -1) -> LambdaLR:
    """Warm up linearly, then keep the learning rate."""
    return LambdaLR(optimizer, _warmed(num_warmup_steps, lambda step: 1.0), last_epoch)


def get_linear_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, last_epoch: int = -1
) -> LambdaLR:
    """Warm up linearly, then fall linearly to 0 at the last step."""
    span = max(1, num_training_steps - num_warmup_steps)
    return LambdaLR(
        optimizer, _warmed(num_warmup_steps, lambda step: max(0.0, (num_training_steps - step) / span)), last_epoch
    )


def get_cosine_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm up linearly, then follow a cosine from 1 to 0; `num_cycles` says how many waves, by default half a one."""
    span = max(1, num_training_steps - num_warmup_steps)
    return LambdaLR(
        optimizer,
        _warmed(num_warmup_steps, lambda step: _wave((step - num_warmup_steps) / span, num_cycles)),
        last_epoch,
    )


def get_cosine_with_hard_restarts_schedule_with_warmup(
    optimizer: Optimizer, num_warmup_steps: int, num_training_steps: int, num_cycles: int = 1, last_epoch: int = -1
) -> LambdaLR:
    """Warm up linearly, then fall from 1 to 0 along half a cosine, `num_cycles` times from the top."""
    span = max(1, num_training_steps - num_warmup_steps)

    def factor(step: int) -> float:
        progress = (step - num_warmup_steps) / span
        return _wave(num_cycles * progress % 1.0, 0.5) if progress < 1 else 0.0

    return LambdaLR(optimizer, _warmed(num_warmup_steps, factor), last_epoch)


def get_polynomial_decay_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    lr_end: float = 1e-7,
    power: float = 1.0,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm up linearly, then fall to the learning rate `lr_end`, as (1 - progress) to the given power.

    Raises:
        InputError: if `lr_end` is not below the optimizer's learning rate.
    """
    full = optimizer.defaults["lr"]
    if lr_end >= full:
        raise InputError(f"lr_end is {lr_end}; expected less than the optimizer's learning rate, {full}.")
    end, span = lr_end / full, num_training_steps - num_warmup_steps

    def factor(step: int) -> float:
        left = 1 - (step - num_warmup_steps) / span if step < num_training_steps else 0.0
        return end + (1 - end) * left**power

    return LambdaLR(optimizer, _warmed(num_warmup_steps, factor), last_epoch)


def get_inverse_sqrt_schedule(
    optimizer: Optimizer, num_warmup_steps: int, timescale: int | None = None, last_epoch: int = -1
) -> LambdaLR:
    """Warm up linearly, then fall as 1 / sqrt(step), at a pace that `timescale` sets: the warmup, else 10,000 steps."""
    scale = timescale or num_warmup_steps or 10_000
    return LambdaLR(
        optimizer,
        _warmed(num_warmup_steps, lambda step: 1 / math.sqrt((step + scale - num_warmup_steps) / scale)),
        last_epoch,
    )


def get_cosine_with_min_lr_schedule_with_warmup(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
) -> LambdaLR:
    """Warm up linearly, then follow a cosine that ends above 0.

    Args:
        optimizer: whose learning rates are multiplied.
        num_warmup_steps: over how many steps the rate grows.
        num_training_steps: at which the cosine ends.
        num_cycles: how many waves.
        last_epoch: the step to go on from.
        min_lr: the lowest learning rate.
        min_lr_rate: or that as a share of the optimizer's.

    Raises:
        InputError: unless exactly one of the last two is given.
    """
    low, span = _lowest(optimizer, min_lr, min_lr_rate), max(1, num_training_steps - num_warmup_steps)

    def factor(step: int) -> float:
        return low + (1 - low) * _wave((step - num_warmup_steps) / span, num_cycles)

    return LambdaLR(optimizer, _warmed(num_warmup_steps, factor), last_epoch)


def get_cosine_with_min_lr_schedule_with_warmup_lr_rate(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_training_steps: int,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
    min_lr: float | None = None,
    min_lr_rate: float | None = None,
    warmup_lr_rate: float | None = None,
) -> LambdaLR:
    """As `get_cosine_with_min_lr_schedule_with_warmup`, reaching full height in the last step of the warmup.

    `warmup_lr_rate` is the share of the learning rate at the first step; without, 1 / `num_warmup_steps`.
    """
    low, span = _lowest(optimizer, min_lr, min_lr_rate), max(1, num_training_steps - num_warmup_steps)

    def factor(step: int) -> float:
        if step < num_warmup_steps:
            if warmup_lr_rate is None:
                return (step + 1) / num_warmup_steps
            return warmup_lr_rate + (1 - warmup_lr_rate) * step / max(1, num_warmup_steps - 1)
        return low + (1 - low) * _wave((step - num_warmup_steps + 1) / span, num_cycles)

    return LambdaLR(optimizer, factor, last_epoch)


def get_wsd_schedule(
    optimizer: Optimizer,
    num_warmup_steps: int,
    num_decay_steps: int,
    num_training_steps: int | None = None,
    num_stable_steps: int | None = None,
    warmup_type: str = "linear",
    decay_type: str = "cosine",
    min_lr_ratio: float = 0,
    num_cycles: float = 0.5,
    last_epoch: int = -1,
) -> LambdaLR:
    """Warm up, stay, decay.

    Args:
        optimizer: whose learning rates are multiplied.
        num_warmup_steps: the steps of the first part.
        num_decay_steps: the steps of the last part.
        num_training_steps: of all three parts; not needed where `num_stable_steps` is given.
        num_stable_steps: the steps of the second part; by default what the others leave.
        warmup_type: "linear", "cosine" or "1-sqrt".
        decay_type: one of the same.
        min_lr_ratio: the share of the learning rate before the first part and after the last.
        num_cycles: how many waves a cosine has, by default half a one.
        last_epoch: the step to go on from.

    Raises:
        InputError: if a curve is unknown, or the numbers of steps are too few to know the second part, or contradict.
    """
    for argument, curve in (("warmup_type", warmup_type), ("decay_type", decay_type)):
        if curve not in CURVES:
            raise InputError(f"{argument} is {curve!r}; expected one of {', '.join(map(repr, CURVES))}.")
    if num_training_steps is None and num_stable_steps is None:
        raise InputError("The schedule 'warmup_stable_decay' needs num_training_steps or num_stable_steps.")
    left = None if num_training_steps is None else num_training_steps - num_warmup_steps - num_decay_steps
    stable = left if num_stable_steps is None else num_stable_steps
    if left is not None and stable != left:
        raise InputError(
            f"num_stable_steps is {stable}, but {num_training_steps} training steps less {num_warmup_steps} of warmup "
            f"and {num_decay_steps} of decay leave {left}; leave one of them out."
        )
    decay = num_warmup_steps + (stable or 0)

    def factor(step: int) -> float:
        if num_warmup_steps <= step < decay:
            return 1.0
        if step < num_warmup_steps:
            height = _falling(warmup_type, 1 - step / num_warmup_steps, 0.5)  # the same curve, backwards
        elif step < decay + num_decay_steps:
            height = _falling(decay_type, (step - decay) / num_decay_steps, num_cycles)
        else:
            return min_lr_ratio
        return max(0.0, min_lr_ratio + (1 - min_lr_ratio) * height)

    return LambdaLR(optimizer, factor, last_epoch)


def get_reduce_on_plateau_schedule(optimizer: Optimizer, **options: Any) -> ReduceLROnPlateau:
    """Lower the learning rate when a metric no longer improves; its `step` takes the metric, options are torch's."""
    return ReduceLROnPlateau(optimizer, **options)


class GreedyLR(ReduceLROnPlateau):
    """Raise the learning rate while a metric improves, and lower it while it does not.

    Its `step` takes the metric. Improvements in a row, more than `patience`, divide the rate by `factor`; as many
    evaluations without one multiply it. From Subramanian et al., 2025, https://arxiv.org/abs/2512.14527. The bounds
    are learning rates: the default `min_lr` is far above what fine-tuning uses, and a rate below it is never lowered.

    Args:
        optimizer: whose learning rates are changed.
        mode: "min" if less of the metric is better, "max" if more.
        factor: between 0 and 1.
        patience: how many evaluations of one kind in a row change nothing yet.
        threshold: what an improvement has to exceed.
        threshold_mode: "abs", or "rel" for a share of the best.
        cooldown: how many evaluations are ignored after the rate was lowered.
        warmup: how many are ignored after it was raised.
        min_lr: what it is not lowered below, of all groups or of each.
        max_lr: what it is not raised above, of all groups or of each.
        eps: the rate stays if it would change by no more.
        smooth: whether the mean of the last metrics is taken for the metric.
        window_size: of how many.
        reset_start: how often it may be asked to go below `min_lr`, until everything begins anew.

    Raises:
        InputError: if a bound, `factor` or `window_size` is impossible.
    """

    def __init__(
        self,
        optimizer: Optimizer,
        mode: Literal["min", "max"] = "min",
        factor: float = 0.95,
        patience: int = 10,
        threshold: float = 1e-6,
        threshold_mode: Literal["rel", "abs"] = "abs",
        cooldown: int = 0,
        warmup: int = 0,
        min_lr: list[float] | float = 1e-3,
        max_lr: list[float] | float = 1.0,
        eps: float = 1e-8,
        smooth: bool = False,
        window_size: int = 50,
        reset_start: int = 500,
    ):
        groups = len(optimizer.param_groups)
        for name, bound in (("min_lr", min_lr), ("max_lr", max_lr)):
            if isinstance(bound, list | tuple) and len(bound) != groups:
                raise InputError(f"{name} has {len(bound)} values; expected one, or one for each of {groups} groups.")
        if not 0 < factor < 1:
            raise InputError(f"factor is {factor}; expected a number between 0 and 1.")
        if smooth and window_size < 1:
            raise InputError(f"window_size is {window_size}; expected at least 1.")
        super().__init__(optimizer, mode, factor, patience, threshold, threshold_mode, cooldown, min_lr, eps)
        self.warmup, self.smooth, self.window_size, self.reset_start = warmup, smooth, window_size, reset_start
        self.max_lrs = list(max_lr) if isinstance(max_lr, list | tuple) else [max_lr] * groups
        self.first_lrs = list(self._last_lr)
        self._begin()

    def _begin(self) -> None:
        self._reset()  # the best metric, what is ignored, and what is bad
        self.num_good_epochs, self.resets_in = 0, self.reset_start
        self.window: list[float] = []

    def step(self, metrics: SupportsFloat, epoch: None = None) -> None:  # type: ignore[override]
        """Take the metric of one evaluation."""
        self.last_epoch += 1
        metric = float(metrics)
        if self.smooth:
            self.window = [*self.window, metric][-self.window_size :]
            metric = sum(self.window) / len(self.window)
        if self.in_cooldown:
            self.cooldown_counter -= 1
            return
        if self._is_better(metric, self.best):
            self.best, self.num_good_epochs, self.num_bad_epochs = metric, self.num_good_epochs + 1, 0
        else:
            self.num_good_epochs, self.num_bad_epochs = 0, self.num_bad_epochs + 1
        if self.num_good_epochs > self.patience:
            self._raise()
        elif self.num_bad_epochs > self.patience:
            self._lower()
        self._last_lr = [group["lr"] for group in self.optimizer.param_groups]

    def _raise(self) -> None:
        for group, most in zip(self.optimizer.param_groups, self.max_lrs, strict=True):
            rate = min(group["lr"] / self.factor, most)
            if rate - group["lr"] > self.eps:
                group["lr"] = rate
        self.num_good_epochs, self.resets_in, self.cooldown_counter = 0, self.reset_start, self.warmup

    def _lower(self) -> None:
        groups = self.optimizer.param_groups
        for group, least in zip(groups, self.min_lrs, strict=True):
            rate = max(group["lr"] * self.factor, least)
            if group["lr"] - rate > self.eps:
                group["lr"] = rate
        if all(group["lr"] <= least for group, least in zip(groups, self.min_lrs, strict=True)):
            self.resets_in -= 1
            if self.resets_in <= 0:
                for group, rate in zip(groups, self.first_lrs, strict=True):
                    group["lr"] = rate
                self._begin()
        self.num_bad_epochs, self.cooldown_counter = 0, self.cooldown


SCHEDULES: dict[str, Callable[..., LRScheduler]] = {
    "linear": get_linear_schedule_with_warmup,
    "cosine": get_cosine_schedule_with_warmup,
    "cosine_with_restarts": get_cosine_with_hard_restarts_schedule_with_warmup,
    "polynomial": get_polynomial_decay_schedule_with_warmup,
    "constant": get_constant_schedule,
    "constant_with_warmup": get_constant_schedule_with_warmup,
    "inverse_sqrt": get_inverse_sqrt_schedule,
    "reduce_lr_on_plateau": get_reduce_on_plateau_schedule,
    "cosine_with_min_lr": get_cosine_with_min_lr_schedule_with_warmup,
    "cosine_warmup_with_min_lr": get_cosine_with_min_lr_schedule_with_warmup_lr_rate,
    "warmup_stable_decay": get_wsd_schedule,
    "greedy": GreedyLR,
}


def _warmed(warmup: int, factor: Factor) -> Factor:
    """Put a linear warmup of some steps before a schedule."""
    return lambda step: step / warmup if step < warmup else factor(step)


def _wave(progress: float, cycles: float) -> float:
    """A cosine between 1, where it begins, and 0."""
    return (1 + math.cos(2 * math.pi * cycles * progress)) / 2


def _falling(curve: str, progress: float, cycles: float) -> float:
    if curve == "linear":
        return 1 - progress
    return _wave(progress, cycles) if curve == "cosine" else 1 - math.sqrt(progress)


def _lowest(optimizer: Optimizer, min_lr: float | None, min_lr_rate: float | None) -> float:
    """Return the lowest learning rate as a share of the optimizer's."""
    if (min_lr is None) == (min_lr_rate is None):
        raise InputError(f"min_lr is {min_lr}, min_lr_rate {min_lr_rate}; give exactly one of them.")
    return min_lr_rate if min_lr is None else min_lr / optimizer.defaults["lr"]  # type: ignore[return-value]
