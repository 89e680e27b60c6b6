"""`TrainingArguments`: how to train, under the names that users know; every field does something.

Old spellings are accepted. Names that ask for nothing here are accepted at the values at which they ask for nothing.
"""

import dataclasses
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from typing_extensions import dataclass_transform

from ..errors import ArgumentError, InputError, did_you_mean

STRATEGIES = ("no", "steps", "epoch")
OPTIMIZERS = ("adamw_torch", "adamw_torch_fused", "sgd")
SAMPLING = ("random", "sequential", "group_by_length")
ANY = object()

SPELLINGS = {
    "evaluation_strategy": "eval_strategy",
    "logging_first_log": "logging_first_step",
    "no_cuda": "use_cpu",
    "per_gpu_eval_batch_size": "per_device_eval_batch_size",
    "per_gpu_train_batch_size": "per_device_train_batch_size",
    "push_to_hub_model_id": "hub_model_id",
    "push_to_hub_token": "hub_token",
}

# What asks for nothing here: for what is always so, or for a part of the original that is not needed.
IDLE: dict[str, Any] = {
    **dict.fromkeys(("do_train", "do_eval", "do_predict", "overwrite_output_dir", "logging_dir", "run_name"), ANY),
    **dict.fromkeys(("save_safetensors", "dataloader_pin_memory", "dataloader_persistent_workers", "log_level"), ANY),
    **dict.fromkeys(("dataloader_prefetch_factor", "eval_accumulation_steps", "logging_nan_inf_filter"), ANY),
    **dict.fromkeys(("average_tokens_across_devices", "local_rank", "tf32", "half_precision_backend"), ANY),
    **dict.fromkeys(("log_level_replica", "log_on_each_node", "save_on_each_node", "ddp_backend"), ANY),
    **dict.fromkeys(("gradient_checkpointing_kwargs", "ignore_data_skip", "skip_memory_metrics"), ANY),
    **dict.fromkeys(("eval_do_concat_batches", "torch_empty_cache_steps", "hub_always_push"), ANY),
    "report_to": ("none", None, [], ["none"], "all"),
    "deepspeed": (None, ""),
    "fsdp_config": (None, {}, ""),
    "auto_find_batch_size": (False, None),
    "batch_eval_metrics": (False,),
    "bf16_full_eval": (False,),
    "fp16_full_eval": (False,),
    "full_determinism": (False,),
    "debug": ("", None, []),
    "fp16_opt_level": ANY,
}


