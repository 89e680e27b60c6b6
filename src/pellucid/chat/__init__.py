"""Conversations as prompts: messages in, the text that a model was trained on out.

How a prompt looks is said by the model's chat template, a Jinja program that comes with its tokenizer. See
https://huggingface.co/docs/transformers/chat_templating for the format. `Tokenizer.apply_chat_template` is the way in.
"""

import sys
from collections.abc import Mapping
from difflib import get_close_matches
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

from pellucid.errors import ArgumentError, InputError, PellucidError, TemplateError, did_you_mean

from .conversation import Message, mark_end, plain, read_conversations, read_documents, texts
from .tools import tool_schema

if TYPE_CHECKING:
    from jinja2 import Template

__all__ = ["Prompt", "choose_template", "read_conversations", "render", "tool_schema"]

_MARKS = [chr(code) for code in range(0x13000, 0x13400)]  # hieroglyphs: rare, and nothing writes them in another way


class Prompt(NamedTuple):
    """A rendered conversation."""

    text: str
    """What the model reads."""
    spans: list[tuple[int, int]]
    """Characters of `text`, (start, end), that the assistant said, if they were asked for."""


class _Compiled(NamedTuple):
    template: "Template"
    names: frozenset[str]
    """The variables that the template speaks of."""
    marks_assistant: bool
    """Whether it has `{% generation %}` blocks."""


def choose_template(known: str | Mapping[str, str] | None, asked: str | None, tools: Any) -> str:
    """Return the template for a call.

    Args:
        known: the tokenizer's template, or several by name.
        asked: the text of a template, or one of the names; None for the usual one, which is the one named "tool_use"
            if there is one and there are tools, and else the one named "default".
        tools: the call's tools.

    Raises:
        InputError: if there is no such template.
    """
    named = known if isinstance(known, Mapping) else {}
    if asked is not None:
        if asked in named:
            return named[asked]
        if not asked or "{" in asked or "\n" in asked:
            return asked
        has = f"has the templates {', '.join(named)}" if named else "has one template, without a name" if known else ""
        raise InputError(
            f"chat_template={asked!r} is neither a template nor the name of one{did_you_mean(asked, named) or '.'} The "
            f"tokenizer {has or 'has no template'}."
        )
    if isinstance(known, str):
        return known
    for name in ("tool_use", "default") if tools is not None else ("default",):
        if name in named:
            return named[name]
    if named:
        raise InputError(
            f"none of the chat templates is the default one. Choose with chat_template: {', '.join(named)}."
        )
    raise InputError(
        "this tokenizer has no chat template: its folder has neither a chat_template.jinja nor a 'chat_template' in "
        "tokenizer_config.json. Models that were not trained to chat have none. Set tokenizer.chat_template, or give "
        "chat_template=... to the call."
    )


def render(
    template: str,
    messages: list[Message],
    *,
    tools: Any = None,
    documents: Any = None,
    add_generation_prompt: bool = False,
    continue_final_message: bool | str = False,
    mark_assistant: bool = False,
    special_tokens: Mapping[str, Any] | None = None,
    variables: Mapping[str, Any] | None = None,
    arguments: tuple[str, ...] = (),
) -> Prompt:
    """Render one conversation.

    Args:
        template: the template's text.
        messages: the conversation, as `read_conversations` returns it.
        tools: schemas or functions; None for none.
        documents: dictionaries; None for none.
        add_generation_prompt: whether to end with what begins an answer.
        continue_final_message: whether to end within the last message, so that the model goes on with it; the name of
            a field goes on with that one instead of "content".
        mark_assistant: whether to find what the assistant said, by the template's `{% generation %}` blocks.
        special_tokens: variables that every call has, such as `bos_token`.
        variables: further variables, of this call.
        arguments: names that a misspelt variable may have meant.

    Raises:
        ArgumentError: if a variable is not in the template, and has nearly the name of an argument.
        InputError: if something given is malformed, or the template can not do what is asked for.
        TemplateError: if the template is broken, refuses the conversation, or does too much.
    """
    from . import sandbox

    compiled = _compile(template)
    if mark_assistant and not compiled.marks_assistant:
        raise InputError(
            "return_assistant_tokens_mask needs a chat template that says what the assistant's part is, by "
            "{% generation %} and {% endgeneration %}; this one has none. Give a template with them as chat_template."
        )
    _refuse_misspelt(variables or {}, compiled.names, arguments)
    try:
        data: dict[str, Any] = {
            **{name: plain(value, name) for name, value in {**(special_tokens or {}), **(variables or {})}.items()},
            "messages": plain(messages, "messages"),
            "tools": _read_tools(tools),
            "documents": read_documents(documents),
            "add_generation_prompt": add_generation_prompt,
        }
        begin, end, last = (
            _unused_marks([template, *texts(data)]) if mark_assistant or continue_final_message else [""] * 3
        )
    except RecursionError:
        raise InputError("the conversation nests too deep, or contains itself.") from None
    key = continue_final_message if isinstance(continue_final_message, str) else "content"
    final = mark_end(data["messages"], key, last + " ") if continue_final_message else ""
    marks = (begin, end) if mark_assistant else ("", "")
    budget = sandbox.Budget(sandbox.weigh(data, sys.maxsize), len(messages), marks)
    text = _run(compiled.template, data, budget)
    if continue_final_message:
        text = _cut(text, last, final, key)
    return _split(text, begin, end) if mark_assistant else Prompt(text, [])


