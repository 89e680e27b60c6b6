"""Chat templates are programs by strangers: they run here, without a way out, and no longer than their budget lasts.

jinja2's immutable sandbox keeps a template from reaching anything but its variables, which are plain data. What it does
not do is to end: two nested loops run for hours, and `"a" * 10**10` takes all memory. Here every round of a loop, call,
filter and operator is charged by the size of what it works on, and nothing may grow beyond a limit.
"""

import json
from collections.abc import Callable, ItemsView, Iterator, KeysView, ValuesView
from contextvars import ContextVar
from datetime import datetime
from functools import wraps
from types import NoneType
from typing import Any

from jinja2 import Template, nodes, pass_context
from jinja2.exceptions import SecurityError, TemplateError, TemplateSyntaxError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.parser import Parser
from jinja2.runtime import BlockReference, Context, LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment, SandboxedFormatter
from jinja2.utils import Cycler, Namespace
from jinja2.visitor import NodeTransformer

from .conversation import Opaque

STEPS = 1_000_000  # one to three seconds
STEPS_PER_CHARACTER = 16  # of what the caller gives
LARGEST = 2**22  # characters of one text
LARGEST_PER_CHARACTER = 32
LONGEST_TEMPLATE = 2**18  # characters; the longest in use has 20,000
ITEM = 128  # an item of a list weighs as much as so many characters
BITS = 4096  # of an integer
CALL = 1024  # a call weighs as much as so many characters


class Budget:
    """What one rendering may still do.

    Args:
        size: the weight of what the caller gives, which a template must be able to work on.
        turns: the number of messages; some templates look through all of them for each.
        marks: what to write where text of the assistant begins and where it ends.
    """

    def __init__(self, size: int, turns: int, marks: tuple[str, str] = ("", "")):
        self.steps = STEPS + STEPS_PER_CHARACTER * size + turns**2
        self.largest = LARGEST + LARGEST_PER_CHARACTER * size
        self.output = 8 * self.largest
        self.marks = marks

    def spend(self, weight: int) -> None:
        """Pay for work on something that weighs so much."""
        self.steps -= 1 + (weight >> 8)
        if self.steps < 0:
            raise SecurityError("it does far more work than any conversation of this size takes")

    def admit(self, weight: int) -> None:
        """Refuse something that is too large to be made."""
        if weight > self.largest:
            raise SecurityError(f"it makes a value of more than {self.largest:,} characters")

    def emit(self, length: int) -> None:
        """Pay for characters of the output."""
        self.spend(length)
        self.output -= length
        if self.output < 0:
            raise SecurityError("its output is far longer than any conversation of this size makes it")


_budget: ContextVar[Budget] = ContextVar("budget")


def render(template: Template, variables: dict[str, Any], budget: Budget) -> str:
    """Run a template under a budget.

    Raises:
        jinja2.TemplateError: if the budget is spent, and for what templates raise themselves.
        Exception: whatever Python raises for what the template does.
    """
    token = _budget.set(budget)
    try:
        return template.render(variables)
    finally:
        _budget.reset(token)


def weigh(value: Any, most: int) -> int:
    """Return the size of plain data, in characters, with all that is inside; stop counting above `most`."""
    if isinstance(value, str):
        return len(value)
    weight, waiting = 0, [value]
    while waiting and weight <= most:
        value = waiting.pop()
        if isinstance(value, str):
            weight += len(value)
            continue
        weight += ITEM
        if isinstance(value, dict):
            waiting += value.keys()
            waiting += value.values()
        elif isinstance(value, (list, tuple, KeysView, ValuesView, ItemsView)):
            waiting += value
        elif isinstance(value, range):
            weight += ITEM * len(value)
    return weight


def _charge(*values: Any) -> int:
    """Pay for reading values as a whole, and return their weight."""
    budget = _budget.get()
    weight = 0
    for value in values:
        weight += weigh(value, budget.largest)
        budget.admit(weight)
    budget.spend(weight)
    return weight


