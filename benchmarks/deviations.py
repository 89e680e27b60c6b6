"""How far our numbers are from the original's: every architecture, every head, in fp32 and bf16 (docs/deviations.md).

    python benchmarks/deviations.py

writes that page anew. The models and texts are those of the tests: tiny models with every weight, bias and norm moved
at random, loaded by both libraries from one folder, which read the same four texts, padded on the right.
"""

import math
import os
import sys
import tempfile
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from measure import table

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "deviations.md"
sys.path.insert(0, str(ROOT / "tests"))
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HOME"] = tempfile.mkdtemp(prefix="pellucid-deviations-")

# ruff: noqa: E402  # the modules below are found by the lines above
# pyright: reportMissingImports=false
from cases import CASES, EVERY_CLASS, PADDING_COUNTS
from oracle import checkpoint, ours, reference, reference_class
from test_models import EVEN, LENGTHS, of_original, padded, texts
from test_readme import TASKS
from test_seq2seq import PAIRS, inputs_of

HEADER = """# Deviations from the original

The largest difference between our numbers and those of `transformers` {transformers}, over every part of the output and
every token that is not padding, on the CPU with torch {torch}. Made by `python benchmarks/deviations.py`, which says on
what. Where an architecture has several rows, the others are variants of its configuration, from `tests/cases.py`.

## In fp32

Absolute; the largest number of an output lies between {least:.1f} and {most:.0f}. A 0 means equal in every bit.

{fp32}

## In bf16

Against the original in fp32, relative to the largest number of the output, which bf16 itself gives to 0.4 %: first ours
in bf16, then, as a yardstick, the original's own in bf16; a dash where the original does not run in bf16.

{bf16}
"""

Output = Mapping[str, torch.Tensor]


@torch.no_grad()
def run(model: Any, head: str, inputs: dict[str, torch.Tensor], ours: bool) -> Output:
    """Return the parts of a model's output, in fp32; a multiple-choice head reads the texts as its choices."""
    if not ours and "decoder_input_ids" not in inputs:
        return in_fp32(of_original(model, head, inputs["input_ids"], inputs["attention_mask"]))
    if head == "ForMultipleChoice":
        inputs = {name: x[None] for name, x in inputs.items()}
    return in_fp32(model(**inputs))


def in_fp32(output: Mapping[str, Any]) -> Output:
    """Return the tensors of an output in fp32."""
    return {name: part.float() for name, part in output.items() if isinstance(part, torch.Tensor)}


def deviation(mine: Output, theirs: Output, mask: torch.Tensor, *, relative: bool = False) -> float:
    """Return the largest difference of two outputs; of what has one value a token, padding does not count."""
    worst = 0.0
    for name, part in theirs.items():
        difference, size = (mine[name] - part).abs(), part.abs()
        if name == "logits_ngram":  # (B, predicted, T, V)
            difference, size = difference.transpose(1, 2), size.transpose(1, 2)
        if size.shape[:2] == mask.shape:
            difference, size = difference[mask.bool()], size[mask.bool()]
        worst = max(worst, float(difference.max() / size.max() if relative else difference.max()))
    return worst


def deviations(architecture: str, head: str) -> tuple[float, float, float, float]:
    """Return the original's largest number, and how far from its output ours, ours in bf16 and its own in bf16 are."""
    original, plain = reference(architecture, head), ours(architecture, head)
    lengths = EVEN if (architecture, head) in PADDING_COUNTS else LENGTHS
    if (architecture, head) in PAIRS:
        inputs, real = inputs_of(plain, lengths=EVEN, targets=[6] * 4)
    else:
        ids, mask = padded(texts(original, lengths), "right")
        inputs, real = {"input_ids": ids, "attention_mask": mask}, mask
    exact = run(original, head, inputs, False)
    mine, rounded = (run(model, head, inputs, True) for model in (plain, ours(architecture, head, dtype="bfloat16")))
    low = reference_class(architecture, head).from_pretrained(checkpoint(architecture, head), dtype=torch.bfloat16)
    try:
        yardstick = deviation(run(low.eval(), head, inputs, False), exact, real, relative=True)
    except RuntimeError:  # it mixes dtypes
        yardstick = math.nan
    size = max(float(part.abs().max()) for part in exact.values())
    return size, deviation(mine, exact, real), deviation(rounded, exact, real, relative=True), yardstick


def page() -> str:
    """Measure every class, and return the page."""
    import transformers

    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    found = {(architecture, TASKS[head]): deviations(architecture, head) for architecture, head in EVERY_CLASS}
    heads = [title for title in dict.fromkeys(TASKS.values()) if any(title == other for _, other in found)]
    shown = {
        "fp32": {of: f"{fp32:.0e}" if fp32 else "0" for of, (_, fp32, _, _) in found.items()},
        "bf16": {of: f"{bf16:.1%} / {low:.1%}".replace("nan%", "-") for of, (_, _, bf16, low) in found.items()},
    }
    tables = {
        name: table(["architecture", *heads], [[one, *(cells.get((one, head), "") for head in heads)] for one in CASES])
        for name, cells in shown.items()
    }
    sizes = [size for size, *_ in found.values()]
    versions = {name: version(name).partition("+")[0] for name in ("transformers", "torch")}
    return HEADER.format(**versions, least=min(sizes), most=max(sizes), **tables)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
    print(f"wrote {PAGE}")
