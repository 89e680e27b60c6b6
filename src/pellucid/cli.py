"""The `pellucid` command.

Exit codes: 0 on success; 1 when a model or an input can not be used (stderr says why); 2 for a wrong command line.
"""

import json
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from . import __version__
from .errors import PellucidError

if TYPE_CHECKING:
    from .pipelines.base import Pipeline

app = typer.Typer(no_args_is_help=True, add_completion=False, pretty_exceptions_enable=False, rich_markup_mode=None)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"pellucid {__version__}")
        raise typer.Exit


@contextmanager
def errors_told() -> Iterator[None]:
    """End with a line on standard error instead of a traceback."""
    try:
        yield
    except PellucidError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Load, run, train and save any Transformer checkpoint."""


@app.command()
def run(
    task: Annotated[str, typer.Argument(help="A task, such as sentiment-analysis.")],
    text: Annotated[list[str] | None, typer.Argument(help="The texts; - reads one a line from standard input.")] = None,
    file: Annotated[Path | None, typer.Option(help="A file with one text a line.")] = None,
    model: Annotated[
        str | None, typer.Option(help="A folder or a name on the Hub; pellucid/sentiment comes with the package.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="Where to run: cpu, cuda:0, ...")] = None,
    top_k: Annotated[int | None, typer.Option(help="How many answers a text.")] = None,
    option: Annotated[
        list[str] | None,
        typer.Option(help="An option of the task, name=value, with the value as JSON or text; may be repeated."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value a text.")] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show the three steps: tokens and ids, logits, answers.")
    ] = False,
) -> None:
    """Run a task on texts and print its answers: one a line, its values between tabs.

    For several texts, each line ends with the text. A text that is a JSON object is an input of several parts, such as
    '{"question": "...", "context": "..."}'; what all texts share can be an option: --option context="...".
    """
    if (text is None) == (file is None):
        raise typer.BadParameter("give texts, or - for standard input, or --file; one of them", param_hint="TEXT")
    if trace and as_json:
        raise typer.BadParameter("--trace and --json exclude each other", param_hint="--trace")
    with errors_told():
        from .pipelines import pipeline

        pipe = pipeline(task, model, device=device)
        options = _options(option or []) | ({} if top_k is None else {"top_k": top_k})
        if trace:
            typer.echo(str(pipe.trace([_item(line, pipe) for line in _texts(text, file)], **options)))
            return
        asked: list[str] = []
        single = file is None and text is not None and len(text) == 1 and text != ["-"]
        for answer in pipe(_remember(_texts(text, file), pipe, asked), **options):
            line = asked.pop(0)
            if as_json:
                typer.echo(json.dumps(answer, ensure_ascii=False, default=lambda tensor: tensor.tolist()))
            else:
                for row in _rows(answer):
                    typer.echo("\t".join(row if single else [*row, line]))


@app.command()
def chat(
    model: Annotated[str, typer.Argument(help="A folder or a name on the Hub.")],
    system: Annotated[str | None, typer.Option(help="How the model should behave.")] = None,
    max_new_tokens: Annotated[int, typer.Option(help="How many tokens an answer has at most.")] = 1024,
    temperature: Annotated[float | None, typer.Option(help="Below 1 for safer words; 0 for the likeliest.")] = None,
    top_k: Annotated[int | None, typer.Option(help="Draw among so many of the likeliest tokens.")] = None,
    top_p: Annotated[float | None, typer.Option(help="Draw among the likeliest of this probability together.")] = None,
    repetition_penalty: Annotated[float | None, typer.Option(help="Above 1 to repeat less.")] = None,
    seed: Annotated[int | None, typer.Option(help="Of the random numbers, for the same answers again.")] = None,
    device: Annotated[str | None, typer.Option(help="Where to run: cpu, cuda:0, ...")] = None,
    dtype: Annotated[str, typer.Option(help="Of the parameters: float32, bfloat16, ...")] = "auto",
    raw: Annotated[bool, typer.Option("--raw", help="Go on with the text instead of answering.")] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Another setting, name=value, with the value as JSON or text; may be repeated."),
    ] = None,
) -> None:
    """Talk to a model, at a terminal or through a pipe of one message a line; /help shows more."""
    given = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "repetition_penalty": repetition_penalty}
    given |= {"max_new_tokens": max_new_tokens, "seed": seed}
    options = {name: value for name, value in given.items() if value is not None} | _options(option or [])
    terminal = sys.stdin.isatty()
    with errors_told():
        from .console import Conversation, from_pipe, from_terminal, talk
        from .pipelines import pipeline

        pipe: Any = pipeline("text-generation", model, device=device, dtype=dtype, **options)
        conversation = Conversation(pipe, system=system, raw=raw)
        if terminal:
            typer.echo(f"{model} listens. /help shows the commands; Ctrl-D leaves.")
        talk(conversation, from_terminal() if terminal else from_pipe, terminal=terminal)


@app.command()
def convert(
    source: Annotated[str, typer.Argument(help="A .gguf file, a folder, or a name on the Hub.")],
    target: Annotated[Path, typer.Argument(help="The folder to write.")],
    dtype: Annotated[
        str, typer.Option(help="Of the weights: float32, bfloat16, ...; by default as they are.")
    ] = "auto",
    gguf_file: Annotated[str | None, typer.Option(help="Which GGUF file of the source.")] = None,
) -> None:
    """Write a checkpoint, from GGUF or .bin files, as a folder of safetensors."""
    with errors_told():
        from .convert import convert as write

        for name in write(source, target, dtype=dtype, **({} if gguf_file is None else {"gguf_file": gguf_file})):
            typer.echo(str(target / name))


@app.command()
def train(
    task: Annotated[str, typer.Argument(help="A task, such as text-classification or translation_en_to_fr.")],
    data: Annotated[Path, typer.Argument(help="A CSV, TSV, JSON, JSON Lines, Parquet, CoNLL or text file.")],
    model: Annotated[str | None, typer.Option(help="A folder or a name on the Hub to begin with.")] = None,
    text: Annotated[str | None, typer.Option(help="The column to read.")] = None,
    target: Annotated[str | None, typer.Option(help="The column to learn.")] = None,
    negative: Annotated[str | None, typer.Option(help="For embedding: the column of texts that do not belong.")] = None,
    score: Annotated[str | None, typer.Option(help="For embedding: the column of scores from 0 to 1.")] = None,
    validation: Annotated[Path | None, typer.Option(help="A file to measure with; a tenth of DATA otherwise.")] = None,
    output: Annotated[Path, typer.Option(help="The folder to write.")] = Path("trained"),
    epochs: Annotated[float, typer.Option(help="How often to go through the data at most.")] = 3,
    batch_size: Annotated[int, typer.Option(help="Rows a step.")] = 16,
    learning_rate: Annotated[
        float | None, typer.Option(help="The highest; 5e-5 if none is given, 2e-4 with --lora.")
    ] = None,
    max_length: Annotated[int | None, typer.Option(help="Tokens of a row at most.")] = None,
    patience: Annotated[int, typer.Option(help="Stop after so many epochs that are no better.")] = 2,
    seed: Annotated[int, typer.Option(help="Of all that is drawn.")] = 42,
    lora: Annotated[
        int | None,
        typer.Option(help="Train a change of this rank, such as 8, of all linear maps instead of the weights (LoRA)."),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on with a training that was stopped, from its last checkpoint.")
    ] = False,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Another setting, name=value, with the value as JSON or text; may be repeated."),
    ] = None,
) -> None:
    """Train a model on a table, keep the best epoch, and write it with a report into a folder."""
    settings = {"num_train_epochs": epochs, "per_device_train_batch_size": batch_size}
    settings |= {"seed": seed} | ({} if learning_rate is None else {"learning_rate": learning_rate})
    settings |= _options(option or [])
    columns = {"text": text, "target": target, "negative": negative, "score": score, "validation": validation}
    with errors_told():
        from .training.run import train as fit

        with warnings.catch_warnings():
            warnings.showwarning = lambda message, *place: typer.echo(f"warning: {message}", err=True)
            result = fit(
                task,
                data,
                model=model,
                output_dir=output,
                max_length=max_length,
                patience=patience,
                lora=lora,
                resume=resume,
                **columns,
                **settings,
            )
    for name, value in result.metrics.items():
        typer.echo(f"{name}\t{value:.4f}" if isinstance(value, float) else f"{name}\t{value}")
    typer.echo(f"folder\t{result.folder}")


def _texts(text: list[str] | None, file: Path | None) -> Iterator[str]:
    """Yield the texts, one a line where they come from a stream."""
    if file is not None:
        try:
            with file.open(encoding="utf-8") as lines:
                yield from (line.rstrip("\r\n") for line in lines)
        except (OSError, UnicodeDecodeError) as error:
            raise typer.BadParameter(f"{file} can not be read: {error}", param_hint="--file") from None
    elif text == ["-"]:
        yield from (line.rstrip("\r\n") for line in sys.stdin)
    else:
        yield from text or []


def _item(text: str, pipe: "Pipeline") -> Any:
    """Read an input of several parts, which is written as a JSON object; anything else is a text."""
    if text.startswith("{"):
        with suppress(ValueError):
            parts = json.loads(text)
            return parts if pipe.is_one(parts, pipe.defaults) else text
    return text


def _remember(texts: Iterator[str], pipe: "Pipeline", asked: list[str]) -> Iterator[Any]:
    for text in texts:
        asked.append(text)
        yield _item(text, pipe)


def _options(given: list[str]) -> dict[str, Any]:
    """Read options of the form name=value; the value is JSON where it can be read so."""
    options: dict[str, Any] = {}
    for pair in given:
        name, equals, value = pair.partition("=")
        if not equals:
            raise typer.BadParameter(f"{pair!r} has no '='; write name=value", param_hint="--option")
        options[name] = value
        with suppress(ValueError):
            options[name] = json.loads(value)
    return options


def _rows(answer: Any) -> Iterator[list[str]]:
    """Yield the lines of an answer, each as its cells."""
    if hasattr(answer, "tolist"):
        answer = answer.tolist()
    if isinstance(answer, dict) and {"labels", "scores"} <= answer.keys():  # of zero-shot classification
        answer = [list(pair) for pair in zip(answer["labels"], answer["scores"], strict=True)]
    elif isinstance(answer, dict) and answer.keys() != {"score"} and all(isinstance(x, float) for x in answer.values()):
        answer = [list(pair) for pair in answer.items()]  # words and weights of a sparse embedding
    elif isinstance(answer, dict):
        answer = list(answer.values())
    if any(isinstance(part, dict | list) for part in answer):
        for part in answer:
            yield from _rows(part)
    elif answer:
        yield [f"{x:.4f}" if isinstance(x, float) else " ".join(str(x).split()) for x in answer]


if __name__ == "__main__":
    app()
