"""The report of a training: a model card (README.md), a page (report.html), and its drawings as pictures."""

import json
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from statistics import quantiles
from typing import Any

from .. import __version__
from ..folder import rewrite
from .calibration import Bin, Calibration

WIDTH, HEIGHT, MARGIN = 640, 260, 45  # of the curve, in pixels
COLOURS = {"loss": "#1f77b4", "eval_loss": "#d62728"}
CURVES = {"loss": "training loss", "eval_loss": "held-out loss"}
MANY, FEW = 4, 10  # times larger than the smallest class; examples of a class
SQUARE = 260  # of the reliability diagram and the confusions, in pixels, its margin included
SHOWN = 30  # classes whose confusions are a table
STYLE = (
    "body{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}table{border-collapse:collapse}"
    "td,th{border:1px solid #ccc;padding:.2em .6em;text-align:left}.warning{background:#fff3cd;padding:.4em .8em}"
)


@dataclass(kw_only=True)
class Report:
    """What there is to say about a training.

    Attributes:
        task: its name.
        base: the model that it began with.
        folder: the name of the folder of the result.
        sizes: examples, by part.
        lengths: tokens of each example, before it was cut.
        limit: tokens of a row at most.
        classes: examples of each class, by name, of each part.
        settings: how it was trained.
        history: what was logged, by step.
        metrics: of the held-out part.
        confusion: a row a true class, in it how often each class was said.
        calibration: how far probabilities can be believed; None where that was not measured.
    """

    task: str
    base: str
    folder: str
    sizes: Mapping[str, int]
    lengths: Sequence[int]
    limit: int
    classes: Mapping[str, Mapping[str, int]] = field(default_factory=dict)
    settings: Mapping[str, Any]
    history: Sequence[Mapping[str, Any]]
    metrics: Mapping[str, Any]
    confusion: Sequence[Sequence[int]] = ()
    calibration: Calibration | None = None

    def warnings(self) -> list[str]:
        """Return what the user may want to change."""
        found = []
        if self.classes and self.task == "text-classification":
            counts = {name: sum(parts.values()) for name, parts in self.classes.items()}
            found += [fault] if (fault := imbalance(counts)) else []
            if few := [name for name, count in counts.items() if count < FEW]:
                found.append(f"Fewer than {FEW} examples each: {', '.join(few[:8])}{', ...' if len(few) > 8 else ''}.")
        if long := sum(length > self.limit for length in self.lengths):
            found.append(f"{long} of {len(self.lengths)} examples are longer than {self.limit} tokens.")
        return found

    def statistics(self) -> dict[str, int]:
        """Return tokens an example: the least, the median, what 95 of 100 do not exceed, the most."""
        ranks = quantiles(self.lengths, n=100, method="inclusive") if len(self.lengths) > 1 else [*self.lengths] * 99
        return {
            "least": min(self.lengths),
            "median": round(ranks[49]),
            "95 %": round(ranks[94]),
            "most": max(self.lengths),
        }

    def per_class(self) -> list[tuple[Any, ...]]:
        """Return for each class its examples in each part, and its precision, recall and F1 on the held-out part."""
        rows: list[tuple[Any, ...]] = []
        for i, (name, parts) in enumerate(self.classes.items()):
            seen = i < len(self.confusion)
            right = self.confusion[i][i] if seen else 0
            said, true = (sum(row[i] for row in self.confusion), sum(self.confusion[i])) if seen else (0, 0)
            scores = (right / said if said else 0.0, right / true if true else 0.0)
            rows.append((name, *parts.values(), *scores, 2 * right / (said + true) if said + true else 0.0))
        return rows

    def points(self) -> dict[str, list[tuple[int, float]]]:
        """Return each curve of losses, as steps and values."""
        curves = {name: [(log["step"], log[name]) for log in self.history if name in log] for name in CURVES}
        return {name: points for name, points in curves.items() if points}