def _run(template: "Template", data: dict[str, Any], budget: Any) -> str:
    from . import sandbox

    try:
        return sandbox.render(template, data, budget)
    except PellucidError:
        raise
    except sandbox.TemplateRefusal as error:
        raise TemplateError(f"the chat template refuses this conversation: {error}") from error
    except sandbox.SecurityError as error:
        raise TemplateError(f"the chat template was stopped{_line(error)}: {str(error).rstrip('.')}.") from error
    except Exception as error:
        fault = str(error).rstrip(".") or type(error).__name__
        raise TemplateError(f"the chat template fails{_line(error)} on this conversation: {fault}.") from error


def _line(error: BaseException) -> str:
    """Return where in the template an error occurred: the innermost line that its traceback shows."""
    line, step = None, error.__traceback__
    while step is not None:
        line = step.tb_lineno if step.tb_frame.f_code.co_filename == "<template>" else line
        step = step.tb_next
    return "" if line is None else f" in line {line}"


@lru_cache(maxsize=128)
def _compile(text: str) -> _Compiled:
    from jinja2 import nodes
    from jinja2.exceptions import TemplateSyntaxError

    from .sandbox import is_mark

    try:
        tree = _environment().parse(text)
        names = frozenset(name.name for name in tree.find_all(nodes.Name))
        return _Compiled(_environment().from_string(tree), names, any(map(is_mark, tree.find_all(nodes.Filter))))
    except TemplateSyntaxError as error:
        raise TemplateError(
            f"the chat template is broken in line {error.lineno}: {str(error.message).rstrip('.')}."
        ) from error
    except (RecursionError, MemoryError, SyntaxError) as error:
        raise TemplateError(f"the chat template nests too deep to be compiled ({error}).") from error
    except Exception as error:
        raise TemplateError(f"the chat template can not be compiled: {error}.") from error


@lru_cache(maxsize=1)
def _environment() -> Any:
    from .sandbox import Environment

    return Environment()


def _refuse_misspelt(variables: Mapping[str, Any], names: frozenset[str], arguments: tuple[str, ...]) -> None:
    if "messages" in variables:
        raise ArgumentError(
            "the variable 'messages' of a chat template is the conversation. Give it as the first argument."
        )
    for name in variables:
        if name not in names and (near := get_close_matches(name, arguments, n=1, cutoff=0.8)):
            raise ArgumentError(
                f"apply_chat_template has no argument {name!r}, and the chat template does not use it; did you mean "
                f"{near[0]!r}?"
            )


def _read_tools(tools: Any) -> list[dict[str, Any]] | None:
    if tools is None:
        return None
    if isinstance(tools, (str, bytes, Mapping)) or not hasattr(tools, "__iter__"):
        raise InputError(f"tools is a {type(tools).__name__}. Expected a list of JSON schemas or functions.")
    schemas = []
    for index, tool in enumerate(tools):
        try:
            schemas.append(plain(tool_schema(tool), f"tools[{index}]"))
        except InputError as error:
            raise InputError(f"tool {index} can not be used: {error}") from None
    return schemas


def _unused_marks(given: list[str]) -> list[str]:
    """Return three characters that do not occur."""
    used = set().union(*given)
    free = [mark for mark in _MARKS if mark not in used]
    if len(free) < 3:
        raise InputError(
            "the conversation has all Egyptian hieroglyphs, of which three are needed as marks. Leave some out."
        )
    return free[:3]


def _cut(text: str, mark: str, final: str, key: str) -> str:
    """Cut a prompt off where its last message ends."""
    place = text.rfind(mark)
    if place < 0:
        raise InputError(f"continue_final_message: the chat template does not show the {key!r} of the last message.")
    # a template that takes spaces off the end of a text has taken the one behind the mark
    kept = text[:place] if text.startswith(mark + " ", place) else text[:place].rstrip()
    kept = kept.replace(mark + " ", "").replace(mark, "")
    if not kept.rstrip().endswith(final.strip()):
        raise InputError(
            "continue_final_message: the chat template changes the last message, so that the prompt does not end with "
            f"it. The message ends with {final[-40:]!r}, the prompt with {kept[-40:]!r}."
        )
    return kept


def _split(text: str, begin: str, end: str) -> Prompt:
    """Take the marks out of a prompt, and return what was between them."""
    pieces: list[str] = []
    spans: list[tuple[int, int]] = []
    length, depth, start = 0, 0, 0
    for opened in text.split(begin):
        for index, piece in enumerate(opened.split(end)):
            if index:
                depth -= 1
                if not depth:
                    spans.append((start, length))
            pieces.append(piece)
            length += len(piece)
        if not depth:
            start = length
        depth += 1
    return Prompt("".join(pieces), spans)
