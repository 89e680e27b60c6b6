"""The table of tasks, and `pipeline`: a task and a model in, a callable out."""

import os
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, ConfigError, InputError, did_you_mean

if TYPE_CHECKING:
    import torch

    from ..config import Config
    from ..model import Model
    from ..tokenizer import Tokenizer
    from .base import Pipeline


@dataclass(frozen=True)
class Task:
    """Where a task is implemented and what it runs by default."""

    file: str
    pipeline: str
    auto: str
    checkpoint: str


TASKS = {
    "text-classification": Task(
        "text_classification",
        "TextClassificationPipeline",
        "AutoModelForSequenceClassification",
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
    ),
}
ALIASES = {"sentiment-analysis": "text-classification"}


def pipeline(
    task: str | None = None,
    model: "str | os.PathLike | Model | None" = None,
    config: "str | os.PathLike | Config | None" = None,
    tokenizer: "str | os.PathLike | Tokenizer | None" = None,
    *,
    device: "str | int | torch.device | None" = None,
    dtype: "str | torch.dtype" = "auto",
    **options: Any,
) -> "Pipeline":
    """Build the pipeline of a task.

    Args:
        task: its name, such as `"sentiment-analysis"`; by default what the model's head is for.
        model: a folder, a name on the Hub, or a loaded model; by default the task's own.
        config: instead of the model's own.
        tokenizer: instead of the one beside the model; needed when `model` is a loaded model.
        device: where to run: -1 or `"cpu"`, the number of a GPU, or a torch device.
        dtype: of the parameters; `"auto"` for what the checkpoint says.
        options: those of the Hub (`revision`, `token`, `cache_dir`, ...), `model_kwargs` (a dictionary of options of
            `Model.from_pretrained`), and those of the task, as defaults for every call.

    Raises:
        InputError: for an unknown task, or a model that comes without a tokenizer.
        HubError: if the model can not be had.
    """
    from .. import auto
    from ..config import Config
    from ..hub import HubOptions
    from ..model import Model, read_device
    from ..tokenizer import AutoTokenizer, Tokenizer

    dtype, device = options.pop("torch_dtype", dtype), options.pop("device_map", device)
    hub_names = set(options)
    hub = HubOptions.take(taken := dict(options))
    hub_options = {name: options.pop(name) for name in hub_names - taken.keys()}
    model_options = options.pop("model_kwargs", None) or {}
    if isinstance(config, str | os.PathLike):
        config = auto.AutoConfig.from_pretrained(config, **hub_options)
    if task is None:
        task = task_of(model, config, hub)
    found = find_task(task)
    if model is None:
        model = found.checkpoint
    if tokenizer is None:
        if isinstance(model, Model):
            raise InputError(
                "A loaded model comes without its tokenizer; write pipeline(task, model=model, tokenizer=tokenizer)."
            )
        tokenizer = model
    if not isinstance(tokenizer, Tokenizer):
        tokenizer = AutoTokenizer.from_pretrained(tokenizer, **hub_options)
    if not isinstance(model, Model):
        loader = getattr(auto, found.auto)
        if config is not None and not isinstance(config, Config):
            raise InputError(f"config is a {type(config).__name__}; expected a Config or a name.")
        model = loader.from_pretrained(model, config=config, dtype=dtype, device=device, **hub_options, **model_options)
    elif device is not None:
        model = model.to(read_device(device))
    return getattr(import_module(f".{found.file}", __name__), found.pipeline)(model, tokenizer, **options)


def find_task(task: str) -> Task:
    """Return a task by its name or alias.

    Raises:
        InputError: with the nearest name and all names; it is also a KeyError in the original.
    """
    if not isinstance(task, str):
        raise InputError(f"task is a {type(task).__name__}; expected a name: {', '.join([*TASKS, *ALIASES])}.")
    name = ALIASES.get(task, task)
    if name not in TASKS:
        names = [*TASKS, *ALIASES]
        raise InputError(
            f"There is no task {task!r}{did_you_mean(task, names)}. There are: {', '.join(sorted(names))}."
        )
    return TASKS[name]


def task_of(model: Any, config: Any, hub: Any) -> str:
    """Return the task that a model's head is for.

    Raises:
        ArgumentError: when there is no model to tell.
        ConfigError: when its head belongs to no task.
    """
    from .. import auto
    from ..hub import locate
    from ..model import Model

    if model is None:
        raise ArgumentError("pipeline() needs a task or a model: pipeline('sentiment-analysis').")
    if isinstance(model, Model):
        classes = [type(model).__name__]
    elif config is not None:
        classes = config.architectures or []
    else:
        with locate(model, hub, want="config") as folder:
            classes = auto.read_config(folder).architectures or []
    for name, task in TASKS.items():
        if any(cls.endswith(suffix) for cls in classes for suffix in getattr(auto, task.auto).suffixes):
            return name
    raise ConfigError(
        f"{model} is a {', '.join(classes) or 'model of unknown class'}, which no task runs; name the task."
    )