def imbalance(counts: Mapping[str, int]) -> str:
    """Say what is wrong with the numbers of examples of classes; nothing if they are alike enough."""
    least, most = min(counts, key=counts.__getitem__), max(counts, key=counts.__getitem__)
    if counts[most] < MANY * counts[least]:
        return ""
    return (
        f"Classes are out of balance: {most!r} has {counts[most]} examples, {least!r} {counts[least]}. "
        "Look at F1 rather than accuracy; more examples of small classes, or class_weights, may help."
    )


def write_report(report: Report, folder: Path) -> None:
    """Write README.md and report.html into a folder, and the drawings as PNG files if pillow is installed."""
    with rewrite(folder) as staging:
        (staging / "README.md").write_text(model_card(report), encoding="utf-8")
        (staging / "report.html").write_text(html_page(report), encoding="utf-8")
        with suppress(ImportError):
            draw_curve(report, staging / "loss.png")
            if report.calibration:
                draw_reliability(report.calibration, staging / "reliability.png")
            if report.confusion and len(report.classes) <= SHOWN:
                draw_confusions(report, staging / "confusions.png")


# --- README.md --------------------------------------------------------------------------------------------------------


def model_card(report: Report) -> str:
    """Return the model card, as Markdown."""
    head = {"pipeline_tag": report.task.split("_")[0], "base_model": report.base, "library_name": "pellucid"}
    front = "\n".join(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in head.items())
    parts = [
        f"---\n{front}\n---\n\n# {report.folder}\n",
        f"{_cell(report.base)}, trained for {report.task} with Pellucid {__version__}.\n",
        f"```python\nfrom pellucid import pipeline\n\npipe = pipeline({report.task!r}, {report.folder!r})\n```\n",
        "## Results on the held-out part\n",
        _markdown(("metric", "value"), report.metrics.items()),
        "## Data\n",
        _markdown(("part", "examples"), report.sizes.items()),
        _markdown(("tokens an example", ""), report.statistics().items()),
        *(f"> {_cell(warning)}\n" for warning in report.warnings()),
    ]
    if report.calibration:
        parts.insert(5, f"{report.calibration.describe()}\n")
    if report.classes:
        parts += ["## Classes\n", _markdown(_class_head(report), report.per_class())]
    parts += ["## Settings\n", _markdown(("setting", "value"), report.settings.items())]
    parts += ["Curves and confusions are in report.html.\n"]
    return "\n".join(parts)


def _markdown(head: Sequence[str], rows: Any) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines) + "\n"


def _cell(value: Any) -> str:
    text = f"{value:.4g}" if isinstance(value, float) else str(value)
    return " ".join(text.split()).replace("\\", "\\\\").replace("|", "\\|").replace("<", "&lt;")


def _class_head(report: Report) -> tuple[str, ...]:
    return ("class", *next(iter(report.classes.values())), "precision", "recall", "F1")


# --- report.html ------------------------------------------------------------------------------------------------------


def html_page(report: Report) -> str:
    """Return the whole report, as one page that loads nothing."""
    title = escape(f"{report.folder}: {report.task}")
    parts = [
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{title}</title><style>{STYLE}</style>',
        f"<h1>{title}</h1><p>{escape(report.base)}, trained with Pellucid {__version__}.</p>",
        *(f'<p class="warning">{escape(warning)}</p>' for warning in report.warnings()),
        "<h2>Results on the held-out part</h2>",
        _table(("metric", "value"), report.metrics.items()),
        "<h2>Losses</h2>",
        svg_curve(report),
        "<h2>Data</h2>",
        _table(("part", "examples"), report.sizes.items()),
        _table(("tokens an example", ""), report.statistics().items()),
    ]
    if report.calibration:
        parts += ["<h2>Probabilities</h2>", f"<p>{escape(report.calibration.describe())}</p>"]
        parts += [svg_reliability(report.calibration)]
    if report.classes:
        parts += ["<h2>Classes</h2>", _table(_class_head(report), report.per_class())]
    if report.confusion and len(report.classes) <= SHOWN:
        parts += ["<h2>Confusions</h2><p>A row a true class, a column a class that was said.</p>", _confusions(report)]
    parts += ["<h2>Settings</h2>", _table(("setting", "value"), report.settings.items()), "</html>\n"]
    return "\n".join(parts)


