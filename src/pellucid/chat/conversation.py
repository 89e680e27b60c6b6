"""A conversation as templates see it: plain data, checked, with nothing of the caller's objects left to reach."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from pellucid.errors import InputError

Message = dict[str, Any]

_SPEAKING = ("system", "developer", "user")  # roles that can only say something


class Opaque:
    """What stands for an object that is no plain data, such as an image: it is there, but can not be printed."""

    def __init__(self, value: Any, where: str):
        self._fault = (
            f"{where} is of the type {type(value).__name__}, which a template can neither print nor call. Expected "
            "text, numbers, lists or dictionaries."
        )

    def __str__(self) -> str:
        raise InputError(self._fault)

    __repr__ = __str__

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Raise, as when it is printed."""
        raise InputError(self._fault)


def plain(value: Any, where: str) -> Any:
    """Return a copy that consists of text, numbers, lists and dictionaries.

    Args:
        value: anything; what is no data is replaced by an object that raises when it is printed.
        where: what it is called, for that message.
    """
    if value is None or type(value) in (str, bool, int, float):
        return value
    if isinstance(value, Mapping):
        return {plain(key, where): plain(item, f"{where}[{key!r}]") for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        items = [plain(item, f"{where}[{index}]") for index, item in enumerate(value)]
        return items if isinstance(value, list) else tuple(items)
    if isinstance(value, str):
        return str.__str__(value)
    for kind in (int, float):
        if isinstance(value, kind):
            return kind(value)
    if is_dataclass(value) and not isinstance(value, type):
        names = (field.name for field in fields(value))
        return {name: plain(getattr(value, name), f"{where}.{name}") for name in names}
    if getattr(value, "shape", None) == () and (item := getattr(value, "item", None)):  # a number of NumPy and the like
        return item()
    return Opaque(value, where)


def read_conversations(given: Any) -> tuple[list[list[Message]], bool]:
    """Return the conversations given to a call, with their messages checked, and whether there was a list of them.

    Args:
        given: a conversation, which is a list of messages, or a list of conversations.

    Raises:
        InputError: naming the message that is malformed.
    """
    items = _as_list(given, "the conversation")
    if not items:
        raise InputError("the conversation is empty. Expected at least one message, such as {'role': 'user', ...}.")
    if not isinstance(items[0], (list, tuple)):
        return [_read(items, "")], False
    return [_read(_as_list(item, f"conversation {n}"), f" of conversation {n}") for n, item in enumerate(items)], True


def _read(messages: list[Any], where: str) -> list[Message]:
    if not messages:
        raise InputError(f"item 0{where} is missing: it is empty. Expected at least one message.")
    read = []
    for index, message in enumerate(messages):
        place = f"item {index}{where or ' of the conversation'}"
        if not isinstance(message, Mapping):
            raise InputError(
                f"{place} is {shown(message)}. Expected a message, such as {{'role': 'user', 'content': 'Hello'}}."
            )
        message = {key: value for key, value in message.items() if value is not None}
        if not isinstance(message.get("role"), str):
            keys = ", ".join(map(repr, message)) or "nothing"
            raise InputError(f"{place} has {keys}, but no 'role', which is a text such as 'user' or 'assistant'.")
        if "content" not in message and (message["role"] in _SPEAKING or len(message) == 1):
            keys = ", ".join(map(repr, message))
            raise InputError(f"{place} has {keys}, but no 'content', which is what the {message['role']} says.")
        read.append(_with_reasoning(message))
    return read


def _with_reasoning(message: Message) -> Message:
    """Give what a model thought all the names that templates look for it under."""
    for name, others in (("thinking", ("reasoning_content", "reasoning")), ("reasoning_content", ("thinking",))):
        found = next((message[other] for other in others if other in message), None)
        if name not in message and found is not None:
            message = {**message, name: found}
    return {"thinking": message["thinking"], **message} if "thinking" in message else message


def texts(value: Any) -> Iterator[str]:
    """Yield every text in plain data."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for pair in value.items():
            yield from texts(pair)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts(item)


def read_documents(documents: Any) -> Any:
    """Return documents as plain data.

    Raises:
        InputError: if they are not a list of dictionaries.
    """
    if documents is None:
        return None
    items = _as_list(documents, "documents")
    for index, item in enumerate(items):
        if not isinstance(item, Mapping):
            raise InputError(f"item {index} of documents is {shown(item)}. Expected {{'title': ..., 'text': ...}}.")
    return plain(items, "documents")


def mark_end(messages: list[Message], key: str, mark: str) -> str:
    """Put a mark at the end of the last message's text, and return the text before it.

    Args:
        messages: the conversation, which is changed.
        key: the field with the text.
        mark: what to put there.

    Raises:
        InputError: if there is no text in that field.
    """
    message = messages[-1]
    holder, name = message, key
    if isinstance(message.get(key), (list, tuple)):
        parts = [part for part in message[key] if isinstance(part, dict) and isinstance(part.get("text"), str)]
        holder, name = (parts[-1], "text") if parts else ({}, "text")
    text = holder.get(name)
    if not isinstance(text, str):
        has = ", ".join(f"{field!r} ({type(value).__name__})" for field, value in message.items())
        raise InputError(
            f"continue_final_message asks to go on with the {key!r} of the last message, which has no text there. It "
            f"has {has}."
        )
    holder[name] = text + mark
    return text


def _as_list(value: Any, name: str) -> list[Any]:
    if isinstance(value, (str, bytes, Mapping)) or not isinstance(value, Iterable):
        raise InputError(f"{name} is {shown(value)}. Expected a list of dictionaries.")
    return list(value)


def shown(value: Any) -> str:
    """Return how a value looks, cut where it is long, and its type."""
    shown = repr(value)
    return f"{shown if len(shown) < 60 else shown[:57] + '...'} ({type(value).__name__})"
