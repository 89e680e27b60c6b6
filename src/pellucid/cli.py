"""The `pellucid` command.

Exit codes: 0 on success; 1 when a model or an input can not be used (stderr says why); 2 for a wrong command line.
"""

import json
import sys
from collections.abc import Iterator
from contextlib import suppress
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
    try:
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
    except PellucidError as error:
        typer.echo(f"error: {error}", err=True)
        raise typer.Exit(1) from None


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
