"""Hostile templates: they reach nothing, they end soon, and they take little memory."""

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.chat import render
from pellucid.errors import PellucidError, TemplateError
from threads import in_threads

from .cases import CONVERSATIONS, TEMPLATES, WAYS

MESSAGES = [{"role": "user", "content": "Hello there"}, {"role": "assistant", "content": "ab"}]
SECONDS = 20  # several times what the slowest takes, for slow machines

GROW = "{% set ns = namespace(x=[1], y=[1], t=(1,), d=1, s='ab', n=3, i=1) %}{% for i in range(99) %}"
NESTED = GROW + "{% set ns.x = [ns.x, ns.x] %}{% set ns.y = [ns.y, ns.y] %}{% set ns.t = (ns.t, ns.t) %}{% endfor %}"
BIG = "{% set x = 'a' * 4000000 %}"
OFTEN = "{% for i in range(99999) %}"
STOPPED = {
    "loops": OFTEN + OFTEN + "{% endfor %}{% endfor %}",
    "loops that skip": OFTEN + "{% for j in range(99999) if false %}{% endfor %}{% endfor %}",
    "loops of text": OFTEN + OFTEN + "x" * 1000 + "{% endfor %}{% endfor %}",
    "text times": "{{ 'a' * 10**10 }}",
    "times text": "{{ 10**9 * 'a' }}",
    "list times": "{{ [0] * 10**9 }}",
    "tuple times": "{{ ((1,) * 1000) * 100000 }}",
    "powers": "{{ 10 ** (10 ** 10) }}",
    "squares": GROW + "{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "doubling by +": GROW + "{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "doubling by ~": GROW + "{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "many values": "{% set ns = namespace(l=[]) %}" + OFTEN + "{% set ns.l = ns.l + ['😀' * 4000000] %}{% endfor %}",
    "printing": NESTED + "{{ ns.x }}",
    "printing in JSON": NESTED + "{{ ns.x | tojson }}",
    "printing by a filter": NESTED + "{{ ns.x | string }}",
    "printing by format": NESTED + "{{ '{}'.format(ns.x) }}",
    "printing by %": NESTED + "{{ '%s' % (ns.x,) }}",
    "printing by ~": NESTED + "{{ ns.x ~ '' }}",
    "printing by join": NESTED + "{{ [ns.x] | join }}",
    "printing dictionaries": GROW + "{% set ns.d = {'a': ns.d, 'b': ns.d} %}{% endfor %}{{ ns.d }}",
    "printing views": GROW + "{% set ns.d = {'a': ns.d, 'b': ns.d}.items() %}{% endfor %}{{ ns.d }}",
    "comparing": NESTED + "{{ ns.x == ns.y }}",
    "comparing by a test": NESTED + "{{ ns.x is eq ns.y }}",
    "comparing in a list": NESTED + "{{ ns.x in [ns.y] }}",
    "comparing by index": NESTED + "{{ [ns.x].index(ns.y) }}",
    "comparing by sort": NESTED + "{{ [ns.x, ns.y] | sort }}",
    "comparing by unique": NESTED + "{{ [ns.t] | unique | list }}",
    "keys": NESTED + "{{ {ns.t: 1} }}",
    "looking for keys": NESTED + "{{ {}[ns.t] }}",
    "getting keys": NESTED + "{{ {}.get(ns.t) }}",
    "having keys": NESTED + "{{ ns.t in {} }}",
    "trees of macros": "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
    "width of center": "{{ 'a' | center(10**10) }}",
    "width of ljust": "{{ 'a'.ljust(10**10) }}",
    "width of zfill": "{{ 'a'.zfill(10**10) }}",
    "width of indent": "{{ ('a\n' * 1000) | indent(10**8) }}",
    "width of indent by name": "{{ 'a\nb' | indent(width=10**10) }}",
    "width of format": "{{ '%999999999d' % 1 }}",
    "width of format by a star": "{{ '%*d' % (10**9, 1) }}",
    "width of format with a key": "{{ '%(a)999999999d' % {'a': 1} }}",
    "width of format by a filter": "{{ '%999999999d' | format(1) }}",
    "width of format method": "{{ '{:999999999}'.format(1) }}",
    "width of format method inside": "{{ '{:{}}'.format(1, 10**9) }}",
    "widths of format": "{{ ('%99999d' * 10000) % ((1,) * 10000) }}",
    "widths of format method": "{{ ('{0:99999}' * 10000).format(1) }}",
    "fields of format": BIG + "{{ ('{0}' * 100000).format(x) }}",
    "fields of %": BIG + "{{ ('%(x)s' * 100000) % {'x': x} }}",
    "replace": "{% set x = 'a' * 100000 %}{{ x.replace('a', x) }}",
    "replace by a filter": "{% set x = 'a' * 100000 %}{{ x | replace('', x) }}",
    "replace by name": "{% set x = 'a' * 100000 %}{{ x | replace(old='a', new=x, count=none) }}",
    "join": BIG + "{{ range(9999) | join(x) }}",
    "join by name": BIG + "{{ range(9999) | join(d=x) }}",
    "join method": BIG + "{{ x.join(x) }}",
    "batch": "{{ [1] | batch(10**10, 0) | list }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "round": "{{ 10 | round(-10**9) }}",
    "sum": "{{ ([[1]] * 30000) | sum(start=[]) }}",
    "integers": "{{ ('f' * 4000000) | int(0, 16) }}",
    "indented JSON": "{{ messages | tojson(indent=10**9) }}",
    "JSON with separators": "{% set x = 'a' * 1000000 %}{{ (range(999) | list) | tojson(separators=(x, x)) }}",
    "strip": BIG + "{{ x.strip('b' + x) | length }}",
    "rfind": BIG + "{{ x.rfind('b' + 'a' * 2000000) }}",
    "slices": BIG + OFTEN + "{% set y = x[1:] %}{% endfor %}",
    "searches in text": BIG + OFTEN + "{% if 'b' in x %}{% endif %}{% endfor %}",
    "searches in lists": "{% set x = [1] * 30000 %}" + OFTEN + "{% if 'b' in x %}{% endif %}{% endfor %}",
    "selections": OFTEN + "{% set x = range(99999) | select('none') | list %}{% endfor %}",
    "attributes": "{{ range(9999) | map('abs') | map(attribute='x.' * 100000, default=0) | list }}",
    "splits": "{% set x = 'a ' * 16000 %}{% for i in range(9999) %}{% set y = x.split() %}{% endfor %}",
    "output": BIG + OFTEN + "{{ x }}{% endfor %}",
    "output of a macro": "{% macro f() %}" + OFTEN + "x" * 200000 + "{% endfor %}{% endmacro %}{% set y = f() %}",
    "output of a set": "{% set y %}" + OFTEN + "x" * 200000 + "{% endfor %}{% endset %}",
    "many operands": BIG + "{{ " + "~".join(["x"] * 2000) + " }}",
    "earning": "{{ [-10**12] | map('-emit') | list }}" + OFTEN + OFTEN + "{% endfor %}{% endfor %}",
    "splats": "{% macro f() %}{{ varargs | length }}{% endmacro %}" + OFTEN + "{{ f(*range(99999)) }}{% endfor %}",
    "counting in ranges": OFTEN + "{{ range(99999).count('a') }}{% endfor %}",
    "bytes": "{{ (5).to_bytes(10**9, 'big') }}",
    "keys of ranges": "{{ {}.fromkeys(range(99999)) }}",
    "internals of a text": "{{ ''.__class__.__mro__.x }}",
    "internals by format": "{{ '{0.__class__.__mro__}'.format(1) }}",
    "changes": "{{ messages.clear() }}",
}
FAILING = {  # for a reason of their own
    "recursion": "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}",
    "recursive loops": "{% for x in [[1]] recursive %}{{ loop([x, x]) }}{% endfor %}",
    "deep lists": "{% set n = namespace(x=1) %}{% for i in range(20000) %}{% set n.x = [n.x] %}{% endfor %}{{ n.x }}",
    "deep parentheses": "{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}",
    "deep loops": "{% for a in [1] %}" * 300 + "{% endfor %}" * 300,
    "deep conditions": "{% if 1 %}" * 2000 + "{% endif %}" * 2000,
    "long sums": "{{ " + "+".join("1" * 20000) + " }}",
    "many filters": "{{ 'x'" + "|upper" * 30000 + " }}",
    "open braces": "{{" * 100000,
    "open comments": "{#" * 100000,
    "an open text": "{{ '" + "a" * 200000,
    "a huge number": "{{ " + "9" * 100000 + " }}",
    "a long range": "{{ range(10**9) | list }}",
    "random text": "{{ lipsum(n=10**9) }}",
    "files": "{% include '/etc/passwd' %}",
    "globals": "{{ cycler.__init__.__globals__.os }}",
}


@pytest.mark.parametrize("name", STOPPED)
def test_stopped(name):
    start = time.thread_time()
    with pytest.raises(TemplateError, match="stopped in line"):
        render(STOPPED[name], MESSAGES)
    assert time.thread_time() - start < SECONDS


@pytest.mark.parametrize("name", FAILING)
def test_failing(name):
    start = time.thread_time()
    with pytest.raises(TemplateError):
        render(FAILING[name], MESSAGES)
    assert time.thread_time() - start < SECONDS


@pytest.mark.parametrize(
    "template, text",
    [
        ("{{ ''.__class__ }}{{ messages.__len__ }}{{ '' | attr('__class__') }}{{ self._x }}", ""),
        ("{{ raise_exception.__globals__ }}{{ namespace.__init__ }}{{ '{a.__class__}'.format_map({'a': 1}) }}", ""),
        ("{% set ns = namespace() %}{% set ns.x = ns %}{{ [ns.x.x.x] }}", "[<Namespace>]"),
        ("{{ strftime_now('%9999999Y' * 1000) | length < 1000000 }}", "True"),
        ("{{ ('9' * 4000000) | int }}", "0"),
        ("{% for x in range(9999) | map('abs') %}{% if loop.last %}{{ loop.length }}{% endif %}{% endfor %}", "9999"),
        (" " * 200_000 + "{% if true %}x{% endif %}", "x"),
    ],
)
def test_harmless(template, text):
    assert render(template, MESSAGES).text == text


@pytest.mark.skipif(sys.platform != "linux", reason="the limit on memory is Linux's")
def test_memory():
    """All of them under a limit, in a process of its own."""
    code = (
        "import resource, sys; resource.setrlimit(resource.RLIMIT_AS, (2**31, 2**31))\n"
        "from chat.test_sandbox import *\n"
        "for template in [*STOPPED.values(), *FAILING.values()]:\n"
        "    try: render(template, MESSAGES)\n"
        "    except TemplateError as error: assert not isinstance(error.__cause__, MemoryError), template[:200]\n"
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024)"
    )
    here = Path(__file__).parents[1]
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=here)
    assert done.returncode == 0, done.stderr
    assert int(done.stdout) < 1500  # MB