@dataclass_transform(kw_only_default=False)
class _Arguments:
    """What reads the fields: it takes old spellings, and refuses unknown names with the nearest one."""

    def __init_subclass__(cls) -> None:
        dataclass(init=False, repr=True)(cls)

    def __init__(self, output_dir: Any = None, /, **given: Any):
        if output_dir is not None:
            if "output_dir" in given:
                raise ArgumentError(f"{type(self).__name__}: output_dir is given twice.")
            given["output_dir"] = output_dir
        fields = {field.name: field for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        given = self._translated(given, fields)
        for name, field in fields.items():
            default = field.default if field.default is not dataclasses.MISSING else field.default_factory()  # type: ignore[misc]
            setattr(self, name, given.get(name, default))
        self.__post_init__()

    def __post_init__(self) -> None:
        """Check the values."""

    def _translated(self, given: dict[str, Any], known: Any) -> dict[str, Any]:
        result: dict[str, Any] = {}
        wrong: list[str] = []
        for name, value in given.items():
            current = SPELLINGS.get(name, name)
            if current == "warmup_ratio":
                result["warmup_steps"] = float(value) if value else result.get("warmup_steps", 0)
            elif current == "group_by_length":
                if value:
                    result["train_sampling_strategy"] = "group_by_length"
            elif current == "fsdp":
                if value:
                    result["parallel"] = "fsdp"
            elif current in known:
                result[current] = value
            elif current in IDLE:
                self._check_idle(current, value)
            else:
                wrong.append(f"{name!r}{did_you_mean(name, [*known, *SPELLINGS])}")
        if wrong:
            said = f"{type(self).__name__} has no argument {', nor '.join(wrong)}"
            raise ArgumentError(f"{said}{'' if said[-1] == '?' else '.'} It takes: {', '.join(sorted(known))}.")
        return result

    @staticmethod
    def _check_idle(name: str, value: Any) -> None:
        if IDLE[name] is not ANY and value not in IDLE[name]:
            hints = {
                "report_to": "write what is logged wherever you want with a TrainerCallback whose on_log does it",
                "deepspeed": "use parallel='fsdp', or pass the model to accelerate",
                "fsdp_config": "parallel='fsdp' shards every layer",
                "auto_find_batch_size": "choose per_device_train_batch_size",
                "batch_eval_metrics": "pass compute_metrics an object with update(predictions, labels) and compute()",
            }
            raise ArgumentError(f"{name}={value!r} is not implemented; {hints.get(name, 'leave it out')}.")


class TrainingArguments(_Arguments):
    """How to train. Steps are updates of the weights; a float below 1 counts as a part of all steps.

    Attributes:
        output_dir: the folder of checkpoints.
        per_device_train_batch_size: rows that a process reads at once.
        per_device_eval_batch_size: the same, when evaluating.
        per_device_train_tokens: tokens that a process reads at once, padding included, instead of rows.
        gradient_accumulation_steps: how many such batches make one step.
        num_train_epochs: how often to go through the training set; may be a part of one.
        max_steps: how many steps to take, whatever `num_train_epochs` says; -1 for that.
        learning_rate: the highest.
        lr_scheduler_type: how it rises and falls, as in `get_scheduler`.
        lr_scheduler_kwargs: further arguments of that.
        warmup_steps: over which it rises; a float below 1 is a part of all steps, and so is `warmup_ratio`.
        optim: "adamw_torch" (fused where the device can), "adamw_torch_fused" or "sgd".
        weight_decay: of matrices; biases and norms have none.
        adam_beta1, adam_beta2, adam_epsilon: of AdamW.
        max_grad_norm: to which larger gradients are shortened, all together; 0 for no limit.
        layerwise_lr_decay: what the learning rate of each layer is multiplied with to get that of the one below it.
        label_smoothing_factor: the part of each target that is spread over all classes.
        class_weights: what an item of each class weighs in the loss, (L,).
        neftune_noise_alpha: of the noise on embedded words (NEFTune); None for no noise.
        train_sampling_strategy: "random", "sequential" or "group_by_length"; `group_by_length=True` says the last.
        length_column_name: a column that tells how many tokens a row has.
        seed: of weights drawn, dropout and, without `data_seed`, the order of rows.
        data_seed: of the order of rows.
        dataloader_num_workers: processes that read rows ahead.
        dataloader_drop_last: whether to leave out an epoch's last step when it is smaller than the others.
        remove_unused_columns: whether columns that the model does not take are kept from collators that do not ask.
        label_names: inputs that are labels; by default what the model's forward calls so.
        bf16, fp16: whether to compute in this precision what does not need more (autocast); weights stay as they are.
        use_cpu: whether to leave a GPU alone.
        gradient_checkpointing: whether to compute each layer twice instead of keeping what it computed.
        torch_compile: whether to compile the model, with `torch_compile_backend` and `torch_compile_mode`.
        eval_strategy: "no", "steps" or "epoch": when to evaluate.
        eval_steps: how often, by default as `logging_steps`.
        eval_delay: epochs or steps to wait with the first.
        eval_on_start: whether to evaluate before the first step.
        prediction_loss_only: whether evaluating gives the loss alone.
        logging_strategy, logging_steps, logging_first_step: when to log.
        disable_tqdm: True to show no bar; by default one is shown in a terminal.
        save_strategy: "no", "steps", "epoch" or "best": when to write a checkpoint.
        save_steps: how often.
        save_total_limit: how many of this run's checkpoints to keep; the best is one of them.
        save_only_model: whether checkpoints hold no more than the model; training can not go on from them.
        load_best_model_at_end: whether to end with the best checkpoint's weights.
        metric_for_best_model: "loss" by default, or a name from compute_metrics.
        greater_is_better: by default unless the metric's name ends in "loss".
        resume_from_checkpoint: a folder, or True for the last complete checkpoint.
        push_to_hub: whether to upload the model, by `hub_strategy` "every_save" or "end", under `hub_model_id`.
        parallel: "ddp", a whole model a process, or "fsdp", each with a part of every layer.
        tensor_parallel_size: processes that share each matrix product.
        ddp_find_unused_parameters: whether some steps leave parameters out.
        ddp_timeout: seconds after which a process that waits for another gives up.
    """

    output_dir: str = "trainer_output"
    per_device_train_batch_size: int = 8
    per_device_eval_batch_size: int = 8
    per_device_train_tokens: int | None = None
    gradient_accumulation_steps: int = 1
    num_train_epochs: float = 3.0
    max_steps: int = -1
    learning_rate: float = 5e-5
    lr_scheduler_type: str = "linear"
    lr_scheduler_kwargs: dict[str, Any] | None = None
    warmup_steps: float = 0
    optim: str = "adamw_torch"
    weight_decay: float = 0.0
    adam_beta1: float = 0.9
    adam_beta2: float = 0.999
    adam_epsilon: float = 1e-8
    max_grad_norm: float = 1.0
    layerwise_lr_decay: float = 1.0
    label_smoothing_factor: float = 0.0
    class_weights: Sequence[float] | None = None
    neftune_noise_alpha: float | None = None
    train_sampling_strategy: str = "random"
    length_column_name: str = "length"
    seed: int = 42
    data_seed: int | None = None
    dataloader_num_workers: int = 0
    dataloader_drop_last: bool = False
    remove_unused_columns: bool = True
    label_names: Sequence[str] | None = None
    bf16: bool = False
    fp16: bool = False
    use_cpu: bool = False
    gradient_checkpointing: bool = False
    torch_compile: bool = False
    torch_compile_backend: str | None = None
    torch_compile_mode: str | None = None
    eval_strategy: str = "no"
    eval_steps: float | None = None
    eval_delay: float = 0
    eval_on_start: bool = False
    prediction_loss_only: bool = False
    logging_strategy: str = "steps"
    logging_steps: float = 500
    logging_first_step: bool = False
    disable_tqdm: bool | None = None
    save_strategy: str = "steps"
    save_steps: float = 500
    save_total_limit: int | None = None
    save_only_model: bool = False
    load_best_model_at_end: bool = False
    metric_for_best_model: str | None = None
    greater_is_better: bool | None = None
    resume_from_checkpoint: str | bool | None = None
    push_to_hub: bool = False
    hub_model_id: str | None = None
    hub_strategy: str = "every_save"
    hub_token: str | None = None
    hub_private_repo: bool | None = None
    parallel: str = "ddp"
    tensor_parallel_size: int = 1
    ddp_find_unused_parameters: bool | None = None
    ddp_timeout: float = 1800

    def __post_init__(self) -> None:
        """Check the values, and fill in those that follow from others."""
        self.output_dir = os.fspath(self.output_dir)
        for name in ("eval_strategy", "logging_strategy", "save_strategy", "lr_scheduler_type", "optim"):
            setattr(self, name, getattr(getattr(self, name), "value", getattr(self, name)))  # an enumeration's
        self.eval_steps = self.logging_steps if self.eval_steps is None else self.eval_steps
        faults = list(self.faults())
        if faults:
            said = f"{type(self).__name__}: {'; '.join(faults)}"
            raise InputError(said if said[-1] == "?" else f"{said}.")
        if self.load_best_model_at_end or self.save_strategy == "best":
            self.metric_for_best_model = self.metric_for_best_model or "loss"
        if self.metric_for_best_model and self.greater_is_better is None:
            self.greater_is_better = not self.metric_for_best_model.endswith("loss")

    def faults(self):
        """Yield what is impossible."""
        allowed = {
            "eval_strategy": STRATEGIES,
            "logging_strategy": STRATEGIES,
            "save_strategy": (*STRATEGIES, "best"),
            "optim": OPTIMIZERS,
            "train_sampling_strategy": SAMPLING,
            "hub_strategy": ("every_save", "end"),
            "parallel": ("ddp", "fsdp"),
        }
        for name, values in allowed.items():
            if (value := getattr(self, name)) not in values:
                expected = ", ".join(map(repr, values))
                yield f"{name} is {value!r}; expected one of {expected}{did_you_mean(str(value), values)}"
        if self.lr_scheduler_type in ("greedy", "reduce_lr_on_plateau") and self.eval_strategy == "no":
            yield (
                f"lr_scheduler_type is {self.lr_scheduler_type!r}, which follows a metric, but eval_strategy is 'no'; "
                "expected 'epoch' or 'steps'"
            )
        for name in ("per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"):
            if type(value := getattr(self, name)) is not int or value < 1:
                yield f"{name} is {value!r}; expected a whole number of at least 1"
        for name in ("logging_steps", "eval_steps", "save_steps"):
            if not isinstance(value := getattr(self, name), int | float) or value <= 0 or (value > 1 and value % 1):
                yield f"{name} is {value!r}; expected a number of steps, or a part of all steps below 1"
        for name in ("learning_rate", "weight_decay", "max_grad_norm", "warmup_steps", "num_train_epochs"):
            if not isinstance(value := getattr(self, name), int | float) or not 0 <= value < float("inf"):
                yield f"{name} is {value!r}; expected a number of at least 0"
        if self.save_total_limit is not None and self.save_total_limit < 1:
            yield f"save_total_limit is {self.save_total_limit}; expected at least 1, or None to keep all"
        if self.bf16 and self.fp16:
            yield "bf16 and fp16 are both asked for; expected one"
        if self.load_best_model_at_end and self.save_strategy != "best":
            yield from self._best_faults()

    def _best_faults(self):
        if self.eval_strategy == "no" or self.eval_strategy != self.save_strategy:
            yield (
                f"load_best_model_at_end needs to save when it evaluates: eval_strategy is {self.eval_strategy!r}, "
                f"save_strategy {self.save_strategy!r}; set both to 'epoch' or 'steps'"
            )
        elif self.save_strategy == "steps" and self.save_steps % (self.eval_steps or 1):
            yield (
                f"load_best_model_at_end needs save_steps to be a multiple of eval_steps; they are {self.save_steps} "
                f"and {self.eval_steps}"
            )

    @property
    def train_batch_size(self) -> int:
        """Rows that a process reads at once."""
        return self.per_device_train_batch_size

    @property
    def eval_batch_size(self) -> int:
        """Rows that a process reads at once when evaluating."""
        return self.per_device_eval_batch_size

    @property
    def world_size(self) -> int:
        """How many processes train together, as torchrun says."""
        return int(os.environ.get("WORLD_SIZE", 1))

    @property
    def process_index(self) -> int:
        """Which of them this is."""
        return int(os.environ.get("RANK", 0))

    @property
    def should_save(self) -> bool:
        """Whether this process is the one that writes files."""
        return self.process_index == 0

    @property
    def device(self) -> torch.device:
        """Where this process computes."""
        if self.use_cpu or not torch.cuda.is_available():
            return torch.device("cpu")
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))

    def get_warmup_steps(self, num_training_steps: int) -> int:
        """Return over how many of the steps the learning rate rises."""
        return in_steps(self.warmup_steps, num_training_steps)

    def to_dict(self) -> dict[str, Any]:
        """Return all values, but for secrets."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}  # type: ignore[arg-type]
        return values | ({"hub_token": "<hub_token>"} if self.hub_token else {})

    def to_json_string(self) -> str:
        """Return all values, but for secrets, as JSON."""
        return json.dumps(self.to_dict(), indent=2, default=str)


def in_steps(value: float, total: int) -> int:
    """Read a number of steps, which a float below 1 gives as a part of all."""
    import math

    return math.ceil(value * total) if 0 < value < 1 else int(value)
