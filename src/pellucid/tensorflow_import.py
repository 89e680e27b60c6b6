"""The import of TensorFlow, whose libraries greet on stderr whatever they are told."""

import os
import sys
from importlib import import_module
from types import ModuleType


def import_tensorflow() -> ModuleType:
    """Import TensorFlow; what it writes to stderr while that goes on is dropped, and what it would later say is not.

    Raises:
        ImportError: if it is not installed, or broken.
    """
    if (loaded := sys.modules.get("tensorflow")) is not None:
        return loaded
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "1")  # warnings and errors
    try:
        stderr = os.dup(2)  # of the process: the libraries know nothing of sys.stderr
    except OSError:  # there is none
        return import_module("tensorflow")
    with open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), 2)
    try:
        return import_module("tensorflow")
    finally:
        os.dup2(stderr, 2)
        os.close(stderr)
