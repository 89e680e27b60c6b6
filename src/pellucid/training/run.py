"""`train`: from a task and a table to a folder with a model that runs, and a report of how good it is."""

import logging
import os
import random
import shutil
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError, did_you_mean
from ..model import Model
from ..pipelines import TASKS, find_task, pipeline
from .arguments import TrainingArguments
from .callbacks import EarlyStoppingCallback, PrinterCallback
from .checkpoint import OWN, own_checkpoints
from .metrics import ConfusionMatrix, Metrics
from .recipes import RECIPES, Encoded, Example, Recipe
from .report import Report, write_report
from .seeds import set_seed
from .tables import Row, read_table
from .trainer import Trainer

USUAL_LIMIT = 512  # tokens of a row, where the model reads more
DEFAULTS: dict[str, Any] = {
    "per_device_train_batch_size": 16,
    "per_device_eval_batch_size": 32,
    "warmup_steps": 0.1,
    "train_sampling_strategy": "group_by_length",
    "eval_strategy": "epoch",
    "save_strategy": "epoch",
    "save_total_limit": 1,
    "load_best_model_at_end": True,
    "logging_steps": 0.02,
}
REPORTED = ("num_train_epochs", "max_steps", "per_device_train_batch_size", "learning_rate", "weight_decay", "seed")


class Trained(NamedTuple):
    """What `train` returns.

    Attributes:
        folder: of the model, for `pipeline(task, folder)`; in it README.md and report.html.
        metrics: of the held-out part, by name.
    """

    folder: Path
    metrics: dict[str, Any]


def train(
    task: str,
    data: "str | os.PathLike | Iterable[Row]",
    *,
    model: "str | os.PathLike | None" = None,
    text: str | None = None,
    target: str | None = None,
    validation: "str | os.PathLike | Iterable[Row] | None" = None,
    validation_share: float = 0.1,
    output_dir: "str | os.PathLike" = "trained",
    max_length: int | None = None,
    patience: int = 2,
    **settings: Any,
) -> Trained:
    """Train a model for a task on a table, keep the best epoch, and write it with a report into a folder.

    Columns: text-classification has a text and a label; token-classification lists `tokens` and `tags` (or is a CoNLL
    file); text-generation has `text`, or `messages`, of which what the assistant says is learned; summarization and
    translation have a text and a target; question-answering has `question`, `context` and `answers`, as in SQuAD.

    Args:
        task: its name, such as `"text-classification"` or `"translation_en_to_fr"`.
        data: a CSV, TSV, JSON, JSON Lines, Parquet, CoNLL or text file; or dictionaries, one a row.
        model: a folder or a name on the Hub; by default the task's own.
        text: the column to read; by default found by its usual names.
        target: the column to learn; by default found by its usual names.
        validation: the same as `data`, to measure with; by default a part of `data` is held out.
        validation_share: that part, from 0 to 1; of each class alike.
        output_dir: the folder to write; checkpoints lie beside it until training has ended.
        max_length: tokens of a row at most; by default what the model reads, up to 512.
        patience: after how many epochs that are no better training stops.
        settings: those of `TrainingArguments`, such as `num_train_epochs`, `learning_rate` and `seed`.

    Raises:
        InputError: if data or settings can not be used; before the model is loaded.
        ArgumentError: for a setting that does not exist.
        MissingPackageError: for Parquet without pyarrow.
        HubError: if the model can not be had.
    """
    kind = find_task(task)
    name = next(known for known, entry in TASKS.items() if entry is kind)
    if name not in RECIPES:
        raise InputError(f"{name} can not be trained from a table{did_you_mean(name, RECIPES)}. {_trainable()}")
    recipe = RECIPES[name](task if name == "translation" else name)
    folder = _output(output_dir, model)
    args = _arguments(folder, recipe, settings)
    parts = _parts(recipe, data, validation, {"text": text, "target": target}, validation_share, args.seed)
    labels = recipe.labels([example for examples in parts.values() for example in examples])
    base = model or str(kind.checkpoint)
    tokenizer, config = _tokenizer(base, labels)
    limit = _limit(max_length, config, tokenizer)
    encoded = {part: recipe.encode(tokenizer, examples, limit, config) for part, examples in parts.items()}
    _check_rows(encoded, limit)
    trainer = Trainer(
        _model(kind.auto, base, labels, recipe, tokenizer, args.seed),
        args,
        recipe.collator(tokenizer),
        encoded["training"].rows,
        encoded["held out"].rows,
        tokenizer,
        compute_metrics=recipe.metric(labels),
        callbacks=[EarlyStoppingCallback(patience)],
    )
    trainer.remove_callback(PrinterCallback)  # a program prints what it returns
    trainer.train()
    trainer.save_model(folder)
    metrics, confusion = _measured(trainer, recipe, bool(labels))
    if not trainer.is_world_process_zero():
        return Trained(folder, metrics)
    _remove_checkpoints(args.output_dir)
    metrics |= recipe.score(pipeline(recipe.task, folder), parts["held out"], metrics)
    counts = {part: recipe.balance(examples) for part, examples in parts.items()}
    report = Report(
        task=recipe.task,
        base=os.fspath(base) if not os.path.isdir(base) else Path(base).name,
        folder=folder.name,
        sizes={part: len(examples) for part, examples in parts.items()},
        lengths=[length for part in encoded.values() for length in part.lengths],
        limit=limit,
        classes={label: {part: count[label] for part, count in counts.items()} for label in labels},
        settings={setting: getattr(args, setting) for setting in REPORTED} | {"max_length": limit},
        history=trainer.state.log_history,
        metrics=metrics,
        confusion=confusion,
    )
    write_report(report, folder)
    return Trained(folder, metrics)


