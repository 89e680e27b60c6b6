"""The package's own source files, parsed, for the tests that read them."""

import ast
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import pellucid

PACKAGE = Path(pellucid.__file__).parent
FILES = sorted(PACKAGE.rglob("*.py"))
NAMES = [str(file.relative_to(PACKAGE)) for file in FILES]


@functools.cache
def tree_of(name: str) -> ast.Module:
    return ast.parse((PACKAGE / name).read_text(encoding="utf-8"))


def imports_of(name: str, nodes: Sequence[ast.stmt] | None = None) -> Iterator[str]:
    """Yield the full name of every module that a file imports: "torch.nn", "pellucid.models.bert"."""
    own = ["pellucid", *Path(name).with_suffix("").parts]
    for statement in tree_of(name).body if nodes is None else nodes:
        for node in ast.walk(statement):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                base = own[: len(own) - node.level] if node.level else []
                module = ".".join([*base, *([node.module] if node.module else [])])
                yield from (f"{module}.{alias.name}" for alias in node.names)