def _made(value: Any, each: int = 0) -> Any:
    """Pay for a value that has been made, by its own size, without what is in its items.

    Args:
        value: the value.
        each: what each item costs of a value whose items are made later.
    """
    budget = _budget.get()
    if isinstance(value, str):
        budget.admit(len(value))
        budget.spend(len(value) if value.isascii() else 4 * len(value))  # bytes, of which many values may be kept
    elif isinstance(value, (list, tuple, dict)):
        budget.admit(ITEM * len(value))
        budget.spend(8 * len(value))  # pointers
    elif isinstance(value, int) and value.bit_length() > BITS:
        raise SecurityError(f"it makes an integer of more than {BITS} bits")
    elif isinstance(value, Iterator) and not isinstance(value, LoopContext):
        return _paid(value, each)
    return value


def _paid(items: Iterator[Any], each: int) -> Iterator[Any]:
    budget = _budget.get()
    for item in items:
        budget.spend(each)
        yield item


# --- what filters and methods cost ------------------------------------------------------------------------------------
# Where a result can be larger than all that goes into it, a function tells its weight before it is made. It takes the
# weight of all arguments, and then the arguments of the filter or method under their own names.


def _number(value: Any) -> int:
    return abs(value) if isinstance(value, int) else 0


def _count(items: Any) -> int:
    return len(items) if hasattr(items, "__len__") else 0


def _center(weight: int, value: Any, width: Any = 80, *_: Any) -> int:
    return weight + _number(width)


def _replace(weight: int, s: Any, old: Any, new: Any, *_: Any, **__: Any) -> int:
    return weight + (str(s).count(str(old)) if old else len(str(s)) + 1) * len(str(new))


def _indent(weight: int, s: Any, width: Any = 4, *_: Any, **__: Any) -> int:
    return weight + (len(str(s).splitlines()) + 1) * (len(width) if isinstance(width, str) else _number(width))


def _join(weight: int, value: Any, d: Any = "", *_: Any, **__: Any) -> int:
    return weight + _count(value) * len(str(d))


def _joined_by(weight: int, separator: str, items: Any) -> int:
    return _join(weight, items, separator)


def _batch(weight: int, value: Any, linecount: Any, *_: Any, **__: Any) -> int:
    return weight + ITEM * _number(linecount)


def _round(weight: int, value: Any, precision: Any = 0, *_: Any, **__: Any) -> int:
    if _number(precision) > 300:
        raise SecurityError(f"it rounds to {precision} digits")
    return weight


def _sum(weight: int, iterable: Any, attribute: Any = None, start: Any = 0) -> int:
    if not isinstance(start, (int, float)):  # each step copies the sum so far
        if not hasattr(iterable, "__len__"):
            raise SecurityError("it adds up lists that are not in a list")
        _budget.get().spend(weight * len(iterable))
    return weight


def _percent(weight: int, text: Any, *_: Any, **__: Any) -> int:
    """Bound `text % values`: each place takes at most all values and the width that it asks for."""
    width, places = 0, str(text).split("%")[1:]
    for place in places:
        if place.startswith("("):
            place = place.partition(")")[2]
        flags = place[: len(place) - len(place.lstrip("0123456789 #+-.*"))]
        numbers = "".join(c if c.isdecimal() else " " for c in flags).split()
        if "*" in flags or any(len(number) > 6 for number in numbers):
            raise SecurityError(f"it formats with {'%' + flags[:20]!r}")
        width += sum(map(int, numbers))
    return weight * (1 + len(places)) + width