def _table(head: Sequence[str], rows: Any) -> str:
    def line(values: Any, tag: str) -> str:
        texts = (f"{value:.4g}" if isinstance(value, float) else str(value) for value in values)
        return "<tr>" + "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts) + "</tr>"

    return "<table>" + line(head, "th") + "".join(line(row, "td") for row in rows) + "</table>"


def _confusions(report: Report) -> str:
    names = list(report.classes)[: len(report.confusion)]
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    lines = []
    for name, row in zip(names, report.confusion, strict=True):
        total = sum(row) or 1
        cells = "".join(f'<td style="background:rgba(31,119,180,{n / total:.2f})">{n}</td>' for n in row)
        lines.append(f"<tr><th>{escape(name)}</th>{cells}</tr>")
    return f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"


# --- drawings ---------------------------------------------------------------------------------------------------------


def svg_curve(report: Report) -> str:
    """Return the curves of losses as an SVG."""
    curves, highest = _scaled(report)
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{WIDTH}" height="{HEIGHT}" font-size="12">',
        f'<path d="M{MARGIN},10V{HEIGHT - MARGIN}H{WIDTH - 10}" fill="none" stroke="#888"/>',
        f'<text x="4" y="20">{highest:.3g}</text><text x="4" y="{HEIGHT - MARGIN}">0</text>',
    ]
    for i, (name, points) in enumerate(curves.items()):
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = "".join(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="2" fill="{COLOURS[name]}"/>' for x, y in points)
        label = f'<text x="{MARGIN + 160 * i}" y="{HEIGHT - 12}" fill="{COLOURS[name]}">{CURVES[name]}</text>'
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{COLOURS[name]}"/>{dots}{label}')
    return "".join(shapes) + "</svg>"


def draw_curve(report: Report, path: Path) -> None:
    """Draw the curves of losses as a PNG.

    Raises:
        ImportError: if pillow is not installed.
    """
    from PIL import Image, ImageDraw  # type: ignore[import-not-found]

    curves, highest = _scaled(report)
    image = Image.new("RGB", (WIDTH, HEIGHT), "white")
    pen = ImageDraw.Draw(image)
    pen.line([(MARGIN, 10), (MARGIN, HEIGHT - MARGIN), (WIDTH - 10, HEIGHT - MARGIN)], fill="#888888")
    pen.text((4, 10), f"{highest:.3g}", fill="black")
    for i, (name, points) in enumerate(curves.items()):
        pen.line(points, fill=COLOURS[name], width=2)
        pen.text((MARGIN + 160 * i, HEIGHT - 24), CURVES[name], fill=COLOURS[name])
    image.save(path)


def _scaled(report: Report) -> tuple[dict[str, list[tuple[float, float]]], float]:
    """Return the points of each curve in pixels, and the highest loss."""
    curves = report.points()
    steps = max((step for points in curves.values() for step, _ in points), default=1)
    highest = max((loss for points in curves.values() for _, loss in points), default=1.0) or 1.0
    wide, high = WIDTH - MARGIN - 10, HEIGHT - MARGIN - 10
    return {
        name: [(MARGIN + wide * step / steps, 10 + high * (1 - loss / highest)) for step, loss in points]
        for name, points in curves.items()
    }, highest


def _drawn(calibration: Calibration) -> dict[str, list[Bin]]:
    """Return what a reliability diagram shows, by its colour."""
    before, after = COLOURS["eval_loss"], COLOURS["loss"]
    return {before: calibration.before} | ({after: calibration.after} if calibration.temperature != 1 else {})


def _place(x: float, y: float) -> tuple[float, float]:
    """Return a probability and a share in pixels of the square."""
    size = SQUARE - MARGIN - 10
    return MARGIN + size * x, 10 + size * (1 - y)


def svg_reliability(calibration: Calibration) -> str:
    """Return the share of right answers by their probability as an SVG; on the diagonal both are the same."""
    (left, bottom), (right, top) = _place(0, 0), _place(1, 1)
    shapes = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{2 * SQUARE}" height="{SQUARE}" font-size="12">',
        f'<path d="M{left},{top}V{bottom}H{right}M{left},{bottom}L{right},{top}" fill="none" stroke="#888"/>',
        f'<text x="{left}" y="{SQUARE - 12}">probability</text><text x="4" y="20">right</text>',
    ]
    for i, (colour, bins) in enumerate(_drawn(calibration).items()):
        points = [_place(b.confidence, b.accuracy) for b in bins]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        dots = "".join(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"><title>{b.answers} answers</title></circle>'
            for (x, y), b in zip(points, bins, strict=True)
        )
        label = f'<text x="{SQUARE}" y="{20 + 16 * i}" fill="{colour}">{("before", "with the temperature")[i]}</text>'
        shapes.append(f'<polyline points="{path}" fill="none" stroke="{colour}"/>{dots}{label}')
    return "".join(shapes) + "</svg>"


