"""Any iterable in, results out in its order; in between, batches of similar lengths under a budget of tokens."""

import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

TOKENS_A_BATCH = 2048  # enough to keep two to sixteen cores busy, small enough to stay in their caches
FIRST_READ, LARGEST_READ = 8, 1024  # items read ahead: few at first, so that a slow source gives its first results soon


def run_in_batches(
    items: Iterable[Item],
    run: Callable[[list[Item]], Sequence[Result]],
    *,
    length: Callable[[Item], int],
    batch_size: int | None = None,
    budget: int = TOKENS_A_BATCH,
) -> Iterator[Result]:
    """Yield one result an item, in order, while `run` sees batches sorted by length.

    A batch for which memory runs out is run in halves.

    Args:
        items: read ahead by at most `LARGEST_READ`.
        run: from a batch to its results.
        length: tokens of an item.
        batch_size: items of a batch; by default as many as the budget allows.
        budget: tokens of a batch; a single longer item is a batch of its own.
    """
    source, ahead = iter(items), FIRST_READ
    while chunk := list(islice(source, ahead)):
        results: list[Result | None] = [None] * len(chunk)
        by_length = sorted(range(len(chunk)), key=lambda i: length(chunk[i]))
        for batch in _cut(by_length, lambda i: length(chunk[i]), batch_size, budget):
            for i, result in zip(batch, _run_in_memory([chunk[i] for i in batch], run), strict=True):
                results[i] = result
        yield from results  # type: ignore[misc]
        ahead = min(2 * ahead, LARGEST_READ)


def _run_in_memory(batch: list[Item], run: Callable[[list[Item]], Sequence[Result]]) -> Sequence[Result]:
    """Run a batch; if memory runs out, one half of it after the other.

    Raises:
        torch.OutOfMemoryError: if a single item is too large.
    """
    try:
        return run(batch)
    except torch.OutOfMemoryError:
        if len(batch) == 1:
            raise
    half = len(batch) // 2  # outside of the handler, which holds on to what the failed run had allocated
    return [*_run_in_memory(batch[:half], run), *_run_in_memory(batch[half:], run)]


def _cut(order: list[int], length: Callable[[int], int], batch_size: int | None, budget: int) -> Iterator[list[int]]:
    batch: list[int] = []
    tokens = 0
    for i in order:
        full = len(batch) == batch_size if batch_size else tokens + length(i) > budget
        if batch and full:
            yield batch
            batch, tokens = [], 0
        batch.append(i)
        tokens += length(i)
    if batch:
        yield batch


def with_progress(results: Iterator[Result], total: int | None) -> Iterator[Result]:
    """Pass results on; in a terminal, show a bar once the work has taken two seconds."""
    if not sys.stderr.isatty():
        yield from results
        return
    from tqdm import tqdm

    yield from tqdm(results, total=total, delay=2.0, leave=False)
