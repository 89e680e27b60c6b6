"""The benchmarks run: programs take turns, one that can not says why, and scripts make their tables of tiny models."""

import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parent.parent / "benchmarks"
sys.path.insert(0, str(BENCHMARKS))

import decode  # noqa: E402
import encoders  # noqa: E402
import finetuning  # noqa: E402
import measure  # noqa: E402

TINY = {"model_type": "bert", "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(autouse=True)
def without_what_takes_long(monkeypatch):
    monkeypatch.setattr(measure, "wheel", lambda requirement: None)
    monkeypatch.setattr(encoders, "FILES", {})
    monkeypatch.setattr(decode, "FLOOR", "print('[1e9]')")
    monkeypatch.setitem(encoders.SHAPES, "minilm", {**TINY, "intermediate_size": 64})


def cells(table):
    """Read a table back: its rows by their first cell."""
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table.splitlines() if line[:1] == "|"]
    return {row[0]: row[1:] for row in rows[2:]}


def test_programs_take_turns(tmp_path):
    counting = "count = [0]\ndef work(): return [7.0]\ndef more():\n    print('noise')\n    count[0] += 1"
    programs = {
        "counts": [counting],
        "only works": ["import sys\ndef work(): return [float(sys.argv[1])]", "3"],
        "lacks a package": ["import a_package_that_is_not_there"],
        "raises": ["def work(): raise ValueError('too\\nlong')"],
    }
    found = measure.in_turns(programs, {"work": 1, "more": 5}, 2, tmp_path)
    assert {name: turns.failed for name, turns in found.items()} == {
        "counts": "",
        "only works": "",
        "lacks a package": "a_package_that_is_not_there is not installed",
        "raises": "ValueError: too",
    }
    numbers = {name: {f: len(seconds) for f, seconds in turns.seconds.items()} for name, turns in found.items()}
    assert numbers["counts"] == {"work": 2, "more": 2} and numbers["only works"] == {"work": 2, "more": 0}
    assert numbers["raises"] == {"work": 0, "more": 0}
    assert found["only works"].answer.stat().st_size and found["only works"].mib > 5
    assert measure.left_out(found).splitlines()[1:] == [
        "not run: lacks a package: a_package_that_is_not_there is not installed",
        "not run: raises: ValueError: too",
    ]


def test_a_program_that_dies_is_named(tmp_path):
    with pytest.raises(SystemExit, match="'dies' ended with 3"):
        measure.in_turns({"dies": ["import os\nos._exit(3)"]}, {}, 0, tmp_path)


def test_every_program_is_python():
    programs = [program for task in encoders.TASKS.values() for program, _ in task.values()]
    programs += [by.code for part in decode.PARTS.values() for by in part.programs.values()]
    programs += [program for program, _, _ in finetuning.PROGRAMS.values()]
    for module in (encoders, decode, finetuning):
        programs += [value for name, value in vars(module).items() if name.startswith(("MAKE", "GIVEN", "TEXTS"))]
    for program in programs:
        compile(program, "program", "exec")


def test_encoders(monkeypatch, tmp_path):
    ours = encoders.EMBEDDERS["pellucid"]
    rows = {"pellucid": ours, "transformers": ours, "pellucid, wrong": (encoders.PELLUCID, '{"quantize": "int7"}')}
    monkeypatch.setitem(encoders.TASKS, "embedding", rows)
    text = encoders.part("minilm", "embedding", 5, 1, tmp_path)
    found = cells(text)
    assert found["transformers"][-2:] == ["0.0e+00", "1.00000"]
    assert found["pellucid, wrong"][0] == "not run" and "int7" in text.splitlines()[-1]
    assert "Random weights; texts of" in text


def test_decode(monkeypatch, tmp_path):
    ours = {name: by for name, by in decode.FLOAT32.items() if name.startswith("pellucid")}
    config = {"model_type": "gpt2", "n_embd": 32, "n_layer": 1, "n_head": 2, "vocab_size": 1000}
    monkeypatch.setitem(decode.PARTS, "tiny", decode.Part(config, "float32", ours, 2))
    found = cells(decode.measured("tiny", True, tmp_path))
    assert list(found) == list(ours)
    assert all(row[-1] == "1.000" and float(row[-2]) < 1e-6 for row in found.values())


def test_finetuning(monkeypatch, tmp_path):
    ours = {name: program for name, program in finetuning.PROGRAMS.items() if name.startswith("pellucid, plain")}
    monkeypatch.setattr(finetuning, "PROGRAMS", ours)
    found = cells(finetuning.measured(5, 1, tmp_path))
    assert list(found) == list(ours)
    assert all(0.1 < float(row[-1]) < 2 for row in found.values())
