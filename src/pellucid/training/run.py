"""`train`: from a task and a table to a folder with a model that runs, and a report of how good it is."""

import logging
import os
import random
import shutil
import warnings
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple

import torch

from ..errors import InputError, did_you_mean
from ..lora import LoraConfig
from ..model import Model
from ..pipelines import TASKS, find_task, pipeline
from .arguments import TrainingArguments
from .calibration import Calibration, calibrate, divide_logits, last_layer
from .callbacks import EarlyStoppingCallback, PrinterCallback
from .checkpoint import OWN, note_own, own_checkpoints
from .metrics import ConfusionMatrix, Metrics
from .recipes import RECIPES, Encoded, Example, Recipe
from .report import Report, imbalance, write_report
from .seeds import set_seed
from .tables import Row, read_table
from .trainer import Trainer

ADAPTER = "adapter"  # the folder of what LoRA learned, inside the result's
LORA_RATE = 2e-4  # the learning rate of LoRA, unless one is given
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
    negative: str | None = None,
    score: str | None = None,
    lora: int | None = None,
    resume: bool = False,
    **settings: Any,
) -> Trained:
    """Train a model for a task on a table, keep the best epoch, and write it with a report into a folder.

    Columns: text-classification has a text and a label; token-classification lists `tokens` and `tags` (or is a CoNLL
    file); text-generation has `text`, or `messages`, of which what the assistant says is learned; summarization and
    translation have a text and a target; question-answering has `question`, `context` and `answers`, as in SQuAD;
    embedding has an `anchor` and a `positive` that belong together, and perhaps a `negative` that does not belong to
    them, or a `score` from 0 to 1 that says how much they do.

    The probabilities of text-classification are calibrated on the held-out part if that has 100 texts or more.

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
        negative: the column of texts that do not belong to the others; by default found by its usual names.
        score: the column of scores; by default found by its usual names.
        lora: the rank of a change of low rank in all linear maps, which learns instead of the weights (a new head
            learns whole); `output_dir` has the merged model, and in `adapter` the change, in PEFT's files. Its usual
            `learning_rate` is 2e-4.
        resume: whether to go on from the last checkpoint of a training that was stopped, given all else as then.
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
    args = _arguments(folder, recipe, settings, lora=lora, resume=resume)
    given = {"text": text, "target": target, "negative": negative, "score": score}
    parts = _parts(recipe, data, validation, given, validation_share, args.seed)
    labels = recipe.labels([example for examples in parts.values() for example in examples])
    base = model or str(kind.checkpoint)
    inside = recipe.beside(base)
    tokenizer, config = _tokenizer(base, labels, inside)
    limit = _limit(max_length, config, tokenizer, recipe.limit)
    encoded = {part: recipe.encode(tokenizer, examples, limit, config) for part, examples in parts.items()}
    _check_rows(encoded, limit)
    counts = {part: recipe.balance(examples) for part, examples in parts.items()}
    if recipe.is_calibrated and (fault := imbalance(sum(counts.values(), Counter()))):
        warnings.warn(fault, stacklevel=2)
    network = _model(kind.auto, base, labels, recipe, tokenizer, args.seed, inside)
    if lora is not None:
        _add_lora(network, recipe, lora, base)
    trainer = recipe.trainer(
        network,
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
    metrics, confusion, calibration = _calibrated(trainer) if recipe.is_calibrated else _measured(trainer, bool(labels))
    _save(trainer, recipe, folder)
    if not trainer.is_world_process_zero():
        return Trained(folder, metrics)
    _remove_checkpoints(args.output_dir)
    metrics |= recipe.score(pipeline(recipe.task, folder), parts["held out"], metrics)
    report = Report(
        task=recipe.task,
        base=os.fspath(base) if not os.path.isdir(base) else Path(base).name,
        folder=folder.name,
        sizes={part: len(examples) for part, examples in parts.items()},
        lengths=[length for part in encoded.values() for length in part.lengths],
        limit=limit,
        classes={label: {part: count[label] for part, count in counts.items()} for label in labels},
        settings={setting: getattr(args, setting) for setting in REPORTED} | {"max_length": limit, "lora": lora},
        history=trainer.state.log_history,
        metrics=metrics,
        confusion=confusion,
        calibration=calibration,
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
    """Hold out a part of examples: of each class alike, and all that share a context or an anchor, or none of them.

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
        classes[example.get("label")][example.get("context", example.get("anchor", i))].append(i)
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


def _arguments(
    folder: Path, recipe: Recipe, settings: Mapping[str, Any], *, lora: int | None, resume: bool
) -> TrainingArguments:
    values: dict[str, Any] = {**DEFAULTS, "metric_for_best_model": recipe.best}
    values |= {"learning_rate": LORA_RATE} if lora is not None else {}
    place = f"{folder}-checkpoints"
    if resume and not own_checkpoints(place):
        raise InputError(f"There is no checkpoint in {place} to go on from; leave out resume to begin anew.")
    if resume:
        note_own(Path(place), own_checkpoints(place))  # which a kill may have prevented
    args = TrainingArguments(place, **{**values, **settings, **({"resume_from_checkpoint": True} if resume else {})})
    if lora is not None:
        LoraConfig(r=lora)  # which checks the rank
        if args.parallel != "ddp" or args.tensor_parallel_size > 1:
            raise InputError("lora is for whole models on each process; leave out parallel and tensor_parallel_size.")
    return args