def draw_reliability(calibration: Calibration, path: Path) -> None:
    """Draw the share of right answers by their probability as a PNG.

    Raises:
        ImportError: if pillow is not installed.
    """
    from PIL import Image, ImageDraw  # type: ignore[import-not-found]

    image = Image.new("RGB", (2 * SQUARE, SQUARE), "white")
    pen = ImageDraw.Draw(image)
    pen.line([_place(0, 1), _place(0, 0), _place(1, 0)], fill="#888888")
    pen.line([_place(0, 0), _place(1, 1)], fill="#888888")
    pen.text((MARGIN, SQUARE - 24), "probability", fill="black")
    pen.text((4, 10), "right", fill="black")
    for i, (colour, bins) in enumerate(_drawn(calibration).items()):
        points = [_place(b.confidence, b.accuracy) for b in bins]
        pen.line(points, fill=colour, width=2)
        for x, y in points:
            pen.ellipse([x - 3, y - 3, x + 3, y + 3], fill=colour)
        pen.text((SQUARE, 10 + 16 * i), ("before", "with the temperature")[i], fill=colour)
    image.save(path)


def draw_confusions(report: Report, path: Path) -> None:
    """Draw how often each class was said for each as a PNG; a row a true class.

    Raises:
        ImportError: if pillow is not installed.
    """
    from PIL import Image, ImageDraw, ImageFont  # type: ignore[import-not-found]

    names, font = list(report.classes)[: len(report.confusion)], ImageFont.load_default()
    left = 20 + int(max(font.getlength(name) for name in names))
    cell = max(36, *(int(font.getlength(name)) + 8 for name in names))
    image = Image.new("RGB", (left + cell * len(names) + 10, 60 + 28 * len(names)), "white")
    pen = ImageDraw.Draw(image)
    pen.text((left, 6), "said", fill="#888888")
    for i, (name, row) in enumerate(zip(names, report.confusion, strict=True)):
        top, total = 48 + 28 * i, sum(row) or 1
        pen.text((10, top + 8), name, fill="black")
        pen.text((left + cell * i + 4, 26), name, fill="black")
        for k, count in enumerate(row):
            shade = tuple(round(255 + (part - 255) * count / total) for part in (31, 119, 180))
            pen.rectangle([left + cell * k, top, left + cell * (k + 1), top + 28], fill=shade, outline="#cccccc")
            pen.text((left + cell * k + 4, top + 8), str(count), fill="white" if count > total / 2 else "black")
    image.save(path)