# --- data -------------------------------------------------------------------------------------------------------------


def _parts(
    recipe: Recipe, data: Any, validation: Any, given: Mapping[str, str | None], share: float, seed: int
) -> dict[str, list[Example]]:
    """Read the examples to learn from, and those to measure with."""
    rows = read_table(data, tagged=recipe.tagged)
    named = recipe.named(rows, given)
    examples = recipe.examples(rows, named)
    labels = recipe.labels(examples)
    if validation is None:
        training, held = split(examples, share, seed)
        return {"training": training, "held out": held}
    rows = read_table(validation, tagged=recipe.tagged)
    held = recipe.examples(rows, recipe.named(rows, given))
    if strange := sorted(recipe.balance(held).keys() - set(labels)):
        raise InputError(
            f"validation has the label {strange[0]!r}, which the data has not{did_you_mean(strange[0], labels) or '.'} "
            "Correct it, or give examples of it to learn from."
        )
    return {"training": examples, "held out": held}


def split(examples: Sequence[Example], share: float, seed: int) -> tuple[list[Example], list[Example]]:
    """Hold out a part of examples: of each class alike, and all questions about a text or none.

    Args:
        examples: at least two.
        share: of those held out, from 0 to 1.
        seed: of the draw.

    Raises:
        InputError: if there are too few, of a class or at all, or the share is impossible.
    """
    if not 0 < share < 1:
        raise InputError(f"validation_share is {share!r}; expected a number between 0 and 1.")
    classes: defaultdict[Any, defaultdict[Any, list[int]]] = defaultdict(lambda: defaultdict(list))
    for i, example in enumerate(examples):
        classes[example.get("label")][example.get("context", i)].append(i)
    draw, held = random.Random(seed), set()
    once = [label for label, groups in classes.items() if len(groups) < 2]
    if once == [None]:
        raise InputError(
            f"{len(examples)} examples can not be split into a part to learn from and one to measure with; give more, "
            "or a set of its own as validation=."
        )
    if once:
        listed = ", ".join(map(repr, once[:8])) + (", ..." if len(once) > 8 else "")
        nearest = did_you_mean(str(once[0]), [str(label) for label in classes if label not in once])
        raise InputError(
            f"{len(once)} of {len(classes)} labels occur only once: {listed}{nearest or '.'} Give each at least two "
            "rows, or name the column of classes with target=."
        )
    for groups in classes.values():
        order = list(groups.values())
        draw.shuffle(order)
        held.update(i for group in order[: min(len(order) - 1, max(1, round(share * len(order))))] for i in group)
    parts = [[example for i, example in enumerate(examples) if (i in held) is out] for out in (False, True)]
    return parts[0], parts[1]


def _check_rows(encoded: Mapping[str, Encoded], limit: int) -> None:
    for part, content in encoded.items():
        if not content.rows:
            raise InputError(
                f"Nothing can be learned from the {part} examples: no row has a token to learn within {limit} tokens. "
                "Give more or longer texts, or a larger max_length."
            )