_Bound = Callable[..., int] | None
_FREE = ("count", "d", "default", "first", "last", "length", "safe")  # filters that look at no more than one item
_SHALLOW = {  # those that do not look into the items
    **dict.fromkeys(("items", "list", "map", "reject", "rejectattr", "reverse", "select", "selectattr", "slice")),
    "batch": _batch,
}
_DEEP: dict[str, _Bound] = {
    **dict.fromkeys(("abs", "attr", "capitalize", "dictsort", "e", "escape", "filesizeformat", "float", "forceescape")),
    **dict.fromkeys(("groupby", "int", "lower", "max", "min", "sort", "string", "title", "trim", "truncate", "unique")),
    **dict.fromkeys(("upper", "urlencode", "wordcount")),
    "center": _center,
    "format": _percent,
    "indent": _indent,
    "join": _join,
    "replace": _replace,
    "round": _round,
    "sum": _sum,
}
_TEXT_METHODS: dict[str, _Bound] = {
    **dict.fromkeys(("capitalize", "casefold", "count", "endswith", "find", "index", "isalnum", "isalpha", "isascii")),
    **dict.fromkeys(("isdecimal", "isdigit", "isidentifier", "islower", "isnumeric", "isprintable", "isspace")),
    **dict.fromkeys(("istitle", "isupper", "lower", "lstrip", "partition", "removeprefix", "removesuffix", "rfind")),
    **dict.fromkeys(("rindex", "rpartition", "rsplit", "rstrip", "split", "splitlines", "startswith", "strip")),
    **dict.fromkeys(("swapcase", "title", "upper")),
    "center": _center,
    "join": _joined_by,
    "ljust": _center,
    "replace": _replace,
    "rjust": _center,
    "zfill": _center,
}
_METHODS: dict[type, dict[str, _Bound]] = {
    str: _TEXT_METHODS,
    dict: dict.fromkeys(("copy", "get", "items", "keys", "values")),
    list: dict.fromkeys(("copy", "count", "index")),
    tuple: dict.fromkeys(("count", "index")),
    int: dict.fromkeys(("bit_length", "is_integer")),
    float: dict.fromkeys(("is_integer",)),
}
_COMPARING = (  # tests
    *("==", "!=", "<", "<=", ">", ">=", "eq", "equalto", "ge", "greaterthan", "gt", "in", "le", "lessthan", "lt", "ne"),
)


def _guarded(function: Callable[..., Any], bound: _Bound, *, deep: bool) -> Callable[..., Any]:
    """Return a filter or test that pays for its work."""
    skipped = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def guarded(*args: Any, **options: Any) -> Any:
        others = _pay(bound, args[skipped:], options, deep=deep)
        return _made(function(*args, **options), others * others >> 4)  # `map(attribute="a.b.c")` goes many steps

    return guarded


def _pay(bound: _Bound, args: tuple[Any, ...], options: dict[str, Any], *, deep: bool) -> int:
    """Pay for a filter or method: at worst it looks for every character of the others at every one of the first.

    Returns:
        The weight of the arguments behind the first.
    """
    weight = _charge(*args[:1]) if deep else ITEM * _count(args[0] if args else None)
    others = _charge(*args[1:], *options.values()) if len(args) > 1 or options else 0
    budget = _budget.get()
    budget.spend(4 * weight + (weight * others >> 3))
    if bound is not None:
        budget.admit(bound(weight + others, *args, **options))
    return others


# --- the environment --------------------------------------------------------------------------------------------------


