"""Python functions as tools that a model may call: their signature and docstring as a JSON schema."""

import inspect
import json
import types
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pellucid.errors import InputError

from .conversation import shown

_NAMES: dict[Any, str] = {bool: "boolean", float: "number", int: "integer", str: "string", types.NoneType: "null"}
_NAMES |= {dict: "object", list: "array", tuple: "array"}


def tool_schema(tool: Any) -> dict[str, Any]:
    """Return the JSON schema of a tool.

    Args:
        tool: a schema, which is returned as it is; or a function with a type hint and, in a Google docstring, a
            description for every argument. A description may end in a list of JSON values to choose from, as in
            `unit: What to measure in. (choices: ["celsius", "fahrenheit"])`.

    Raises:
        InputError: if it is neither, a schema is malformed, or a function lacks something.
    """
    if isinstance(tool, Mapping):
        _check_schema(tool)
        return dict(tool)
    if not inspect.isroutine(tool):
        raise InputError(
            f"it is {shown(tool)}. Expected a JSON schema (a dictionary), or a function with type hints and a Google "
            "docstring."
        )
    return {"type": "function", "function": _function_schema(tool)}


def _check_schema(schema: Mapping[str, Any]) -> None:
    if "function" not in schema:
        if schema.get("type") == "function" and "name" not in schema:
            raise InputError("it has the type 'function', but neither a 'function' nor a 'name'.")
        return
    function = schema["function"]
    if not isinstance(function, Mapping):
        raise InputError(f"its 'function' is {shown(function)}. Expected a dictionary with a 'name'.")
    if not isinstance(function.get("name"), str):
        raise InputError(f"its 'function' has the 'name' {function.get('name')!r}. Expected a text.")
    parameters = function.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise InputError(f"the 'parameters' of {function['name']!r} are {shown(parameters)}. Expected a JSON schema.")


def _function_schema(function: Callable[..., Any]) -> dict[str, Any]:
    name = getattr(function, "__name__", repr(function))
    summary, described, returns = _read_docstring(inspect.getdoc(function) or "")
    if not summary:
        raise InputError(f"the function {name} has no docstring that begins with what it does. Write one.")
    hints = _hints(function, name)
    properties: dict[str, Any] = {}
    required = []
    parameters = inspect.signature(function).parameters
    for parameter in parameters.values():
        if parameter.name == "self" and parameter.name not in hints:
            continue
        where = f"the argument {parameter.name!r} of the function {name}"
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise InputError(f"{where} stands for any number of arguments, and JSON names each. Take a list or dict.")
        if parameter.name not in hints:
            raise InputError(f"{where} has no type hint. Add one.")
        if parameter.name not in described:
            raise InputError(f"{where} has no description. Add `{parameter.name}: ...` under `Args:` in the docstring.")
        properties[parameter.name] = _property(hints[parameter.name], described[parameter.name], where)
        if parameter.default is parameter.empty:
            required.append(parameter.name)
    schema: dict[str, Any] = {"type": "object", "properties": {n: properties[n] for n in hints if n in properties}}
    if required:
        schema["required"] = required
    result: dict[str, Any] = {"name": name, "description": summary, "parameters": schema}
    if "return" in hints:
        try:
            result["return"] = _type_schema(hints["return"], "")
        except InputError:  # a model never writes it, so it may be anything
            return result
        if returns:
            result["return"]["description"] = returns
    return result


def _hints(function: Callable[..., Any], name: str) -> dict[str, Any]:
    try:
        return get_type_hints(function)
    except (NameError, TypeError) as error:
        raise InputError(f"the type hints of the function {name} can not be resolved: {error}.") from None


def _property(hint: Any, description: str, where: str) -> dict[str, Any]:
    """Return the schema of an argument."""
    schema = _type_schema(hint, where)
    start = max(description.rfind(f"({word}:") for word in ("choices", "Choices"))
    if start >= 0 and description.endswith(")"):
        choices, description = description[start + len("(choices:") : -1], description[:start].rstrip()
        try:
            schema["enum"] = [value.strip() if isinstance(value, str) else value for value in json.loads(choices)]
        except (ValueError, TypeError) as error:
            raise InputError(f"the choices of {where} are not a list in JSON: {error}.") from None
    schema["description"] = description
    return schema


