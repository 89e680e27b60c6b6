"""How fast text becomes ids: the bare `tokenizers` library, ours and the original's, in fresh processes, in turns.

(Not called tokenize.py, which would hide the standard library's module of that name.)
"""

import tempfile
from pathlib import Path

import measure

# The English of Python's own reference manual, which every Python carries, in paragraphs.
TEXTS = """
import json, sys, time, timeit
from pydoc_data.topics import topics
paragraphs = [" ".join(p.split()) for topic in sorted(topics) for p in topics[topic].split("\\n\\n")]
texts = [p for p in paragraphs if 20 <= len(p) <= 2000][:2000]
short = "The quick brown fox jumps over a lazy dog..."
"""
LOAD = {
    "bare": "from tokenizers import Tokenizer\nbare = Tokenizer.from_file(sys.argv[1] + '/tokenizer.json')\n",
    "pellucid": "from pellucid import AutoTokenizer\ntok = AutoTokenizer.from_pretrained(sys.argv[1])\n",
    "transformers": "from transformers import AutoTokenizer\ntok = AutoTokenizer.from_pretrained(sys.argv[1])\n",
}
# Each ends with the time of one call in seconds, the median of many, and something that must be equal for all.
CALL = """
def once(): return {call}
once()
number = {number}
seconds = sorted(timeit.repeat(once, number=number, repeat=7))[3] / number
print(json.dumps([seconds, sum(len(t.encode()) for t in texts), {checked}]))
"""
WORK = {
    "one string of 44 characters": {
        "bare": ("bare.encode(short)", "once().ids"),
        "tok": ("tok(short)", "once()['input_ids']"),
        "number": "500",
    },
    "the same, as a tensor": {
        "tok": ("tok(short, return_tensors='pt')", "once()['input_ids'][0].tolist()"),
        "bare": ("bare.encode(short)", "once().ids"),
        "number": "500",
    },
    "2,000 paragraphs": {
        "bare": ("bare.encode_batch_fast(texts)", "sum(hash(tuple(e.ids)) for e in once())"),
        "tok": ("tok(texts)", "sum(hash(tuple(row)) for row in once()['input_ids'])"),
        "number": "1",
    },
    "the same, in 32s, padded tensors": {
        "tok": (
            "[tok(texts[i:i + 32], padding=True, truncation=True, max_length=512, return_tensors='pt')"
            " for i in range(0, len(texts), 32)]",
            "sum(hash(tuple(row)) for batch in once() for row in batch['input_ids'].tolist())",
        ),
        "number": "1",
    },
}
MAKE = """
import sys
from transformers import BertTokenizer
BertTokenizer(vocab=sys.argv[1], model_max_length=1000000).save_pretrained(sys.argv[2])
"""


def main() -> None:
    options = measure.arguments(__doc__ or "")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "tokenizer"
        measure.run(MAKE, measure.VOCABULARY, folder)
        programs: dict[str, measure.Program] = {}
        for task, work in WORK.items():
            for library, load in LOAD.items():
                if found := work.get("bare" if library == "bare" else "tok"):
                    call, checked = found
                    code = TEXTS + load + CALL.format(call=call, checked=checked, number=work["number"])
                    programs[f"{task}, {library}"] = [code, folder]
        runs = measure.interleave(programs, 1 if options.quick else 7)
    rows = [row_of(task, {library: runs.get(f"{task}, {library}", []) for library in LOAD}) for task in WORK]
    heads = [
        *("BERT's 30,522 pieces", "bare", "pellucid", "original", "cost over bare", "faster than original"),
        *("MiB", "original MiB", "ids"),
    ]
    measure.report("tokenization", measure.table(heads, rows), save=options.save)


def row_of(task: str, runs: dict[str, list[measure.Run]]) -> list[str]:
    """Make the row of one kind of work: times of single calls, else bytes of text a second."""
    seconds = {library: measure.median([run.said[0] for run in found]) for library, found in runs.items() if found}
    mib = {library: f"{measure.median([run.mib for run in found]):.0f}" for library, found in runs.items() if found}
    size = runs["pellucid"][0].said[1]
    shown = {lib: f"{s * 1e6:.0f} us" if s < 1e-3 else f"{size / s / 1e6:.2f} MB/s" for lib, s in seconds.items()}
    over_bare = f"{seconds['pellucid'] / seconds['bare']:.2f}x" if "bare" in seconds else ""
    faster = f"{seconds['transformers'] / seconds['pellucid']:.2f}x"
    ids = [found[0].said[2] for found in runs.values() if found]
    equal = "equal" if ids.count(ids[0]) == len(ids) else "NOT EQUAL"
    speeds = [shown.get("bare", ""), shown["pellucid"], shown["transformers"]]
    return [task, *speeds, over_bare, faster, mib["pellucid"], mib["transformers"], equal]


if __name__ == "__main__":
    main()
