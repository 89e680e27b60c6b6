"""The floors of the house: imports point downwards only, and what must stay light stays light."""

import ast
import subprocess
import sys

import pytest

import pellucid
from sources import NAMES, imports_of, tree_of

FLOORS = [
    {"chat", "errors", "folder", "gguf", "hub", "download", "config", "generation_config", "tensorflow_import"},
    {
        *("outputs", "layout", "attention", "cache", "experts", "recurrence", "rope"),
        *("weights", "loading", "recording", "model", "adapters", "lora"),
        *("foreign", "foreign_writing", "flax_attention", "flax_generation", "flax_layers", "flax_model"),
        *("tf_attention", "tf_generation", "tf_layers", "tf_model", "tf_ragged"),
    },
    {"models", "models_flax", "models_tf"},
    {"auto", "tokenizer", "batching", "compiling", "generation", "inference"},
    {"pipelines", "training"},
    {"cli", "console", "convert", "builtin"},
]
FLOOR_OF = {room: floor for floor, rooms in enumerate(FLOORS) for room in rooms}
LIGHT = {
    "chat",
    "errors",
    "folder",
    "gguf",
    "hub",
    "download",
    "config",
    "generation_config",
    "tokenizer",
}  # rooms that can be used without torch
HEAVY = {"torch", "numpy"}
UPWARDS = {  # Model.generate is the one method that reaches up, and what joins any two models the one file
    ("model.py", "generation"),
    ("models/encoder_decoder.py", "auto"),
}
FOREIGN = ("flax_", "models_flax", "tf_", "models_tf")  # what is written in another framework
INSIDE = [name for name in NAMES if name != "__init__.py"]


def room_of(module: str) -> str:
    """Return the room of a module inside the package: "models" for "pellucid.models.bert"."""
    return module.split(".")[1]


@pytest.mark.parametrize("name", INSIDE)
def test_imports_point_downwards(name):
    room = name.split("/")[0].removesuffix(".py")
    assert room in FLOOR_OF, f"{room} is new: give it a floor in this file"
    for module in imports_of(name):
        if module.startswith("pellucid.") and room_of(module) in FLOOR_OF and (name, room_of(module)) not in UPWARDS:
            assert FLOOR_OF[room_of(module)] <= FLOOR_OF[room], f"{name} imports {module}, which is above it"


@pytest.mark.parametrize("name", [name for name in INSIDE if name.startswith("models")])
def test_models_know_no_sibling(name):
    folder = name.partition("/")[0]
    siblings = [module for module in imports_of(name) if module.startswith(("pellucid.models.", "pellucid.models_"))]
    assert all(folder != "models" and module.startswith("pellucid.models.") for module in siblings), siblings


def test_every_room_has_a_file():
    rooms = {name.split("/")[0].removesuffix(".py") for name in INSIDE}
    assert set(FLOOR_OF) <= rooms, "a floor names a room that is gone"


@pytest.mark.parametrize("name", [name for name in NAMES if not name.startswith(FOREIGN)])
def test_other_frameworks_are_not_imported_until_asked_for(name):
    tops = [s for s in at_import(tree_of(name)) if isinstance(s, ast.Import | ast.ImportFrom)]
    modules = set(imports_of(name, tops))
    assert not {module.split(".")[0] for module in modules} & {"jax", "flax", "optax", "tensorflow", "keras"}
    assert not [module for module in modules if module.removeprefix("pellucid.").startswith(FOREIGN)]


def at_import(tree: ast.Module) -> list[ast.stmt]:
    """Return the statements that run when a file is imported, less those for type checkers."""
    return [s for s in tree.body if not (isinstance(s, ast.If) and "TYPE_CHECKING" in ast.dump(s.test))]


@pytest.mark.parametrize("name", [name for name in INSIDE if name.split("/")[0].removesuffix(".py") in LIGHT])
def test_light_rooms_import_neither_torch_nor_numpy(name):
    tops = [s for s in at_import(tree_of(name)) if isinstance(s, ast.Import | ast.ImportFrom)]
    assert not {module.split(".")[0] for module in imports_of(name, tops)} & HEAVY


@pytest.mark.parametrize(
    "work",
    [
        "import pellucid",
        "import pellucid; dir(pellucid); pellucid.PellucidError; pellucid.Config",
        "from pellucid import AutoTokenizer, Tokenizer, BatchEncoding, BertTokenizer",
        "import pellucid.hub, pellucid.folder, pellucid.config",
        "from pellucid import cli",
    ],
)
def test_nothing_heavy_is_loaded(work):
    heavy = sorted({*HEAVY, "transformers", "huggingface_hub"})
    code = f"{work}\nimport sys\nprint(*[name for name in {heavy} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


LATE = ("dataclasses", "hashlib", "logging", "pellucid.chat", "pellucid.download", "pellucid.gguf", "urllib.request")
NEEDLESS = (
    "torch._dynamo",
    "sympy",
    "scipy",
    "huggingface_hub",
    "requests",
    "httpx",
    "jinja2",
    "typer",
    "rich",
    "yaml",
)


@pytest.mark.parametrize(
    "work, needless",
    [
        ("from pellucid import AutoTokenizer as T; T.from_pretrained('pellucid/sentiment')('Good.')", LATE),
        ("import pellucid; pellucid.pipeline('sentiment-analysis', 'pellucid/sentiment')('Good.')", NEEDLESS),
    ],
    ids=["ids", "answer"],
)
def test_the_first_result_loads_what_it_needs(work, needless):
    """A process that wants one result waits for every module that it loads."""
    code = f"import sys\nbefore = set(sys.modules)\n{work}\nprint(*sorted({{*{needless}}} & {{*sys.modules}} - before))"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("", "")


def test_public_names_agree():
    block = next(s for s in tree_of("__init__.py").body if isinstance(s, ast.If))
    for_checkers = {alias.name: s.module for s in block.body if isinstance(s, ast.ImportFrom) for alias in s.names}
    assert for_checkers == pellucid.HOME
    assert pellucid.__all__ == sorted(pellucid.HOME)
    assert set(pellucid.__all__) <= set(dir(pellucid))
    for name, room in pellucid.HOME.items():
        home = f"pellucid.{room}"
        assert getattr(getattr(pellucid, name), "__module__", home).startswith(home), name
