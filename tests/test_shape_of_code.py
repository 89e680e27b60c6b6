"""What every source file keeps to: its size, and what it may not contain."""

import ast
import re
import time

import pytest

from sources import NAMES, PACKAGE, imports_of, tree_of

MAX_FILE, MAX_FUNCTION = 600, 60  # lines
LONGER = {
    "models/bert.py": 680,  # eight heads of the encoder, and the decoder beside it
    "models/roberta.py": 760,  # the same, and three names for all of it
    "models/electra.py": 690,  # the encoder's heads and the decoder beside it, as in bert.py
    "models/ernie.py": 730,  # likewise
    "models/megatron_bert.py": 690,  # likewise
    "models/rembert.py": 630,  # likewise
    "models/roformer.py": 670,  # likewise
    "models/data2vec_text.py": 660,  # likewise
    "models/roberta_prelayernorm.py": 660,  # likewise
    "models/xlm_roberta_xl.py": 660,  # likewise
    "models/big_bird.py": 720,  # likewise, and sparse attention
    "models/luke.py": 740,  # nine heads, each of ten inputs and more by name
    "models/longt5.py": 630,  # all of T5's parts, and a third kind of attention
    "models/t5.py": 660,  # mT5 has six classes, which are T5's by name
}
every_file = pytest.mark.parametrize("name", NAMES)
every_model = pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("models/")])


def functions(name):
    return [node for node in ast.walk(tree_of(name)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]


def calls(name, *called):
    """Yield the calls of functions by the name they are written with: "eval", "torch.load"."""
    for node in ast.walk(tree_of(name)):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in called:
            yield node


@every_file
def test_files_are_short(name):
    assert len((PACKAGE / name).read_text(encoding="utf-8").splitlines()) <= LONGER.get(name, MAX_FILE)


@every_file
def test_functions_are_short(name):
    for function in functions(name):
        body = function.body[1:] if ast.get_docstring(function) and len(function.body) > 1 else function.body
        lines = (function.end_lineno or 0) - body[0].lineno + 1  # without signature and docstring
        assert lines <= MAX_FUNCTION, f"{function.name} has {lines} lines"


@every_model
def test_a_forward_takes_named_arguments_only(name):
    for function in functions(name):
        assert not (function.name == "forward" and (function.args.kwarg or function.args.vararg)), function.lineno


@every_model
def test_models_have_no_buffers(name):
    attributes = [node for node in ast.walk(tree_of(name)) if isinstance(node, ast.Attribute)]
    assert not [node.lineno for node in attributes if node.attr == "register_buffer"]


@every_file
def test_nothing_is_executed_from_data(name):
    imported = {module.split(".")[0] for module in imports_of(name)}
    assert not imported & {"pickle", "marshal", "shelve", "dill", "cloudpickle"}
    assert not list(calls(name, "eval", "exec", "compile", "__import__", "os.system", "subprocess.run"))
    for call in calls(name, "torch.load"):
        assert name == "weights.py" and "weights_only=True" in ast.unparse(call), f"line {call.lineno}"


@every_file
def test_users_meet_no_assert(name):
    assert not [node.lineno for node in ast.walk(tree_of(name)) if isinstance(node, ast.Assert)]


# --- regular expressions ----------------------------------------------------------------------------------------------

METHODS = ("compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn")
CALLS = [(name, call) for name in NAMES for call in calls(name, *(f"re.{method}" for method in METHODS))]
PATTERNS = sorted({str(call.args[0].value) for _, call in CALLS if isinstance(call.args[0], ast.Constant)})
SIZES = [20, 30, 300, 3_000, 100_000]  # a bad pattern is caught at a size at which it still ends
LIMIT = 0.1  # seconds


def test_patterns_are_literals():
    """So that the test below sees them all; a pattern that is put together at run time can not be judged."""
    assert not [f"{name}:{call.lineno}" for name, call in CALLS if not isinstance(call.args[0], ast.Constant)]


def hostile(pattern, size):
    """Yield long strings that nearly match: runs of each character that the pattern speaks of, and then another one."""
    samples = sorted({*"a0 _.-/<\n\t\u00e9", *re.sub(r"\\.|[\[\](){}*+?^$|]", "", pattern)})
    for text in (*samples, *(a + b for a in samples for b in samples[:4] if a != b), "<s_", "a.b", "[a](", "0,"):
        yield (text * size)[:size]
        yield (text * size)[: size - 1] + "\u2603"


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_are_fast_on_hostile_text(pattern):
    compiled = re.compile(pattern)
    for size in SIZES:
        for text in hostile(pattern, size):
            start = time.thread_time()
            compiled.search(text)
            compiled.fullmatch(text)
            compiled.sub("", text)
            assert time.thread_time() - start < LIMIT, f"{size} characters of {text[:4]!r}"
