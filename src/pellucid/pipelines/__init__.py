"""The table of tasks, and `pipeline`: a task and a model in, a callable out."""

import os
import re
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from ..errors import ArgumentError, ConfigError, InputError, TokenizerError, WeightsError, did_you_mean

if TYPE_CHECKING:
    import torch

    from ..config import Config
    from ..hub import HubOptions
    from ..model import Model
    from ..tokenizer import Tokenizer
    from .base import Pipeline
    from .bridge import Bridge


@dataclass(frozen=True)
class Task:
    """Where a task is implemented and what it runs by default.

    Attributes:
        file: in this folder.
        pipeline: the class in it.
        auto: the class that loads its models.
        checkpoint: the model by default; None where no small one is the usual choice.
    """

    file: str
    pipeline: str
    auto: str
    checkpoint: str | None

    @property
    def heads(self) -> tuple[str, ...]:
        """The ends of the names of the classes that have its head."""
        from .. import auto

        return getattr(auto, self.auto).suffixes


# Where several tasks run a kind of model, the first is what `pipeline(model=...)` takes.
TASKS = {
    "feature-extraction": Task(
        "feature_extraction", "FeatureExtractionPipeline", "AutoModel", "distilbert/distilbert-base-cased"
    ),
    "fill-mask": Task("fill_mask", "FillMaskPipeline", "AutoModelForMaskedLM", "distilbert/distilroberta-base"),
    "question-answering": Task(
        "question_answering",
        "QuestionAnsweringPipeline",
        "AutoModelForQuestionAnswering",
        "distilbert/distilbert-base-cased-distilled-squad",
    ),
    "text-classification": Task(
        "text_classification",
        "TextClassificationPipeline",
        "AutoModelForSequenceClassification",
        "distilbert/distilbert-base-uncased-finetuned-sst-2-english",
    ),
    "text-generation": Task(
        "text_generation", "TextGenerationPipeline", "AutoModelForCausalLM", "openai-community/gpt2"
    ),
    "text2text-generation": Task(
        "text2text_generation", "Text2TextGenerationPipeline", "AutoModelForSeq2SeqLM", "google-t5/t5-small"
    ),
    "summarization": Task(
        "text2text_generation", "SummarizationPipeline", "AutoModelForSeq2SeqLM", "sshleifer/distilbart-cnn-12-6"
    ),
    "translation": Task("text2text_generation", "TranslationPipeline", "AutoModelForSeq2SeqLM", "google-t5/t5-small"),
    "token-classification": Task(
        "token_classification",
        "TokenClassificationPipeline",
        "AutoModelForTokenClassification",
        "dbmdz/bert-large-cased-finetuned-conll03-english",
    ),
    "multiple-choice": Task("multiple_choice", "MultipleChoicePipeline", "AutoModelForMultipleChoice", None),
    "document-question-answering": Task(
        "document_question_answering",
        "DocumentQuestionAnsweringPipeline",
        "AutoModelForQuestionAnswering",
        "impira/layoutlm-document-qa",
    ),
    "embedding": Task("embedding", "EmbeddingPipeline", "AutoModel", "sentence-transformers/all-MiniLM-L6-v2"),
    "sparse-embedding": Task(
        "sparse_embedding", "SparseEmbeddingPipeline", "AutoModelForMaskedLM", "prithivida/Splade_PP_en_v1"
    ),
    "text-ranking": Task(
        "text_ranking",
        "TextRankingPipeline",
        "AutoModelForSequenceClassification",
        "cross-encoder/ms-marco-MiniLM-L6-v2",
    ),
    "zero-shot-classification": Task(
        "zero_shot_classification",
        "ZeroShotClassificationPipeline",
        "AutoModelForSequenceClassification",
        "typeform/distilbert-base-uncased-mnli",  # 0.3 GB; the original's, facebook/bart-large-mnli, has 1.6
    ),
}
ALIASES = {"ner": "token-classification", "sentiment-analysis": "text-classification"}


