"""Copies between model files stay copies: under `# twin: bert.span_loss` stands the same code as in models/bert.py."""

import ast
import re

import pytest

from sources import NAMES, PACKAGE, tree_of

TWINS = [
    (name, line, *match.groups())
    for name in NAMES
    for line, text in enumerate((PACKAGE / name).read_text(encoding="utf-8").splitlines(), 1)
    if (match := re.fullmatch(r"\s*# twin: (\w+)\.([\w.]+)", text))
]


def definition(file: str, path: str) -> ast.AST:
    """Find a function, class or constant: "span_loss", "BertLayer.forward", "ACTIVATIONS"."""
    node: ast.AST = tree_of(file)
    for part in path.split("."):
        inside = [child for child in ast.iter_child_nodes(node) if part in names_of(child)]
        assert inside, f"{file} has no {path}"
        node = inside[0]
    return node


def names_of(node: ast.AST) -> list[str]:
    if isinstance(node, ast.Assign):
        return [target.id for target in node.targets if isinstance(target, ast.Name)]
    return [getattr(node, "name", "")]


@pytest.mark.parametrize(("name", "line", "file", "path"), TWINS, ids=[f"{t[0]}:{t[3]}" for t in TWINS])
def test_twin(name, line, file, path):
    below = [node for node in ast.walk(tree_of(name)) if getattr(node, "lineno", None) == line + 1]
    copies = [node for node in below if path.split(".")[-1] in names_of(node)]
    assert copies, f"{name}:{line}: the line below a twin comment must define {path.split('.')[-1]}"
    folder = name.split("/")[0] if name.startswith("models_") else "models"
    assert ast.dump(copies[0]) == ast.dump(definition(f"{folder}/{file}.py", path)), (
        f"{name}:{line} is no longer the same as {folder}/{file}.py; change both, or remove the comment"
    )


def test_there_are_twins():
    assert TWINS
