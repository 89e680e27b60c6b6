"""The README tells the truth: its Python runs, its table of architectures is the code's, its commands exist.

`python tests/test_readme.py` writes the table anew.
"""

import re
import shutil
from pathlib import Path

import pytest

import writer
from pellucid import auto

ROOT = Path(__file__).parent.parent
README = ROOT / "README.md"
BEGIN, END = "<!-- architectures: made by python tests/test_readme.py -->\n", "<!-- end of architectures -->"
FRAMEWORKS = {"tf": "TensorFlow", "flax": "Flax"}
TASKS = {
    "Model": "hidden states",
    "ForPreTraining": "pre-training",
    "ForMaskedLM": "masked words",
    "WithLMHeadModel": "masked words",
    "LMHeadModel": "next words",
    "ForCausalLM": "next words",
    "ForConditionalGeneration": "text to text",
    "MTModel": "text to text",
    "EncoderModel": "hidden states",
    "ForNextSentencePrediction": "next sentence",
    "ForSequenceClassification": "text classification",
    "ForTokenClassification": "token classification",
    "ForQuestionAnswering": "question answering",
    "ForQuestionAnsweringSimple": "question answering",
    "ForMultipleChoice": "multiple choice",
    "ForEntityClassification": "entity classification",
    "ForEntityPairClassification": "relations of entities",
    "ForEntitySpanClassification": "entity recognition",
}


def table() -> str:
    """Make the table of what is implemented, from the code."""
    rows = ["| architecture | tasks | frameworks |", "| --- | --- | --- |"]
    for name in auto.architectures():
        title = auto.config_class(name).__name__.removesuffix("Config")
        heads = auto.heads_of(name)
        tasks = ", ".join(dict.fromkeys(TASKS[suffix] for suffix in sorted(heads, key=list(TASKS).index)))
        file = Path(auto.module_of(name).__file__).name
        frameworks = ["PyTorch", *(label for key, label in FRAMEWORKS.items() if name in auto.architectures_in(key))]
        rows.append(f"| [{title}](src/pellucid/models/{file}) | {tasks} | {', '.join(frameworks)} |")
    return "\n".join(rows) + "\n"


def test_architectures():
    text = README.read_text(encoding="utf-8")
    assert text[text.index(BEGIN) + len(BEGIN) : text.index(END)] == table(), "run: python tests/test_readme.py"


@pytest.fixture
def language_model(tmp_path, monkeypatch):
    """A cache that holds the README's language model, or a tiny one in its place."""
    model = tmp_path / "cache" / "models--HuggingFaceTB--SmolLM2-135M-Instruct"
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("0" * 40)
    shutil.copytree(writer.folder(), model / "snapshots" / ("0" * 40))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "cache"))


@pytest.mark.parametrize("page", [README, ROOT / "docs" / "course.md"], ids=["README", "course"])
def test_python_runs(page, tmp_path, monkeypatch, capsys, language_model):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(r"^```python\n(.*?)^```", page.read_text(encoding="utf-8"), re.DOTALL | re.MULTILINE)
    assert blocks
    names: dict[str, object] = {}
    for block in blocks:
        exec(compile(block, page.name, "exec"), names)
    assert capsys.readouterr().err == ""


def test_commands_and_links_exist():
    text, makefile = README.read_text(encoding="utf-8"), (ROOT / "Makefile").read_text(encoding="utf-8")
    for target in re.findall(r"^make (\w+)", text, re.MULTILINE):
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target
    for page in [*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), ROOT / "benchmarks/README.md"]:
        for link in re.findall(r"\]\(([^)#:]+)(?:#[^)]*)?\)", page.read_text(encoding="utf-8")):
            assert (page.parent / link).exists(), f"{page.name} links to {link}"


if __name__ == "__main__":
    before, _, rest = README.read_text(encoding="utf-8").partition(BEGIN)
    README.write_text(before + BEGIN + table() + END + rest.partition(END)[2], encoding="utf-8")
