"""The `pellucid` command.

Exit codes: 0 on success; 1 when a model or an input can not be used (stderr says why); 2 for a wrong command line.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from . import __version__
from .errors import PellucidError

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
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON value a text.")] = False,
    trace: Annotated[
        bool, typer.Option("--trace", help="Show the three steps: tokens and ids, logits, answers.")
    ] = False,
) -> None:
    """Run a task on texts and print one answer a line: label, score and, for several texts, the text."""
    if (text is None) == (file is None):
        raise typer.BadParameter("give texts, or - for standard input, or --file; one of them", param_hint="TEXT")
    if trace and as_json:
        raise typer.BadParameter("--trace and --json exclude each other", param_hint="--trace")
    try:
        from .pipelines import pipeline

        pipe = pipeline(task, model, device=device)
        options = {} if top_k is None else {"top_k": top_k}
        if trace:
            typer.echo(str(pipe.trace(list(_texts(text, file)), **options)))
            return
        asked: list[str] = []
        single = file is None and text is not None and len(text) == 1 and text != ["-"]
        for answer in pipe(_remember(_texts(text, file), asked), **options):
            line = asked.pop(0)
            typer.echo(json.dumps(answer, ensure_ascii=False) if as_json else _plain(answer, "" if single else line))
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


def _remember(texts: Iterator[str], asked: list[str]) -> Iterator[str]:
    for text in texts:
        asked.append(text)
        yield text


def _plain(answer: Any, text: str) -> str:
    """Write an answer as columns: label, score, text."""
    best = answer if isinstance(answer, list) else [answer]
    cells = [f"{part['label']}\t{part['score']:.4f}" for part in best]
    return "\t".join([*cells, text] if text else cells)


if __name__ == "__main__":
    app()
