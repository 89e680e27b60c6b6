"""Templates that use every construct, over every shape of conversation, against the original library."""

import re
from datetime import datetime

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pellucid.chat import choose_template, render
from pellucid.errors import ArgumentError, InputError, TemplateError

from .cases import CONVERSATIONS, SYSTEM, TEMPLATES, USER, WAYS

PLAIN = TEMPLATES["plain"]
MESSAGES = [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "yo"}]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", TEMPLATES)
def test_same_text(both, name, way):
    rendered = 0
    for label, conversation in CONVERSATIONS.items():
        mine, theirs = both(conversation, TEMPLATES[name], **WAYS[way])
        assert mine == theirs, label
        rendered += mine is not None
    assert rendered >= 5


TEXT = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from(["", " ", "\n", " a ", "<think>a</think>b", "{{ x }}", "[end]", "a\nb\n"]),
)
MESSAGE = st.fixed_dictionaries(
    {"role": st.sampled_from(["user", "assistant", "system", "tool"]), "content": TEXT},
    optional={"reasoning_content": TEXT, "name": TEXT},
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(conversation=st.lists(MESSAGE, min_size=1, max_size=5), name=st.sampled_from(sorted(TEMPLATES)), data=st.data())
def test_any_conversation(both, conversation, name, data):
    mine, theirs = both(conversation, TEMPLATES[name], **data.draw(st.sampled_from(list(WAYS.values()))))
    assert mine == theirs or (mine is None and "think" in str(conversation))


SMALL = [  # what templates do that deserves a look of its own
    "{{ bos_token }}|{{ eos_token }}|{{ pad_token }}|{{ unk_token }}|{{ add_generation_prompt }}",
    "{{ tools }}|{{ documents }}|{{ continue_final_message }}|{{ chat_template }}",
    "{{ {'b': 'é<>&\\'', 'a': [1, 2.5, none, true]} | tojson }}{{ {'b': 1, 'a': [1]} | tojson(indent=2) }}",
    "{{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}{{ 'é' | tojson(ensure_ascii=true) }}",
    "{{ messages | tojson }}",
    "{{ messages }}",
    "a\n\n{% if true %}\n  b\n{% endif %}\n    {# c #}\n  {%- if true -%}  \n d \n{% endif %}\n",
    "a\r\n{% if true %}\r\nb{% endif %}\r\nc\r\n",
    "{% for m in messages %}{% if loop.index == 2 %}{% break %}{% endif %}{{ m.content }}{% endfor %}",
    "{% for m in messages %}{% if m.role == 'user' %}{% continue %}{% endif %}{{ m.content }}{% endfor %}",
    "{% generation %}a{% generation %}b{% endgeneration %}{% set q = 1 %}{% endgeneration %}{{ q }}",
    "{{ strftime_now('%Y') }}",
    "{{ messages[0].__class__ }}|{{ messages[0].content.__class__.__mro__ }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ messages[0]['content'] | attr('__class__') }}",
    "{{ '{0.__class__}'.format(1) }}",
    "{{ messages.append(1) }}",
    "{{ messages[0].update({'a': 1}) }}",
    "{{ messages[0].pop('role') }}",
    "{% do x %}",
    "{% if %}",
    "{{ a.b.c }}",
    "{{ 1 / 0 }}",
    "{{ raise_exception('x') }}",
    "{{ raise_exception() }}",
    "{% include 'x' %}",
    "{% import 'x' as y %}",
    "{% extends 'x' %}",
    "{{ range(3) | list }}{{ dict(a=1) }}{{ namespace(a=1).a }}{{ 10 % 3 }}{{ 'x' * 3 }}{{ [1] + [2] }}",
    "{{ messages[0] == messages[1] }}{{ messages[0] in messages }}{{ 1 < 2 < 3 }}{{ 'a' ~ 1 ~ none }}",
    "{{ messages[-1:][0].content[::-1] }}{{ messages[0].get('x', 'y') }}{{ 'a-b'.partition('-') }}{{ not messages }}",
    "{% macro f(x, y=2) %}{{ x }}{{ y }}{{ varargs }}{{ kwargs }}{% endmacro %}{{ f(1, 3, 4) }}{{ f(x=1, z=2) }}",
    "{{ '%05.1f' % 2.25 }}{{ 'Ab'.swapcase() }}",
    "{% block a %}{{ self.b() if false }}x{% endblock %}{{ self.a() }}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set (c, d) = [3, 4] %}{{ c + d }}",
    "{{ messages | selectattr('role', 'equalto', 'user') | list | length }}{{ messages | rejectattr('x') | first }}",
    "{{ ['b', 'a'] | sort(reverse=true) | join }}{{ 'a b' | wordcount }}{{ 'x' | center(5) }}",
    "{{ 'abc' | truncate(2, true, '') }}{{ 'a' is string }}{{ 1 is number }}{{ messages is iterable }}",
    "{{ x is defined }}{{ 3 is odd }}{{ 1 is in [1] }}{{ 3 is divisibleby 3 }}{{ none is none }}{{ 1 is ge 1 }}",
    "{% autoescape true %}<{{ '<' }}{{ 'a' ~ 'b' }}{% endautoescape %}",
    "{{ [[1], [2]] | sum(start=[]) }}{{ [1, 2] | sum }}{{ 'é' | urlencode }}{{ 2 ** 10 }}{{ -3 }}{{ 7 // 2 }}",
]


@pytest.mark.parametrize("template", SMALL)
def test_small_templates(both, template):
    mine, theirs = both(MESSAGES, template)
    assert mine == theirs


@pytest.mark.parametrize(
    "kind, value", [("dict", {"a": (1, None)}), ("number", 1.5), ("None", None), ("text", "é"), ("truth", True)]
)
def test_variables(both, kind, value):
    mine, theirs = both(MESSAGES, "{{ x }}|{{ x is none }}", x=value)
    assert mine == theirs is not None


def test_time_is_now(both):
    assert render("{{ strftime_now('%d %m %Y') }}", MESSAGES).text == datetime.now().strftime("%d %m %Y")


# --- going on with the last message -----------------------------------------------------------------------------------

TEMPLATE = "{% for m in messages %}[{{ m.role }}]{{ m.content }}</s>{% endfor %}"
TRIMMED = TEMPLATE.replace("m.content", "m.content | trim")


@pytest.mark.parametrize("content", ["yo", "yo ", "  yo ", "yo\n", "", "  ", "s", "a </s> b"])
@pytest.mark.parametrize("template", [TEMPLATE, TRIMMED, TEMPLATE + "ss", TRIMMED.replace("</s>", " </s>")])
def test_continuing(both, template, content):
    mine, theirs = both([USER, {"role": "assistant", "content": content}], template, continue_final_message=True)
    assert mine == theirs is not None


def test_continuing_another_field(both):
    messages = [USER, {"role": "assistant", "content": "yo", "reasoning": "I th"}]
    template = "{% for m in messages %}<{{ m.reasoning }}>{{ m.content }}{% endfor %}"
    mine, theirs = both(messages, template, continue_final_message="reasoning")
    assert mine == theirs == f"<>{USER['content']}<I th"


def test_continuing_the_last_part(both):
    messages = [{"role": "assistant", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}]
    template = "{% for part in messages[0].content %}({{ part.text }}){% endfor %}"
    mine, theirs = both(messages, template, continue_final_message=True)
    assert mine == theirs == "(a)(b"


@pytest.mark.parametrize(
    "message, template, fault",
    [
        ({"role": "assistant", "tool_calls": []}, TEMPLATE, "'content' of the last message, which has no text"),
        ({"role": "assistant", "content": [{"type": "image"}]}, TEMPLATE, "no text there"),
        ({"role": "assistant", "content": 5}, TEMPLATE, r"'content' \(int\)"),
        ({"role": "assistant", "content": "x"}, "nothing", "does not show the 'content'"),
        ({"role": "assistant", "content": "abc"}, "{{ messages[0].content[1:] }}", "changes the last message"),
    ],
)
def test_what_can_not_be_continued(message, template, fault):
    with pytest.raises(InputError, match=fault):
        render(template, [message], continue_final_message=True)


def test_the_callers_messages_stay_as_they_are():
    messages = [{"role": "user", "content": "a", "parts": [{"x": 1}]}]
    render(TEMPLATE, messages, continue_final_message=True)
    assert messages == [{"role": "user", "content": "a", "parts": [{"x": 1}]}]


# --- what the assistant says ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template, said",
    [
        (PLAIN, ["yo[end]"]),
        ("{% for m in messages %}({% generation %}{{ m.content }}{% endgeneration %}){% endfor %}", ["Hi", "yo"]),
        (
            "{% macro f(m) %}<{% generation %}{{ m.content }}{% endgeneration %}>{% endmacro %}12{{ f(messages[1]) }}",
            ["yo"],
        ),
        ("{% set z %}<{% generation %}abc{% endgeneration %}>{% endset %}12345{{ z }}", ["abc"]),
        ("{% generation %}a{% generation %}b{% endgeneration %}c{% endgeneration %}d", ["abc"]),
        ("{% for m in messages %}{% generation %}{{ m.content }}{% break %}{% endgeneration %}{% endfor %}", []),
        ("{% if false %}{% generation %}a{% endgeneration %}{% endif %}b", []),
    ],
)
def test_spans(template, said):
    prompt = render(template, MESSAGES, mark_assistant=True)
    assert [prompt.text[start:end] for start, end in prompt.spans] == said
    assert prompt.text == render(template, MESSAGES).text


