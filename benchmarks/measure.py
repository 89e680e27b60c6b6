"""Programs run in fresh processes, in turns, with their time and peak memory; and the tables made of them.

This module imports nothing big: a child's peak memory is at least what its parent held when it was started.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pellucid

RESULTS = Path(__file__).parent / "results"
VOCABULARY = Path(__file__).parent.parent / "tests" / "data" / "bert-base-uncased" / "vocab.txt"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}


@dataclass(frozen=True)
class Run:
    """One run of a program.

    Attributes:
        ms: from the start of the process to its end.
        mib: peak resident memory; pages of mapped files count once they are touched.
        said: the JSON value that the program printed last, or None.
    """

    ms: float
    mib: float
    said: Any


Program = Sequence[str | os.PathLike[str]]  # Python code and its arguments


def run(program: str, *arguments: str | os.PathLike[str]) -> Run:
    """Run a program in a fresh Python process; it may print one JSON value."""
    start = time.perf_counter()
    child = subprocess.Popen(
        [sys.executable, "-c", program, *(os.fspath(argument) for argument in arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=ENVIRONMENT,
    )
    assert child.stdout is not None
    said = child.stdout.read()
    _, status, usage = os.wait4(child.pid, 0)
    ms = (time.perf_counter() - start) * 1e3
    child.stdout.close()
    child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise SystemExit(f"a benchmark's program ended with {child.returncode}; run it alone to see why:\n{program}")
    mib = usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)
    return Run(ms, mib, json.loads(said.splitlines()[-1]) if said.strip() else None)


def interleave(programs: Mapping[str, Program], rounds: int) -> dict[str, list[Run]]:
    """Run programs in turns, so that what else the machine does meets them all; the first, cold round is not kept."""
    runs: dict[str, list[Run]] = {name: [] for name in programs}
    for turn in range(rounds + 1):
        for name, (program, *arguments) in programs.items():
            one = run(str(program), *arguments)
            if turn:
                runs[name].append(one)
    return runs


def median(values: Sequence[float]) -> float:
    """Return the median."""
    return statistics.median(values)


def machine() -> str:
    """Describe the machine and the versions in two lines."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    busy = f"load average {os.getloadavg()[0]:.1f}"
    packages = ", ".join(f"{name} {version(name)}" for name in ("transformers", "torch", "tokenizers"))
    software = f"Python {platform.python_version()}, pellucid {pellucid.__version__}, {packages}"
    return f"{cpu}, {cores} cores, {memory:.0f} GiB, {busy}\n{platform.system()}, {software}"


def table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table whose columns are aligned."""
    cells = [list(heads), *map(list, rows)]
    widths = [max(len(row[i]) for row in cells) for i in range(len(heads))]
    cells.insert(1, ["-" * width for width in widths])
    padded = [[cell.ljust(width) for cell, width in zip(row, widths, strict=True)] for row in cells]
    return "\n".join(f"| {' | '.join(row)} |" for row in padded)


def arguments(about: str) -> argparse.Namespace:
    """Read the command line that all benchmarks share."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="few rounds, and nothing that takes minutes")
    parser.add_argument("--save", action="store_true", help="also write the table into results/")
    return parser.parse_args()


def report(name: str, text: str, *, save: bool) -> None:
    """Print a result below the machine it was measured on, and write it into results/ when asked."""
    text = f"{name}\n{machine()}\n\n{text}\n"
    print(text)
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.txt").write_text(text, encoding="utf-8")