class Environment(ImmutableSandboxedEnvironment):
    """Jinja as chat templates know it."""

    intercepted_binops = frozenset(["+", "-", "*", "/", "//", "%", "**"])

    def __init__(self) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            optimized=False,  # else constant expressions are evaluated while compiling, when there is no budget
            finalize=_emitted,
            extensions=[LoopControlExtension, _Generation],
        )
        known = self.filters
        self.filters = {name: known[name] for name in _FREE} | {"tojson": _tojson, **_INTERNAL}
        for table in (_SHALLOW, _DEEP):
            self.filters |= {name: _guarded(known[name], bound, deep=table is _DEEP) for name, bound in table.items()}
        for name in _COMPARING:
            self.tests[name] = _guarded(self.tests[name], None, deep=True)
        del self.globals["lipsum"]
        self.globals.update(namespace=_Namespace, raise_exception=_raise_exception, strftime_now=_strftime_now)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > LONGEST_TEMPLATE:
            raise TemplateSyntaxError(f"it has {len(source):,} characters, more than {LONGEST_TEMPLATE:,}", 1)
        return _Meter().visit(super()._parse(source, name, filename))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute `left operator right` if the result is not too large."""
        budget = _budget.get()
        if operator == "%" and isinstance(left, str):
            budget.admit(_percent(_charge(left, right), left))
        elif operator == "*" and (isinstance(left, int) or isinstance(right, int)):
            many, times = (right, left) if isinstance(left, int) else (left, right)
            if isinstance(many, (str, list, tuple)):
                budget.admit((1 if isinstance(many, str) else ITEM) * len(many) * max(times, 0))
        elif operator == "+" and isinstance(left, (str, list, tuple)) and isinstance(right, (str, list, tuple)):
            budget.admit((1 if isinstance(left, str) else ITEM) * (len(left) + len(right)))
        elif operator == "**" and isinstance(left, int) and isinstance(right, int) and left.bit_length() * right > BITS:
            raise SecurityError(f"it makes an integer of more than {BITS} bits")
        return _made(self.binop_table[operator](left, right))

    def call(self, context: Context, called: Any, /, *args: Any, **options: Any) -> Any:
        """Call a macro, a global, or one of the methods that plain data may be asked for."""
        owner = getattr(called, "__self__", None)
        methods = next((methods for kind, methods in _METHODS.items() if isinstance(owner, kind)), None)
        if methods is None:
            if not isinstance(owner, (NoneType, BlockReference, Cycler, LoopContext)):
                raise SecurityError(f"it calls a method of {type(owner).__name__}")
            if isinstance(called, Macro):  # which does nothing with its arguments by itself
                _budget.get().spend(CALL + ITEM * len(args))
            else:
                _budget.get().spend(8 * CALL)
                _charge(*args)
            return super().call(context, called, *args, **options)
        if called.__name__ not in methods:
            raise SecurityError(f"it calls the method {called.__name__!r} of a {type(owner).__name__}")
        own = {name: value for name, value in options.items() if name not in ("_loop_vars", "_block_vars")}
        # a look into a dictionary does not read all of it, nor does one at an end of a text
        first = None if isinstance(owner, dict) or called.__name__ in ("endswith", "startswith") else owner
        _pay(methods[called.__name__], (first, *args), own, deep=True)
        return _made(super().call(context, called, *args, **options))

    def getitem(self, obj: Any, argument: Any) -> Any:
        """Return `obj[argument]`."""
        if isinstance(argument, tuple):
            _charge(argument)
        return super().getitem(obj, argument)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """Return a `str.format` that pays for its fields; None if `value` is no such method."""
        found = super().wrap_str_format(value)
        if found is None:
            return None
        text = value.__self__
        with_map = value.__name__ == "format_map"

        def formatted(*args: Any, **options: Any) -> str:
            _charge(text, *args, *options.values())
            fields = args[0] if with_map else options
            return type(text)(_Formatter(self).vformat(text, () if with_map else args, fields))

        return formatted


class _Formatter(SandboxedFormatter):
    """`str.format` whose result is not too large."""

    made = 0

    def convert_field(self, value: Any, conversion: Any) -> Any:
        """Return a field's value as text if that is asked for."""
        _charge(value)
        return super().convert_field(value, conversion)

    def format_field(self, value: Any, format_spec: str) -> Any:
        """Return the text of a field."""
        if any(len(number) > 6 for number in "".join(c if c.isdecimal() else " " for c in format_spec).split()):
            raise SecurityError(f"it formats with {format_spec[:20]!r}")
        _charge(value)
        text = super().format_field(value, format_spec)
        self.made += len(text)
        _budget.get().admit(self.made)
        return text


class _Namespace(Namespace):
    """What `namespace()` makes; its text does not show what is in it, which may be itself."""

    def __repr__(self) -> str:
        return "<Namespace>"


class _Generation(Extension):
    """`{% generation %}...{% endgeneration %}` around what the assistant says, so that training can tell."""

    tags = {"generation"}

    def parse(self, parser: Parser) -> nodes.Node:
        """Read the block; marks go around it, which are empty unless they are asked for."""
        line = next(parser.stream).lineno
        body = parser.parse_statements(("name:endgeneration",), drop_needle=True)
        begin, end = (nodes.Output([_filter(nodes.Const(side), "-mark")], lineno=line) for side in (0, 1))
        return nodes.Scope([begin, *body, end], lineno=line)


def is_mark(node: nodes.Filter) -> bool:
    """Tell whether a node of a parsed template writes a mark around what the assistant says."""
    return node.name == "-mark"


