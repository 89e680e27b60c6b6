"""Conversations as users write them, right and wrong."""

import re
from collections import OrderedDict, UserDict
from dataclasses import dataclass
from enum import Enum

import numpy as np
import pytest

from pellucid.chat import read_conversations, render
from pellucid.errors import InputError

USER = {"role": "user", "content": "Hi"}


@pytest.mark.parametrize(
    "given, read, batched",
    [
        ([USER], [[USER]], False),
        ((USER,), [[USER]], False),
        (iter([USER]), [[USER]], False),
        ([UserDict(USER), OrderedDict(USER)], [[USER, USER]], False),
        ([[USER], [USER, USER]], [[USER], [USER, USER]], True),
        ([(USER,)], [[USER]], True),
        ([{**USER, "name": None}], [[USER]], False),
        ([{"role": "assistant", "tool_calls": [1]}], [[{"role": "assistant", "tool_calls": [1]}]], False),
    ],
)
def test_shapes(given, read, batched):
    assert read_conversations(given) == (read, batched)


@pytest.mark.parametrize(
    "given, fault",
    [
        ("Hi", "the conversation is 'Hi' (str). Expected a list of dictionaries."),
        (USER, "the conversation is {'role': 'user', 'content': 'Hi'} (dict)"),
        (None, "the conversation is None (NoneType)"),
        ([], "the conversation is empty"),
        ([[USER], []], "item 0 of conversation 1 is missing"),
        ([USER, "Hi"], "item 1 of the conversation is 'Hi' (str). Expected a message, such as {'role': 'user'"),
        ([[USER], [USER, 5]], "item 1 of conversation 1 is 5 (int)"),
        ([[USER], USER], "conversation 1 is {'role': 'user', 'content': 'Hi'} (dict)"),
        ([{"content": "Hi"}], "item 0 of the conversation has 'content', but no 'role'"),
        ([{"role": 5, "content": "Hi"}], "but no 'role', which is a text"),
        (
            [USER, {"role": "user", "contents": "Hi"}],
            "item 1 of the conversation has 'role', 'contents', but no 'content'",
        ),
        ([{"role": "assistant", "content": None}], "has 'role', but no 'content', which is what the assistant says"),
    ],
)
def test_faults(given, fault):
    with pytest.raises(InputError, match=re.escape(fault)):
        read_conversations(given)


@dataclass
class Point:
    x: int


class Color(str, Enum):
    RED = "red"


@pytest.mark.parametrize(
    "value", [Point(1), Color.RED, np.float32(1.5), np.int64(2), (1, [2, {"a": None}]), float("inf"), {1: 2}], ids=str
)
def test_what_becomes_plain_data(tokenizers, value):
    ours, original = tokenizers
    messages, options = [{**USER, "value": value}], {"chat_template": "{{ messages }}{{ x }}", "tokenize": False}
    mine = ours.apply_chat_template(messages, x=value, **options)
    assert mine == original.apply_chat_template(messages, x=value, **options)


@pytest.mark.parametrize("names", [["reasoning"], ["reasoning_content"], ["thinking"], ["reasoning", "thinking"]])
def test_reasoning_has_every_name(tokenizers, names):
    ours, original = tokenizers
    messages = [{"role": "assistant", "content": "x", **dict(zip(names, "ab", strict=False))}]
    options = {"chat_template": "{{ messages }}", "tokenize": False}
    assert ours.apply_chat_template(messages, **options) == original.apply_chat_template(messages, **options)


@pytest.mark.parametrize("documents", ["text", ["text"], {"title": "x"}, 5])
def test_documents(documents):
    with pytest.raises(InputError, match="documents"):
        render("x", [USER], documents=documents)
