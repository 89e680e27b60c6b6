"""Functions as tools: the schemas of the original library, and what it can not convert either."""

import datetime
import enum
import json
import re
from collections.abc import Callable
from typing import Annotated, Any, Literal, Optional, Union

import pytest

from pellucid.chat import render, tool_schema
from pellucid.errors import InputError


class Unit(enum.Enum):
    CELSIUS = "c"
    ONE = 1


TYPES = {
    **{kind.__name__: kind for kind in (int, str, float, bool, list, dict, tuple)},
    "Any": Any,
    "None": None,
    "list[int]": list[int],
    "list[list[str]]": list[list[str]],
    "list[Any]": list[Any],
    "dict[str, int]": dict[str, int],
    "dict[str, list[int]]": dict[str, list[int]],
    "tuple[int, str]": tuple[int, str],
    "Optional[int]": Optional[int],  # noqa: UP045 - both spellings are hints that users write
    "int | None": int | None,
    "int | str": int | str,
    "Union[str, int, None]": Union[str, int, None],  # noqa: UP007
    "list | dict": list | dict,
    "list[int] | dict[str, str] | None": list[int] | dict[str, str] | None,
    "list[int | None]": list[int | None],
    "Literal text": Literal["a", "b"],
    "Literal mixed": Literal["a", 1, None],
    "Literal | None": Literal["a"] | None,
    "Literal | int": Literal["a"] | int,
    "Enum": Unit,
    "Enum | int": Unit | int,
    "Annotated": Annotated[int, "x"],
    "text": "list[int]",
    "deep": dict[str, list[tuple[int, str | None]]] | Literal[1.5] | None,
}
NO_TYPES = [set, set[int], bytes, object, datetime.datetime, Callable, tuple[int], tuple[int, ...], Literal[b"x"], type]


def function(hint, doc="Do it.\n\n    Args:\n        x: The x.\n    ", default=False):
    if default:

        def made(x=None):
            pass
    else:

        def made(x):
            pass

    made.__annotations__ = {"x": hint}
    made.__doc__ = doc
    return made


def same(tool):
    from transformers.utils import get_json_schema

    assert json.dumps(tool_schema(tool)) == json.dumps(get_json_schema(tool))


@pytest.mark.parametrize("name", TYPES)
@pytest.mark.parametrize("default", [False, True])
def test_types(name, default):
    same(function(TYPES[name], default=default))


@pytest.mark.parametrize("hint", NO_TYPES, ids=str)
def test_no_types_of_json(hint):
    with pytest.raises(InputError, match="argument 'x' of the function made"):
        tool_schema(function(hint))


ARGS = "Args:\n        x: The x.\n"
DOCSTRINGS = {
    "plain": f"Do it.\n\n    {ARGS}    ",
    "long": "Do it.\n    More.\n\n    Even more.\n\n    Args:\n        x: The x\n            goes\n            on.\n",
    "returns": f"Do it.\n\n    {ARGS}\n    Returns:\n        int: The value\n            goes on.\n    ",
    "raises": f"Do it.\n\n    {ARGS}\n    Returns:\n        The value.\n\n    Raises:\n        ValueError: no.\n    ",
    "example": f"Do it.\n\n    {ARGS}\n    Example:\n        x: no\n    ",
    "example before": f"Do it.\n\n    Example:\n        >>> made(1)\n\n    {ARGS}    ",
    "note after the result": f"Do it.\n\n    {ARGS}\n    Returns:\n        The value.\n\n    Note:\n        x.\n    ",
    "choices": "Do it.\n\n    Args:\n        x: The x. (choices: [1, 2])\n    ",
    "Choices": 'Do it.\n\n    Args:\n        x: The x. (Choices: ["a ", "b"])  \n    ',
    "choices inside": 'Do it.\n\n    Args:\n        x: The x (choices: ["a"]) and more.\n    ',
    "colons": "Do it.\n\n    Args:\n        x: The x: it is: so.\n    ",
    "more arguments": "Do it.\n\n    Args:\n        x: The x.\n\n        z: The z.\n    ",
    "next line": "Do it.\n\n    Args:\n        x:\n            The x.\n    ",
    "empty": "Do it.\n\n    Args:\n        x:\n    ",
    "bullets": "Do it.\n\n    Args:\n        x: One of\n            - a: first\n            - b: second\n    ",
    "paragraphs": "Do it.\n\n    Args:\n        x: The x.\n\n            More: of it.\n    ",
    "text after": "Do it.\n\n    Args:\n        x: The x.\n    Trailing text: here.\n    ",
    "tabs": "Do it.\n\n\tArgs:\n\t\tx: The x.\n",
    "no indent": "Do it.\n\nArgs:\nx: The x.\n",
}


@pytest.mark.parametrize("name", DOCSTRINGS)
@pytest.mark.parametrize("result", [None, int, set])
def test_docstrings(name, result):
    made = function(int, DOCSTRINGS[name])
    if result is not None:
        made.__annotations__["return"] = result
    same(made)


def test_types_in_docstrings_are_skipped():
    doc = "Do it.\n\n    Args:\n        x (`int`, *optional*, defaults to 5): The x.\n    "
    assert tool_schema(function(int, doc)) == tool_schema(function(int))


def test_signatures():
    def several(a: int, b: str = "b", *, c: list[int], d: float | None = None) -> str:
        """Do.

        Args:
            a: A.
            b: B.
            c: C.
            d: D.
        """
        return f"{a}{b}{c}{d}"

    def nothing() -> None:
        """Do nothing."""

    class Thing:
        def method(self, x: int):
            """Do.

            Args:
                x: X.
            """

    async def later(x: int):
        """Do.

        Args:
            x: X.
        """

    for tool in (several, nothing, Thing().method, Thing.method, later):
        same(tool)


@pytest.mark.parametrize(
    "tool, fault",
    [
        (function(int, None), "no docstring"),
        (function(int, "\n    Args:\n        x: The x.\n    "), "no docstring that begins with what it does"),
        (function(int, "Do it."), "argument 'x' of the function made has no description. Add `x: ...` under `Args:`"),
        (function("nope"), "type hints of the function made can not be resolved: name 'nope'"),
        (function(int, "Do.\n\n    Args:\n        x: X. (choices: [a])\n"), "choices of the argument 'x'"),
        (lambda x: x, "no docstring"),
        (5, "it is 5 (int)"),
        ("get_weather", "'get_weather' (str)"),
        ({"type": "function"}, "neither a 'function' nor a 'name'"),
        ({"type": "function", "function": "f"}, "its 'function' is 'f' (str)"),
        ({"type": "function", "function": {}}, "'name' None"),
        ({"type": "function", "function": {"name": "f", "parameters": []}}, "'parameters' of 'f' are [] (list)"),
    ],
)
def test_faults(tool, fault):
    with pytest.raises(InputError, match="tool 1 can not be used: .*" + re.escape(fault)):
        render("x", [{"role": "user", "content": "x"}], tools=[{"name": "fine"}, tool])


def test_hints_and_kinds_are_needed():
    def bare(x):
        """Do.

        Args:
            x: X.
        """

    def any_number(*x: int):
        """Do.

        Args:
            x: X.
        """

    with pytest.raises(InputError, match="'x' of the function bare has no type hint"):
        tool_schema(bare)
    with pytest.raises(InputError, match="any number of arguments"):
        tool_schema(any_number)


@pytest.mark.parametrize("tools", ["f", {"name": "f"}, 5])
def test_tools_are_a_list(tools):
    with pytest.raises(InputError, match="Expected a list of JSON schemas or functions"):
        render("x", [{"role": "user", "content": "x"}], tools=tools)