def _tokenizer(base: Any, labels: list[str], inside: Mapping[str, Any]) -> tuple[Any, Any]:
    """Load the tokenizer, which must be able to pad, and the config with the labels."""
    from ..auto import AutoConfig
    from ..tokenizer import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(base, **inside)
    if tokenizer.pad_token_id is None and tokenizer.eos_token is not None:
        tokenizer = AutoTokenizer.from_pretrained(base, pad_token=tokenizer.eos_token, **inside)
    named = {"id2label": dict(enumerate(labels))} if labels else {}
    return tokenizer, AutoConfig.from_pretrained(base, **named, **inside)


def _model(
    auto_class: str, base: Any, labels: list[str], recipe: Recipe, tokenizer: Any, seed: int, inside: Mapping[str, Any]
) -> Any:
    """Load the model; a new head is drawn from the seed, and nobody need be told to train it."""
    from .. import auto, loading

    set_seed(seed)
    options: dict[str, Any] = {"id2label": dict(enumerate(labels))} if labels else {}
    options |= {"ignore_mismatched_sizes": True} if recipe.new_head else {}
    loading.log.addFilter(_is_no_news)
    try:
        model = getattr(auto, auto_class).from_pretrained(base, dtype="float32", **options, **inside)
    finally:
        loading.log.removeFilter(_is_no_news)
    if labels and [*auto.AutoConfig.from_pretrained(base).id2label.values()] != labels:
        _draw_head(model)
    if getattr(model.config, "pad_token_id", None) is None:
        model.config.pad_token_id = tokenizer.pad_token_id
    return model


def _add_lora(model: Model, recipe: Recipe, rank: int, base: Any) -> None:
    """Put LoRA beside all linear maps of the backbone; a head that may be new learns whole."""
    heads = [name for name, part in _head(model) if any(True for _ in part.parameters())] if recipe.new_head else None
    model.add_adapter(
        LoraConfig(
            r=rank,
            lora_alpha=2 * rank,
            target_modules="all-linear",
            modules_to_save=heads,
            task_type=recipe.head,
            base_model_name_or_path=os.fspath(base),
        )
    )


def _head(model: Model) -> list[tuple[str, Any]]:
    """Return the parts of a model that are not its backbone."""
    return [(n, part) for n, part in model.named_children() if n != model.prefix and model.base_model is not model]


def _draw_head(model: Model) -> None:
    """Draw the head anew: what it has learned are other labels, though there may be as many."""
    for _, part in _head(model):
        for module in part.modules():
            model.init_module(module)


def _is_no_news(record: logging.LogRecord) -> bool:
    return "new and untrained" not in record.getMessage()


def _limit(max_length: int | None, config: Any, tokenizer: Any, told: int | None) -> int:
    limits = (config.max_tokens, tokenizer.model_max_length, told)
    reads = min((n for n in limits if n is not None), default=None)
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
        for note in (Path(place) / OWN, *Path(place).glob(f".{OWN}.*")):  # and what a killed writer left
            note.unlink(missing_ok=True)
        os.rmdir(place)


# --- results ----------------------------------------------------------------------------------------------------------


def _measured(trainer: Trainer, has_classes: bool) -> tuple[dict[str, Any], list[list[int]], Calibration | None]:
    """Measure the held-out part, and count which class was taken for which."""
    if has_classes:
        trainer.compute_metrics = Metrics(trainer.compute_metrics, ConfusionMatrix())
    found: dict[str, Any] = trainer.evaluate()
    return _numbers(found), found.get("eval_confusion_matrix", []), None


def _calibrated(trainer: Trainer) -> tuple[dict[str, Any], list[list[int]], Calibration | None]:
    """Measure the held-out part; and divide the last layer by the temperature that fits the probabilities to it."""
    trainer.preprocess_logits_for_metrics = lambda parts, labels: parts[0] if isinstance(parts, tuple) else parts
    found = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
    logits, labels = torch.from_numpy(found.predictions), torch.from_numpy(found.label_ids)
    calibration, layer = calibrate(logits, labels), last_layer(trainer.model)
    temperature = calibration.temperature
    if temperature != 1 and layer is not None:
        divide_logits(layer, temperature)
        again = trainer.predict(trainer.eval_dataset, metric_key_prefix="eval")
        if torch.allclose(torch.from_numpy(again.predictions), logits / temperature, rtol=1e-3, atol=1e-3):
            found, calibration = again, calibration._replace(is_applied=True)
        else:  # the layer is not what gives the logits
            divide_logits(layer, 1 / temperature)
    confusion = ConfusionMatrix()
    confusion.update(logits, labels)
    return _numbers(found.metrics) | calibration.metrics(), confusion.compute()["confusion_matrix"], calibration


def _numbers(metrics: Mapping[str, Any]) -> dict[str, Any]:
    """Return metrics that are numbers, less those that say how long it took."""
    clocks = ("runtime", "samples_per_second", "steps_per_second", "epoch")
    short = {name.removeprefix("eval_"): value for name, value in metrics.items()}
    return {name: v for name, v in short.items() if isinstance(v, int | float) and name not in clocks}


def _save(trainer: Trainer, recipe: Recipe, folder: Path) -> None:
    """Write the model, an adapter merged into it and beside it; all processes must call this."""
    model = trainer.model
    adapted = bool(model.switch.configs)
    if adapted:
        model.merge_adapter()
    trainer.save_model(folder)
    if adapted:
        model.unmerge_adapter()
    if trainer.is_world_process_zero():
        recipe.save(folder)
        if adapted:
            model.save_adapter(folder / ADAPTER)


def _trainable() -> str:
    return f"These can: {', '.join(RECIPES)}."
