"""How long until something is ready: whole processes, ours and the original's, in turns."""

import tempfile
from pathlib import Path

import measure

EMPTY = "pass"
TORCH = "import torch"
IMPORT = "import {}"
CLEAN = "import sys, pellucid, json; print(json.dumps([m for m in ('torch', 'numpy') if m in sys.modules]))"
TOKENIZER = """
import json, sys
from {} import AutoTokenizer
print(json.dumps(AutoTokenizer.from_pretrained(sys.argv[1])("We are very happy to show you this.")["input_ids"]))
"""
CLASSIFY = """
import json, sys
from {} import pipeline
print(json.dumps(pipeline("sentiment-analysis", model=sys.argv[1])("We are very happy to show you this.")))
"""
COMMAND = """
import sys
from pellucid.cli import app
text = "We are very happy to show you this."
sys.argv = ["pellucid", "run", "sentiment-analysis", text, "--model", "pellucid/sentiment"]
sys.stdout = sys.stderr
app()
"""
MAKE_TOKENIZER = """
import sys
from transformers import BertTokenizer
BertTokenizer(vocab=sys.argv[1], model_max_length=512).save_pretrained(sys.argv[2])
"""
FOLDER = "import pellucid, os, json; print(json.dumps(os.path.dirname(pellucid.__file__) + '/builtin/sentiment'))"


def main() -> None:
    options = measure.arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as scratch:
        tokenizer = Path(scratch) / "tokenizer"
        measure.run(MAKE_TOKENIZER, measure.VOCABULARY, tokenizer)
        work: dict[str, list[str]] = {
            "import": [IMPORT],
            "AutoTokenizer to the first ids": [TOKENIZER, str(tokenizer)],
            "pipeline to the first answer": [CLASSIFY, measure.run(FOLDER).said],
        }
        alone = {"an empty Python": [EMPTY], "import torch": [TORCH], "pellucid run, at a terminal": [COMMAND]}
        programs: dict[str, measure.Program] = {**alone}
        for name, (program, *arguments) in work.items():
            for library in ("pellucid", "transformers"):
                programs[f"{name}, {library}"] = [program.format(library), *arguments]
        runs = measure.interleave(programs, 3 if options.quick else 15)
    ms = {name: measure.median([run.ms for run in found]) for name, found in runs.items()}
    mib = {name: f"{measure.median([run.mib for run in found]):.0f}" for name, found in runs.items()}
    rows = [[name, f"{ms[name]:.0f}", "", "", mib[name], "", ""] for name in alone]
    for name in work:
        ours, theirs = f"{name}, pellucid", f"{name}, transformers"
        speed = [f"{ms[ours]:.0f}", f"{ms[theirs]:.0f}", f"{ms[theirs] / ms[ours]:.1f}x"]
        rows.append([name, *speed, mib[ours], mib[theirs], deviation(runs[ours][0].said, runs[theirs][0].said)])
    heads = ["process start to end", "ms", "original ms", "faster", "MiB", "original MiB", "deviation"]
    empty, heavy = ms["an empty Python"], measure.run(CLEAN).said
    answer = ms["pipeline to the first answer, pellucid"] / ms["import torch"]
    note = (
        f"An empty Python takes {empty:.0f} ms of every figure: `import pellucid` itself takes "
        f"{ms['import, pellucid'] - empty:.0f} ms. Of torch and numpy it loads {' and '.join(heavy) or 'neither'}.\n"
        f"The first answer takes {answer:.2f}x of `import torch`."
    )
    measure.report("startup", f"{measure.table(heads, rows)}\n\n{note}", save=options.save)


def deviation(ours: object, theirs: object) -> str:
    """Compare two answers: ids are equal or not, of scores the difference is shown."""
    match ours, theirs:
        case [{"label": a, "score": x}], [{"label": b, "score": y}]:
            return f"{abs(x - y):.1e}" if a == b else f"label {a}, original {b}"
        case None, None:
            return ""
    return "equal" if ours == theirs else "NOT EQUAL"


if __name__ == "__main__":
    main()