def pipeline(
    task: str | None = None,
    model: "str | os.PathLike | Model | Any | None" = None,
    config: "str | os.PathLike | Config | None" = None,
    tokenizer: "str | os.PathLike | Tokenizer | None" = None,
    *,
    model_type: str | None = None,
    device: "str | int | torch.device | None" = None,
    dtype: "str | torch.dtype | None" = None,
    quantize: str | None = None,
    compile: bool = False,
    framework: str | None = None,
    **options: Any,
) -> "Pipeline":
    """Build the pipeline of a task.

    Args:
        task: its name, such as `"sentiment-analysis"` or `"translation_en_to_fr"`; by default what the model's head is
            for.
        model: a folder, a name on the Hub, or a loaded model, of any framework; by default the task's own.
        config: instead of the model's own.
        tokenizer: instead of the one beside the model; needed when `model` is a loaded model.
        model_type: the architecture, such as `"bert"`, for a config.json that does not name its own.
        device: where to run: -1 or `"cpu"`, the number of a GPU, or a torch device.
        dtype: to compute in, such as `"bfloat16"`; by default what the checkpoint says; `"auto"` for bfloat16 on a CPU
            with instructions for it.
        quantize: `"int8"` for linear layers of 8 bits, on a CPU; all else is then computed as with `dtype="auto"`.
        compile: whether one text is written by a program that torch's compiler makes when it first writes, for half a
            minute or more; on a CPU, for models that write after a prompt.
        framework: `"flax"` or `"tf"` to run the model in one of these; by default PyTorch. A loaded model has its own.
        options: those of the Hub (`revision`, `token`, `cache_dir`, ...), `model_kwargs` (a dictionary of options of
            `Model.from_pretrained`), and those of the task, as defaults for every call.

    Raises:
        InputError: for an unknown task, a model with the head of another one, or one that comes without a tokenizer.
        ConfigError: if the architecture is unknown or has no such head.
        WeightsError: if the checkpoint's tensors are not those of the model with this head.
        TokenizerError: if the tokenizer has more tokens than the model.
        HubError: if the model can not be had.
    """
    from .. import auto
    from ..config import Config
    from ..hub import HubOptions
    from ..inference import fastest_dtype, prepare
    from ..model import Model, read_device
    from ..tokenizer import AutoTokenizer, Tokenizer
    from .bridge import Bridge, check_framework

    dtype, device = options.pop("torch_dtype", dtype), options.pop("device_map", device)
    framework = check_framework(framework, device=device, quantize=quantize, compile=compile or None)
    model = Bridge(model) if hasattr(model, "twin") else model
    hub_names = set(options)
    hub = HubOptions.take(taken := dict(options))
    hub_options = {name: options.pop(name) for name in hub_names - taken.keys()}
    model_options = options.pop("model_kwargs", None) or {}
    if isinstance(config, str | os.PathLike):
        config = auto.AutoConfig.from_pretrained(config, model_type=model_type, **hub_options)
    if task is None:
        task = task_of(model, config, hub)
    found = find_task(task)
    if model is None:
        if found.checkpoint is None:
            raise InputError(f"The task {task!r} has no usual model; name one: pipeline({task!r}, model=...).")
        model = found.checkpoint
    if tokenizer is None:
        if isinstance(model, Model | Bridge):
            raise InputError(
                "A loaded model comes without its tokenizer; write pipeline(task, model=model, tokenizer=tokenizer)."
            )
        tokenizer = model
    kind = getattr(import_module(f".{found.file}", __name__), found.pipeline)
    if not isinstance(model, Model | Bridge):
        beside, hub = kind.read_beside(model, hub)
        options |= beside
        hub_options |= {"subfolder": hub.subfolder} if hub.subfolder else {}
    if not isinstance(tokenizer, Tokenizer):
        known = auto.AutoConfig.for_model(model_type) if model_type and tokenizer is model else None
        tokenizer = AutoTokenizer.from_pretrained(tokenizer, config=known, **hub_options)  # type: ignore[arg-type]
    if not isinstance(model, Model | Bridge):
        if config is not None and not isinstance(config, Config):
            raise InputError(f"config is a {type(config).__name__}; expected a Config or a name.")
        if framework == "pt" and (dtype or (quantize and "auto")) == "auto" and read_device(device).type == "cpu":
            dtype = fastest_dtype()
        given = {"config": config, "model_type": model_type, "dtype": dtype or "auto"} | hub_options | model_options
        given |= {} if device is None else {"device": device}
        model = _load(model, found, hub, given, framework)
        model = prepare(model, quantize=quantize, compile=compile) if isinstance(model, Model) else Bridge(model)
    else:
        for name, value in {"quantize": quantize, "compile": compile or None}.items():
            if value is not None:
                raise InputError(f"{name}={value!r} is for a model's name; for this one, call prepare(model, ...).")
        _check_head(model, found, model_type)
        if device is not None and isinstance(model, Model):
            model = model.to(read_device(device))
    _check_vocabulary(model, tokenizer)
    if "task_name" in kind.options:
        options.setdefault("task_name", task)
    loaded: Any = model
    return kind(loaded, tokenizer, **options)