def test_marks_are_characters_that_do_not_occur():
    messages = [{"role": "assistant", "content": "".join(map(chr, range(0x13000, 0x13050)))}]
    prompt = render(PLAIN, messages, mark_assistant=True)
    assert prompt.text == render(PLAIN, messages).text
    messages[0]["content"] = "".join(map(chr, range(0x13000, 0x13400)))
    with pytest.raises(InputError, match="hieroglyphs"):
        render(PLAIN, messages, mark_assistant=True)


def test_a_template_must_tell():
    with pytest.raises(InputError, match=r"\{% generation %\}"):
        render(TEMPLATE, MESSAGES, mark_assistant=True)


# --- faults -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template, message",
    [
        ("a\n{% if %}", "the chat template is broken in line 2: Expected an expression, got 'end of statement block'."),
        ("a\n\n{{ x.y.z }}", "the chat template fails in line 3 on this conversation: 'x' is undefined."),
        (
            "{% macro f() %}\n{{ 1 / 0 }}{% endmacro %}\n{{ f() }}",
            "fails in line 2 on this conversation: division by zero",
        ),
        ("{{ raise_exception('Only one system message.') }}", "refuses this conversation: Only one system message."),
        ("{{ messages.append(1) }}", "stopped in line 1: access to attribute 'append' of 'list' object is unsafe."),
        ("{{ 'a' * 10**9 }}", "stopped in line 1: it makes a value of more than"),
        ("{% include 'x' %}", "no loader"),
        ("{{ 'x' | urlize }}", "broken in line 1: No filter named 'urlize'"),
        ("{{ " + "[" * 3000 + "]" * 3000 + " }}", "nests too deep"),
        ("x" * 300_000, "300,000 characters"),
    ],
)
def test_faults_of_templates(template, message):
    with pytest.raises(TemplateError, match=re.escape(message)):
        render(template, MESSAGES)