# --- model and settings -----------------------------------------------------------------------------------------------


def _output(output_dir: Any, model: Any) -> Path:
    folder = Path(output_dir)
    if model is not None and os.path.isdir(model) and folder.exists() and folder.samefile(model):
        raise InputError(f"output_dir is {folder}, the folder of the model itself; give another.")
    if folder.is_file():
        raise InputError(f"output_dir is {folder}, a file; give a folder.")
    if folder.is_dir() and any(folder.iterdir()) and not (folder / "training_args.json").exists():
        raise InputError(f"output_dir is {folder}, which has files that no training wrote; give a new folder.")
    return folder


def _arguments(folder: Path, recipe: Recipe, settings: Mapping[str, Any]) -> TrainingArguments:
    values: dict[str, Any] = {**DEFAULTS, "metric_for_best_model": recipe.best, **settings}
    return TrainingArguments(f"{folder}-checkpoints", **values)


def _tokenizer(base: Any, labels: list[str]) -> tuple[Any, Any]:
    """Load the tokenizer, which must be able to pad, and the config with the labels."""
    from ..auto import AutoConfig
    from ..tokenizer import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base)
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer = AutoTokenizer.from_pretrained(base, pad_token=tokenizer.eos_token)
    named = {"id2label": dict(enumerate(labels))} if labels else {}
    return tokenizer, AutoConfig.from_pretrained(base, **named)


def _model(auto_class: str, base: Any, labels: list[str], recipe: Recipe, tokenizer: Any, seed: int) -> Any:
    """Load the model; a new head is drawn from the seed, and nobody need be told to train it."""
    from .. import auto, loading

    set_seed(seed)
    options: dict[str, Any] = {"id2label": dict(enumerate(labels))} if labels else {}
    options |= {"ignore_mismatched_sizes": True} if recipe.new_head else {}
    loading.log.addFilter(_is_no_news)
    try:
        model = getattr(auto, auto_class).from_pretrained(base, dtype="float32", **options)
    finally:
        loading.log.removeFilter(_is_no_news)
    if labels and [*auto.AutoConfig.from_pretrained(base).id2label.values()] != labels:
        _draw_head(model)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model


def _draw_head(model: Model) -> None:
    """Draw the head anew: what it has learned are other labels, though there may be as many."""
    for name, part in model.named_children():
        if name != model.prefix and model.base_model is not model:
            for module in part.modules():
                model.init_module(module)


def _is_no_news(record: logging.LogRecord) -> bool:
    return "new and untrained" not in record.getMessage()


def _limit(max_length: int | None, config: Any, tokenizer: Any) -> int:
    reads = min((n for n in (config.max_tokens, tokenizer.model_max_length) if n is not None), default=None)
    if max_length is None:
        return min(USUAL_LIMIT, reads or USUAL_LIMIT)
    if type(max_length) is not int or max_length < 4 or (reads is not None and max_length > reads):
        raise InputError(f"max_length is {max_length!r}; expected a whole number from 4 to {reads or 'any'}.")
    return max_length


def _remove_checkpoints(place: str) -> None:
    """Remove a run's checkpoints, and their folder if nothing else is in it."""
    for path in own_checkpoints(place):
        shutil.rmtree(path, ignore_errors=True)
    with suppress(OSError):
        (Path(place) / OWN).unlink(missing_ok=True)
        os.rmdir(place)


# --- results ----------------------------------------------------------------------------------------------------------


def _measured(trainer: Trainer, recipe: Recipe, has_classes: bool) -> tuple[dict[str, Any], list[list[int]]]:
    """Measure the held-out part, and count which class was taken for which."""
    if has_classes:
        trainer.compute_metrics = Metrics(trainer.compute_metrics, ConfusionMatrix())
    found: dict[str, Any] = {name.removeprefix("eval_"): value for name, value in trainer.evaluate().items()}
    confusion = found.pop("confusion_matrix", [])
    clocks = ("runtime", "samples_per_second", "steps_per_second", "epoch")
    return {name: v for name, v in found.items() if isinstance(v, int | float) and name not in clocks}, confusion


def _trainable() -> str:
    return f"These can: {', '.join(RECIPES)}."
