"""How long until something is ready: whole processes, ours and the original's, in turns."""

import os
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
        model = measure.run(FOLDER).said
        pairs: dict[str, tuple[str, *tuple[str | os.PathLike[str], ...]]] = {
            "import": (IMPORT,),
            "AutoTokenizer to the first ids": (TOKENIZER, tokenizer),
            "pipeline to the first answer": (CLASSIFY, model),
        }
        programs = {"an empty Python": [EMPTY], "import torch": [TORCH]}
        for name, (program, *arguments) in pairs.items():
            for library in ("pellucid", "transformers"):
                programs[f"{name}, {library}"] = [program.format(library), *map(os.fspath, arguments)]
        runs = measure.interleave(programs, 3 if options.quick else 15)
    medians = {name: measure.median([run.ms for run in found]) for name, found in runs.items()}
    memory = {name: measure.median([run.mib for run in found]) for name, found in runs.items()}
    empty = medians["an empty Python"]
    rows = []
    for name in ("an empty Python", "import torch"):
        rows.append([name, f"{medians[name]:.0f}", "", "", f"{memory[name]:.0f}", "", ""])
    for name in pairs:
        ours, theirs = f"{name}, pellucid", f"{name}, transformers"
        ratio = medians[theirs] / medians[ours]
        rows.append([name, f"{medians[ours]:.0f}", f"{medians[theirs]:.0f}", f"{ratio:.1f}x", f"{memory[ours]:.0f}",
                     f"{memory[theirs]:.0f}", deviation(runs[ours][0].said, runs[theirs][0].said)])  # fmt: skip
    heads = ["process start to end", "ms", "original ms", "faster", "MiB", "original MiB", "deviation"]
    note = (
        f"An empty Python takes {empty:.0f} ms of every figure: `import pellucid` itself is "
        f"{medians['import, pellucid'] - empty:.0f} ms; of torch and numpy it loads: {measure.run(CLEAN).said or 'neither'}."
    )
    measure.report("startup", f"{measure.table(heads, rows)}\n\n{note}", save=options.save)


def deviation(ours: object, theirs: object) -> str:
    """Compare two answers: ids must be equal, of a score the difference is shown."""
    match ours, theirs:
        case [{"label": a, "score": x}], [{"label": b, "score": y}]:
            return f"{abs(x - y):.1e}" if a == b else f"label {a}, original {b}"
        case None, None:
            return ""
    return "equal" if ours == theirs else "NOT EQUAL"


if __name__ == "__main__":
    main()