def test_what_is_no_data_may_be_there_but_not_be_used():
    class Image:
        content = "secret"

    messages = [{"role": "user", "content": "x", "image": Image()}]
    assert render("{{ messages[0].image is defined }}{{ messages[0].image.content }}", messages).text == "True"
    for use in (
        "{{ messages[0].image }}",
        "{{ messages }}",
        "{{ messages | tojson }}",
        "{{ 'a' ~ messages[0].image }}",
    ):
        with pytest.raises(InputError, match=r"messages\[0\]\['image'\] is of the type Image"):
            render(use, messages)
    with pytest.raises(InputError, match="f is of the type function"):
        render("{{ f(1) }}", MESSAGES, variables={"f": lambda x: x})


def test_conversations_that_contain_themselves():
    messages = [{"role": "user", "content": "x"}]
    messages[0]["self"] = messages
    with pytest.raises(InputError, match="contains itself"):
        render(TEMPLATE, messages)


def test_misspelt_arguments():
    arguments = ("add_generation_prompt", "tools")
    with pytest.raises(ArgumentError, match=r"'add_generation_promt'.*did you mean 'add_generation_prompt'"):
        render(TEMPLATE, MESSAGES, variables={"add_generation_promt": True}, arguments=arguments)
    with pytest.raises(ArgumentError, match="'messages'"):
        render(TEMPLATE, MESSAGES, variables={"messages": []}, arguments=arguments)
    assert render("{{ tool }}", MESSAGES, variables={"tool": "x"}, arguments=arguments).text == "x"
    assert render("x", MESSAGES, variables={"enable_thinking": True}, arguments=arguments).text == "x"


# --- which template ---------------------------------------------------------------------------------------------------

NAMED = {"default": "D", "rag": "R", "tool_use": "T"}


@pytest.mark.parametrize(
    "known, asked, tools, chosen",
    [
        ("one", None, None, "one"),
        ("one", "{{ given }}", None, "{{ given }}"),
        (None, "{{ given }}", None, "{{ given }}"),
        (NAMED, None, None, "D"),
        (NAMED, None, [], "T"),
        (NAMED, "rag", [], "R"),
        ({"default": "D"}, None, [], "D"),
        ("", None, None, ""),
    ],
)
def test_choosing(known, asked, tools, chosen):
    assert choose_template(known, asked, tools) == chosen


@pytest.mark.parametrize(
    "known, asked, fault",
    [
        (None, None, r"no chat template.*chat_template\.jinja.*chat_template=\.\.\."),
        ({"rag": "R"}, None, "Choose with chat_template: rag"),
        (NAMED, "ragg", r"'ragg' is neither.*did you mean 'rag'\?.*default, rag, tool_use"),
        ("one", "rag", "has one template, without a name"),
        (None, "rag", "has no template"),
    ],
)
def test_no_such_template(known, asked, fault):
    with pytest.raises(InputError, match=fault):
        choose_template(known, asked, None)


def test_templates_are_compiled_once():
    from pellucid.chat import _compile

    template = f"{TEMPLATE}{id(object())}"
    render(template, MESSAGES)
    before = _compile.cache_info().misses
    for _ in range(3):
        render(template, [SYSTEM, USER])
    assert _compile.cache_info().misses == before
