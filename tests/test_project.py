"""The project's own files agree with each other."""

import re
import subprocess
from pathlib import Path

import pytest

import pellucid

ROOT = Path(__file__).parent.parent
TEXT = {".py", ".md", ".toml", ".txt", ".json", ".yml", ""}


def test_one_version():
    declared = re.search(r'^version = "(.+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"), re.MULTILINE)
    newest = re.search(r"^## (\d\S*)", (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), re.MULTILINE)
    assert declared and newest
    assert pellucid.__version__ == declared[1] == newest[1]


def test_every_dependency_is_pinned():
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    constraints = (ROOT / "constraints.txt").read_text(encoding="utf-8").lower()
    pinned = set(re.findall(r"^([\w-]+)==", constraints, re.MULTILINE))
    wanted = {name.lower() for name in re.findall(r'^\s+"([\w-]+)(?:\[\w+\])?[><=]=[\d.]+",?$', project, re.MULTILINE)}
    assert {"torch", "pytest"} <= wanted <= pinned


def test_no_file_names_a_place_on_a_machine():
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    places = re.compile(r"/(home|root|Users)/(?!me\b)[a-z]")  # "me" is the made-up user of the tests
    for name in listed.stdout.split("\0"):
        file = ROOT / name
        if name and file.suffix in TEXT and file.is_file() and file.stat().st_size < 10**6:
            found = places.search(file.read_text(encoding="utf-8", errors="replace"))
            assert not found, f"{name} names {found[0]}" if found else ""