@pytest.mark.parametrize("name", TEMPLATES)
def test_long_conversations_are_no_bombs(name):
    """Two thousand messages, and one of a million characters."""
    many = [{"role": role, "content": f"message {n}"} for n in range(1000) for role in ("user", "assistant")]
    long = [{"role": "user", "content": "word " * 200_000}]
    for messages in (many, long):
        assert len(render(TEMPLATES[name], messages, special_tokens={"eos_token": "</s>"}).text) > 10_000


WORDS = ["x", "messages", "'a'", "1", "10", "[x, x]", "(x,)", "{'a': x}", "range(99)", "ns.v", "m", "'%s%9d'", "none"]
FILTERS = "string list tojson join('b') replace('a','bb') indent map('upper') sort sum unique first length batch(3)"
OPERATORS = ["+", "*", "**", "~", "==", "in", "<", "%", "//", "and", "or"]
EXPRESSION = st.recursive(
    st.sampled_from(WORDS),
    lambda inner: st.one_of(
        st.tuples(inner, st.sampled_from(OPERATORS), inner).map(lambda parts: f"({' '.join(parts)})"),
        st.tuples(inner, st.sampled_from(FILTERS.split())).map(lambda parts: f"({'|'.join(parts)})"),
        st.tuples(inner, inner).map(lambda parts: f"({parts[0]})[{parts[1]}:]"),
    ),
    max_leaves=6,
)
STATEMENT = st.recursive(
    st.one_of(
        EXPRESSION.map(lambda e: f"{{{{ {e} }}}}"),
        EXPRESSION.map(lambda e: f"{{% set ns.v = {e} %}}"),
        EXPRESSION.map(lambda e: f"{{% set x = {e} %}}"),
    ),
    lambda inner: st.one_of(
        st.tuples(EXPRESSION, inner).map(lambda parts: f"{{% for m in {parts[0]} %}}{parts[1]}{{% endfor %}}"),
        st.tuples(inner, inner).map("".join),
        inner.map(lambda body: f"{{% for i in range(40) %}}{body}{{% endfor %}}"),
    ),
    max_leaves=6,
)


@settings(max_examples=200, deadline=SECONDS * 1000)
@given(template=STATEMENT)
def test_any_template(template):
    with suppress(PellucidError):
        render("{% set ns = namespace(v='a') %}" + template, MESSAGES, variables={"x": "ab"})


def test_threads_share_templates():
    expected = {
        (name, label, way): _try(TEMPLATES[name], conversation, WAYS[way])
        for name in TEMPLATES
        for label, conversation in CONVERSATIONS.items()
        for way in ("plain", "tools")
    }

    def work(_):
        for (name, label, way), text in expected.items():
            assert _try(TEMPLATES[name], CONVERSATIONS[label], WAYS[way]) == text

    in_threads(work, range(8))


def _try(template, conversation, way):
    try:
        return render(template, conversation, **way).text
    except PellucidError as error:
        return str(error)
