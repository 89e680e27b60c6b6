"""docs/deviations.md shows every head of every architecture, and none far from the original."""

from pathlib import Path

from cases import CASES, EVERY_CLASS
from test_readme import TASKS

PAGE = Path(__file__).parent.parent / "docs" / "deviations.md"
REMAKE = "run: python benchmarks/deviations.py"


def tables():
    """Read the page's two tables: {(architecture, task): cell}."""
    for section in PAGE.read_text(encoding="utf-8").split("\n## ")[1:]:
        rows = [
            [cell.strip() for cell in line.strip("|").split("|")] for line in section.splitlines() if line[:1] == "|"
        ]
        titles = rows[0][1:]
        yield {(row[0], title): cell for row in rows[2:] for title, cell in zip(titles, row[1:], strict=True) if cell}


def test_every_head_of_every_architecture_is_listed():
    for cells in tables():
        assert {architecture for architecture, _ in cells} == set(CASES), REMAKE
        assert set(cells) == {(architecture, TASKS[head]) for architecture, head in EVERY_CLASS}, REMAKE


def test_none_is_far_from_the_original():
    exact, rounded = tables()
    assert max(map(float, exact.values())) <= 1e-5
    for of, cell in rounded.items():
        ours, original = (float(part.rstrip("%")) if part != "-" else 100 for part in cell.split(" / "))
        assert ours <= max(5.0, 2 * original), of
