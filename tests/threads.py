"""Work in several threads at once, for the tests of what threads share."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any


def in_threads(work: Callable[[Any], Any], items: Iterable[Any]) -> list[Any]:
    """Call `work` with each item in a thread of its own, all at the same moment; return what they return."""
    items = list(items)
    gate = threading.Barrier(len(items))

    def begin(item: Any) -> Any:
        gate.wait()
        return work(item)

    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(begin, items))
