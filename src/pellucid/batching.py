"""Any iterable in, results out in its order; in between, batches of similar lengths under a budget of tokens."""

import math
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from itertools import islice
from threading import Barrier
from typing import Any, TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")

TOKENS_A_BATCH = 2048  # enough to keep a core busy, small enough to stay in its caches
TOKENS_A_WORKER = 256  # at least; with fewer, a batch that all cores share is done sooner
FIRST_READ, LARGEST_READ = 8, 1024  # items read ahead: few at first, so that a slow source gives its first results soon


def run_in_batches(
    items: Iterable[Item],
    run: Callable[[list[Item]], Sequence[Result]],
    *,
    length: Callable[[Item], int],
    batch_size: int | None = None,
    budget: int = TOKENS_A_BATCH,
    workers: int = 1,
    ahead: int = FIRST_READ,
    ran: Callable[[list[Item]], Any] = lambda batch: None,
) -> Iterator[Result]:
    """Yield one result an item, in order, while `run` sees batches sorted by length.

    A batch for which memory runs out is run in halves.

    Args:
        items: read ahead by at most `LARGEST_READ`.
        run: from a batch to its results.
        length: tokens of an item.
        batch_size: items of a batch; by default as many as the budget allows.
        budget: tokens of a batch; a single longer item is a batch of its own.
        workers: how many batches to run side by side, in threads of one core each.
        ahead: items to read before any are run; then twice as many each time.
        ran: told of each batch that is done.
    """
    source = iter(items)
    while chunk := list(islice(source, ahead)):
        results: list[Result | None] = [None] * len(chunk)
        lengths = [length(item) for item in chunk]
        size = _even(sum(lengths), budget, workers)
        order = sorted(range(len(chunk)), key=lengths.__getitem__)
        cut = list(_cut(order, lengths, batch_size, size, budget))[::-1]  # what takes longest comes first
        batches = [[chunk[i] for i in places] for places in cut]
        for places, batch, found in zip(cut, batches, _run_all(batches, run, workers), strict=True):
            for i, result in zip(places, found, strict=True):
                results[i] = result
            ran(batch)
        yield from results  # type: ignore[misc]
        ahead = min(2 * ahead, LARGEST_READ)


def _even(tokens: int, budget: int, workers: int) -> float:
    """Return the tokens of a batch with which all workers run as many batches."""
    if tokens < workers * TOKENS_A_WORKER:
        workers = 1
    return tokens / (workers * max(1, math.ceil(tokens / (workers * budget))))


def _run_all(
    batches: list[list[Item]], run: Callable[[list[Item]], Sequence[Result]], workers: int
) -> Iterator[Sequence[Result]]:
    """Run batches, as many side by side as there are workers."""
    workers = min(workers, len(batches))
    if workers == 1:
        yield from (_run_in_memory(batch, run) for batch in batches)
        return
    threads, ready = torch.get_num_threads(), Barrier(workers + 1)

    def begin() -> None:
        torch.get_num_threads()  # which sets what this thread begins with
        torch.set_num_threads(1)  # for it, and for those that begin from now on
        ready.wait()

    with ThreadPoolExecutor(workers, initializer=begin) as pool:
        try:
            results = pool.map(lambda batch: _run_in_memory(batch, run), batches)
            ready.wait()
        except BaseException:
            ready.abort()  # a thread could not begin, or somebody interrupts: the others would wait for ever
            raise
        finally:
            torch.set_num_threads(threads)
        yield from results


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


def _cut(order: list[int], lengths: list[int], batch_size: int | None, size: float, budget: int) -> Iterator[list[int]]:
    """Part items into batches of about `size` tokens, and never more than the budget."""
    batch: list[int] = []
    tokens, before, number = 0, 0, 1  # of the batch; of all; of the batch counted from 1
    for i in order:
        if batch_size:
            full = len(batch) == batch_size
        else:
            full = before + lengths[i] / 2 > number * size or tokens + lengths[i] > budget
        if batch and full:
            yield batch
            batch, tokens, number = [], 0, round(before / size) + 1 if size else 1
        batch.append(i)
        tokens, before = tokens + lengths[i], before + lengths[i]
    if batch:
        yield batch


@contextmanager
def progress(total: int | None) -> Iterator[Callable[[int], Any]]:
    """Give what to tell how many more are done; in a terminal, it shows a bar once the work has taken two seconds."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    from tqdm import tqdm

    with tqdm(total=total, delay=2.0, leave=False) as bar:
        yield bar.update