def _load(name: "str | os.PathLike", task: Task, hub: "HubOptions", options: dict[str, Any], framework: str) -> Any:
    """Load a checkpoint with the head of a task.

    Heads of different tasks may have tensors of the same names and shapes; so a checkpoint that says which head it has
    is believed, unless a new one is asked for.

    Raises:
        InputError: if it has the head of another task; with the tasks that it runs.
        ConfigError, WeightsError: as `from_pretrained`; with those tasks, where it does not say that it has the head.
    """
    from .. import auto

    classes = _classes_of(name, options["config"], hub)
    heads = _heads_of(classes)
    fitting = [known for known, other in TASKS.items() if heads & {*other.heads} or "Model" in other.heads]
    fits, about = task in map(TASKS.get, fitting), f"is a {' and '.join(classes)}, which runs: {', '.join(fitting)}."
    if heads - {"Model"} and not fits and not options.keys() & {"num_labels", "id2label", "ignore_mismatched_sizes"}:
        raise InputError(f"{name} has not the head that {task.pipeline} needs; it {about}")
    kind = getattr(auto, task.auto)
    try:
        return (kind if framework == "pt" else auto.auto_in(kind, framework)).from_pretrained(name, **options)
    except (ConfigError, WeightsError) as error:
        if fits or not classes:
            raise
        raise type(error)(f"{error}\n  It {about}") from error


def _check_head(model: "Model | Bridge", task: Task, model_type: str | None) -> None:
    """Refuse a model that does not have the head of a task.

    Raises:
        InputError: with the tasks that run it.
    """
    from .. import auto
    from ..model import Model

    def fits(task: Task) -> bool:  # the head that the task would load, and no other, such as one of beams over spans
        return issubclass(own, next((heads[suffix] for suffix in task.heads if suffix in heads), ()))

    own = type(model) if isinstance(model, Model) else model.twin
    values = {"model_type": model.config.model_type}
    heads = auto.heads_of(auto.architecture_of(values, own.__name__, model_type))
    if not fits(task):
        tasks = [name for name, other in TASKS.items() if fits(other)]
        raise InputError(
            f"A {own.__name__} has not the head that {task.pipeline} needs; load it with {task.auto}. "
            f"As it is, it runs: {', '.join(tasks) or 'no task'}."
        )


def _check_vocabulary(model: Any, tokenizer: "Tokenizer") -> None:
    """Refuse a tokenizer that belongs to another model; tokens added to its vocabulary raise where a text has one.

    Raises:
        TokenizerError: with both sizes.
    """
    size = getattr(model.config, "src_vocab_size", getattr(model.config, "vocab_size", None))
    if size is not None and tokenizer.vocab_size > size:
        raise TokenizerError(
            f"The tokenizer has {tokenizer.vocab_size} tokens, the model {size}; they do not belong together. "
            "Give the tokenizer that was saved with the model."
        )


def _classes_of(model: Any, config: "Config | None", hub: "HubOptions") -> list[str]:
    """Return the names of the classes that a checkpoint was saved from, as its config says."""
    from ..config import read_values
    from ..hub import locate

    if config is not None:
        named = config.architectures
    else:
        with locate(model, hub, want="config") as folder:
            named = read_values(folder).get("architectures")
    return [name for name in named if isinstance(name, str)] if isinstance(named, list) else []


def _heads_of(classes: list[str]) -> set[str]:
    """Return the ends of classes' names that say which head they have, of those that tasks know."""
    known = {head for task in TASKS.values() for head in task.heads}
    return {max((head for head in known if name.endswith(head)), key=len, default="") for name in classes} - {""}


def find_task(task: str) -> Task:
    """Return a task by its name or alias.

    Raises:
        InputError: with the nearest name and all names; it is also a KeyError in the original.
    """
    if not isinstance(task, str):
        raise InputError(f"task is a {type(task).__name__}; expected a name: {', '.join([*TASKS, *ALIASES])}.")
    name = "translation" if re.fullmatch(r"translation_\w+_to_\w+", task) else ALIASES.get(task, task)
    if name not in TASKS:
        names = [*TASKS, *ALIASES]
        raise InputError(
            f"There is no task {task!r}{did_you_mean(task, names) or '.'} There are: {', '.join(sorted(names))}."
        )
    return TASKS[name]


def task_of(model: Any, config: "Config | None", hub: "HubOptions") -> str:
    """Return the task that a model's head is for.

    Raises:
        ArgumentError: when there is no model to tell.
        ConfigError: when its head belongs to no task.
    """
    from ..model import Model

    if model is None:
        raise ArgumentError("pipeline() needs a task or a model: pipeline('sentiment-analysis').")
    from .bridge import Bridge

    if isinstance(model, Model | Bridge):
        classes = [(type(model) if isinstance(model, Model) else model.twin).__name__]
    else:
        classes = _classes_of(model, config, hub)
    heads = _heads_of(classes)
    for name, task in TASKS.items():
        if heads & {*task.heads}:
            return name
    raise ConfigError(
        f"{model} is a {', '.join(classes) or 'model of unknown class'}, which no task runs; name the task."
    )