class _Meter(NodeTransformer):
    """Puts the counters into a parsed template."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        """Count every round, also those that a condition skips."""
        self.generic_visit(node)
        node.body.insert(0, _statement(nodes.Const(True), "-tick", node.lineno))
        if node.test is not None:
            node.test = nodes.And(_filter(nodes.Const(True), "-tick"), node.test, lineno=node.lineno)
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node | list[nodes.Node]:
        """Count the characters that stand in the template itself."""
        length = sum(len(child.data) for child in node.nodes if isinstance(child, nodes.TemplateData))
        self.generic_visit(node)
        return [_statement(nodes.Const(length), "-emit", node.lineno), node] if length else node

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        """Count what is compared, unless one side is a literal, which ends a comparison soon."""
        self.generic_visit(node)
        literal = len(node.ops) == 1 and nodes.Const in (type(node.expr), type(node.ops[0].expr))
        for operand in node.ops:
            if operand.op in ("in", "notin"):
                operand.expr = _filter(operand.expr, "-searched")
            elif not literal:
                operand.expr = _filter(operand.expr, "-whole")
        if not literal:
            node.expr = _filter(node.expr, "-whole")
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        """Count what `~` joins."""
        self.generic_visit(node)
        return _filter(nodes.List(node.nodes, lineno=node.lineno), "-concatenated")

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        """Count what a slice copies."""
        self.generic_visit(node)
        return _filter(node, "-made") if isinstance(node.arg, nodes.Slice) else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        """Count what becomes a key."""
        self.generic_visit(node)
        for pair in node.items:
            if not isinstance(pair.key, nodes.Const):
                pair.key = _filter(pair.key, "-whole")
        return node


def _filter(node: nodes.Expr, name: str) -> nodes.Filter:
    """Apply one of our own filters: the cheapest call in a compiled template. Their names can not be written in one."""
    return nodes.Filter(node, name, [], [], None, None, lineno=node.lineno)


def _statement(node: nodes.Expr, name: str, line: int) -> nodes.ExprStmt:
    return nodes.ExprStmt(_filter(node, name), lineno=line)


def _tick(value: bool) -> bool:
    _budget.get().spend(0)
    return value


def _emit(length: int) -> str:
    _budget.get().emit(abs(length))  # `map("-emit")` could earn with negative numbers
    return ""


def _mark(side: int) -> str:
    return _budget.get().marks[side]


def _whole(value: Any) -> Any:
    _charge(value)
    return value


def _searched(value: Any) -> Any:
    if not isinstance(value, dict):  # which finds a key without reading the others
        _charge(value)
    return value


def _concatenated(values: list[Any]) -> str:
    budget = _budget.get()
    budget.admit(sum(weigh(value, budget.largest) for value in values))
    return _made("".join(map(str, values)))


_INTERNAL = {
    "-concatenated": _concatenated,
    "-emit": _emit,
    "-made": _made,
    "-mark": _mark,
    "-searched": _searched,
    "-tick": _tick,
    "-whole": _whole,
}


@pass_context
def _emitted(context: Context, value: Any) -> str:
    """Pay for a value that the template prints; needing the context keeps it from being called while compiling."""
    if not isinstance(value, str):
        _charge(value)
        value = str(value)
    _budget.get().emit(len(value))
    return value


def _tojson(
    value: Any,
    ensure_ascii: bool = False,
    indent: int | str | None = None,
    separators: tuple[str, str] | None = None,
    sort_keys: bool = False,
) -> str:
    """Write JSON for a model to read: without HTML's escapes, and in the order of the keys."""
    _charge(value, indent, separators)
    encoder = json.JSONEncoder(
        ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys, default=_refuse_json
    )
    if indent is None and separators is None:
        return _made(encoder.encode(value))
    if _number(indent) > 1000:
        raise SecurityError(f"it indents JSON by {indent}")
    budget, pieces, length = _budget.get(), [], 0
    for piece in encoder.iterencode(value):
        length += len(piece)
        budget.admit(length)
        pieces.append(piece)
    return _made("".join(pieces))


def _refuse_json(value: Any) -> Any:
    if isinstance(value, Opaque):
        str(value)  # which tells what it is
    raise TypeError(f"{type(value).__name__} can not be written as JSON")


def _raise_exception(message: Any) -> Any:
    raise TemplateRefusal(str(message))


def _strftime_now(format: str) -> str:
    return datetime.now().strftime(format[:1000])


class TemplateRefusal(TemplateError):
    """What a template raises itself, by `raise_exception`."""
