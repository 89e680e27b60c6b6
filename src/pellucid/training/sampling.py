"""Which rows make up each step: an epoch's order, cut into chunks, dealt out to the processes.

The order depends on the seed and the epoch alone. A step is a stretch of it, whoever computes its chunks: one process
one after the other, or several at once.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset, get_worker_info

from .seeds import set_seed

STEPS_SORTED = 50  # how many steps' rows are sorted by length at once; the more, the less padding and the less chance


@dataclass(frozen=True)
class Chunk:
    """The rows that one process reads at once.

    Attributes:
        rows: their indices.
        counts: False for a stand-in, which keeps the processes in step and has no weight.
    """

    rows: tuple[int, ...]
    counts: bool = True


@dataclass(frozen=True, kw_only=True)
class Sampler:
    """Cuts the epochs of a training set into steps, each a list of chunks.

    Attributes:
        size: rows of the set.
        batch_size: rows of a chunk.
        chunks: of a step, over all processes.
        seed: of the orders.
        strategy: "random", "sequential" or "group_by_length", which is random but for steps of similar lengths.
        lengths: tokens of each row, for "group_by_length" and `tokens`.
        tokens: the most that a chunk has, padding included, in place of `batch_size`; a longer row is a chunk itself.
        packed: whether chunks are laid one text after the other, without padding.
        drop_last: whether to leave out an epoch's last step when it has fewer rows than the others.
    """

    size: int
    batch_size: int
    chunks: int = 1
    seed: int = 0
    strategy: str = "random"
    lengths: Sequence[int] = ()
    tokens: int | None = None
    packed: bool = False
    drop_last: bool = False

    def order(self, epoch: int) -> list[int]:
        """Return the order in which an epoch goes through the rows."""
        if self.strategy == "sequential":
            return list(range(self.size))
        generator = torch.Generator().manual_seed(self.seed + epoch)
        order = torch.randperm(self.size, generator=generator).tolist()
        return self._grouped(order, generator) if self.strategy == "group_by_length" else order

    def _grouped(self, order: list[int], generator: torch.Generator) -> list[int]:
        """Bring rows of similar lengths together, and the longest to the front: memory runs out at once or never."""
        step = self.batch_size * self.chunks
        groups: list[list[int]] = []
        for begin in range(0, len(order), STEPS_SORTED * step):
            pool = sorted(order[begin : begin + STEPS_SORTED * step], key=lambda row: -self.lengths[row])
            groups += [pool[i : i + step] for i in range(0, len(pool), step)]
        ragged = [groups.pop()] if groups and len(groups[-1]) < step else []
        groups = [groups[i] for i in torch.randperm(len(groups), generator=generator).tolist()]
        longest = max(self.lengths, default=0)
        groups.sort(key=lambda group: self.lengths[group[0]] < longest)
        return [row for group in [*groups, *ragged] for row in group]

    def steps(self, epoch: int, start: int = 0) -> list[list[Chunk]]:
        """Return the steps of an epoch, those left to do after its first `start` rows."""
        chunks = [Chunk(tuple(rows)) for rows in self._cut(self.order(epoch)[start:])]
        steps = [chunks[i : i + self.chunks] for i in range(0, len(chunks), self.chunks)]
        whole = self.chunks * (1 if self.tokens else self.batch_size)
        if self.drop_last and steps and sum(1 if self.tokens else len(c.rows) for c in steps[-1]) < whole:
            steps.pop()
        return steps

    def steps_in(self, epoch: int) -> int:
        """Return how many steps an epoch has."""
        if self.tokens:
            return len(self.steps(epoch))
        step = self.batch_size * self.chunks
        return self.size // step if self.drop_last else -(-self.size // step)

    def _cut(self, order: list[int]) -> Iterator[list[int]]:
        if self.tokens is None:
            yield from (order[i : i + self.batch_size] for i in range(0, len(order), self.batch_size))
            return
        chunk: list[int] = []
        total = longest = 0
        for row in order:
            length = self.lengths[row]
            size = total + length if self.packed else (len(chunk) + 1) * max(longest, length)
            if chunk and size > self.tokens:
                yield chunk
                chunk, total, longest = [], 0, 0
            chunk.append(row)
            total, longest = total + length, max(longest, length)
        if chunk:
            yield chunk


def deal(step: Sequence[Chunk], rank: int, processes: int) -> list[Chunk]:
    """Return the chunks of a step that one of several processes computes; all get the same number of them."""
    rounds = range(0, len(step), processes)
    stand_in = Chunk(step[0].rows[:1], counts=False)
    return [step[i + rank] if i + rank < len(step) else stand_in for i in rounds]


class Batches(Dataset):
    """The batches of an epoch for one process, by their place in it.

    Args:
        dataset: rows by index.
        chunks: of rows, one a batch.
        collate: from a list of rows to a batch.
        seed: of what a collator draws in a worker process, where it can not go on from what was drawn before.
    """

    def __init__(self, dataset: Any, chunks: Sequence[Chunk], collate: Callable[[list[Any]], Any], *, seed: int = 0):
        self.dataset, self.chunks, self.collate, self.seed = dataset, chunks, collate, seed

    def __len__(self) -> int:
        return len(self.chunks)

    def __getitem__(self, index: int) -> Any:
        rows = self.chunks[index].rows
        if get_worker_info() is not None:
            set_seed(hash((self.seed, *rows)) % 2**32)  # the same after a resume, whichever worker it is
        return self.collate(read_rows(self.dataset, rows))

    def read(self, workers: int) -> Iterator[Any]:
        """Yield all batches in order, read ahead by worker processes if there are any."""
        if not workers:
            return (self[i] for i in range(len(self)))
        generator = torch.Generator().manual_seed(self.seed)  # else torch's own would be drawn from
        return iter(DataLoader(self, batch_size=None, num_workers=workers, generator=generator))


def read_rows(dataset: Any, rows: Sequence[int]) -> list[Any]:
    """Return rows by their indices, at once from a dataset that can."""
    if hasattr(dataset, "__getitems__"):
        return list(dataset.__getitems__(list(rows)))
    return [dataset[row] for row in rows]


def stream_steps(
    rows: Iterable[Any], rank: int, processes: int, *, batch_size: int, chunks: int, skip: int = 0
) -> Iterator[tuple[int, list[tuple[Chunk, list[Any]]]]]:
    """Cut rows that come one by one into steps.

    Yields:
        The number of rows of each step, and this process's chunks with their rows.
    """
    stream = enumerate(rows)
    for _ in islice(stream, skip):
        pass
    while step := list(islice(stream, batch_size * chunks)):
        content = dict(step)
        numbers = list(content)
        cut = [Chunk(tuple(numbers[i : i + batch_size])) for i in range(0, len(numbers), batch_size)]
        mine = deal(cut, rank, processes)
        yield len(step), [(chunk, [content[i] for i in chunk.rows]) for chunk in mine]