def _type_schema(hint: Any, where: str) -> dict[str, Any]:
    """Return the schema of a type hint."""
    origin, arguments = get_origin(hint), get_args(hint)
    if hint is Any:
        return {}
    if origin in (Union, types.UnionType):
        return _union_schema(arguments, where)
    if origin is Literal:
        return _choices_schema(list(arguments), where)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _choices_schema([member.value for member in hint], where)
    if origin is tuple and len(arguments) != 1 and Ellipsis not in arguments:
        places = [_type_schema(argument, where) for argument in arguments]
        return {"type": "array", "prefixItems": places} if places else {"type": "array"}
    if origin is list:
        return {"type": "array", "items": _type_schema(arguments[0], where)} if arguments else {"type": "array"}
    if origin is dict:
        return {"type": "object", **({"additionalProperties": _type_schema(arguments[-1], where)} if arguments else {})}
    if isinstance(hint, type) and hint in _NAMES:
        return {"type": _NAMES[hint]}
    raise InputError(
        f"{where} has the type hint {hint}, which JSON has no type for. Use int, float, str, bool, None, list, dict, "
        "tuple (of several), Literal, an Enum or unions of these; or write the tool's JSON schema yourself."
    )


def _union_schema(members: tuple[Any, ...], where: str) -> dict[str, Any]:
    schemas = [_type_schema(member, where) for member in members if member is not type(None)]
    if len(schemas) == 1:
        schema = schemas[0]
    elif all(set(schema) == {"type"} for schema in schemas):
        schema = {"type": sorted(schema["type"] for schema in schemas)}
    else:
        schema = {"anyOf": schemas}
    return {**schema, "nullable": True} if type(None) in members else schema


def _choices_schema(values: list[Any], where: str) -> dict[str, Any]:
    for value in values:
        if type(value) not in _NAMES or isinstance(value, (dict, list, tuple)):
            raise InputError(f"{where} may be {value!r}, which is not a value of JSON.")
    kinds = list(dict.fromkeys(_NAMES[type(value)] for value in values))
    return {"type": kinds[0] if len(kinds) == 1 else kinds, "enum": values}


def _read_docstring(text: str) -> tuple[str, dict[str, str], str]:
    """Read a Google docstring: what the function does, its arguments, and what it returns."""
    sections: dict[str, list[str]] = {"": []}
    place = ""
    for line in text.split("\n"):
        header, colon, rest = line.rstrip().partition(":")
        known = ("Args", "Raises", "Returns", "Yields")  # others end the arguments, but not what is said of the whole
        begins = header in known or (place not in ("", "Returns") and header.isidentifier() and header[0].isupper())
        if begins and colon and not rest:
            place = header
        else:
            sections.setdefault(place, []).append(line)
    return _text(sections[""]), _read_arguments(sections.get("Args", [])), _text(sections.get("Returns", []))


def _read_arguments(lines: list[str]) -> dict[str, str]:
    """Read the lines `name: description` or `name (type): description`, each with the lines that go on from it."""
    described: dict[str, list[str]] = {}
    lines = [line for line in lines if line.strip()]
    depth = len(lines[0]) - len(lines[0].lstrip()) if lines else 0
    words: list[str] = []
    for line in lines:
        name, colon, rest = line.strip().partition(":")
        name = name.partition("(")[0].rstrip() if name.endswith(")") else name
        if colon and name.isidentifier() and len(line) - len(line.lstrip()) == depth:
            words = described.setdefault(name, [])
            line = rest
        words.append(line.strip())
    return {name: " ".join(filter(None, parts)) for name, parts in described.items()}


def _text(lines: list[str]) -> str:
    return "\n".join(lines).strip()
