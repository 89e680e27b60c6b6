"""`Feed`: the steps of an epoch, each with its batches, from a dataset of any kind."""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..errors import InputError
from .arguments import TrainingArguments
from .columns import Collate, row_lengths
from .distributed import World
from .sampling import Batches, Chunk, Sampler, deal, stream_steps


@dataclass(frozen=True)
class Step:
    """What one update of the weights is computed from.

    Attributes:
        rows: how many, over all processes.
        batches: this process's, each with the rows that it holds.
        done: the part of the epoch that has passed after it; None when the epoch's length is not known.
    """

    rows: int
    batches: Iterator[tuple[Chunk, Any]]
    chunks: int
    done: float | None


@dataclass(frozen=True)
class Feed:
    """Deals out a training set.

    Attributes:
        dataset: with `len` and rows by index, or an iterable.
        collate: from a list of rows to a batch.
        args: that say how.
        world: the processes that share each step.
        packed: whether the collator lays a batch's texts one after the other.
    """

    dataset: Any
    collate: Collate
    args: TrainingArguments
    world: World
    packed: bool = False

    @property
    def is_stream(self) -> bool:
        """Whether rows come one by one, nobody knows how many."""
        return not (hasattr(self.dataset, "__len__") and hasattr(self.dataset, "__getitem__"))

    @cached_property
    def sampler(self) -> Sampler:
        """What cuts the epochs of a dataset that is no stream."""
        args = self.args
        measured = args.train_sampling_strategy == "group_by_length" or args.per_device_train_tokens
        return Sampler(
            size=len(self.dataset),
            batch_size=args.per_device_train_batch_size,
            chunks=args.gradient_accumulation_steps * self.world.size,
            seed=args.seed if args.data_seed is None else args.data_seed,
            strategy=args.train_sampling_strategy,
            lengths=row_lengths(self.dataset, args.length_column_name) if measured else (),
            tokens=args.per_device_train_tokens,
            packed=self.packed,
            drop_last=args.dataloader_drop_last,
        )

    def total_steps(self) -> int:
        """Return how many steps the arguments ask for.

        Raises:
            InputError: if that is not known, or there is none.
        """
        args = self.args
        if args.max_steps > 0:
            return args.max_steps
        if self.is_stream:
            raise InputError("train_dataset has no length; say how many steps to take with max_steps.")
        whole, part = divmod(args.num_train_epochs, 1)
        steps = sum(self.sampler.steps_in(epoch) for epoch in range(int(whole)))
        steps += math.ceil(part * self.sampler.steps_in(int(whole))) if part else 0
        if steps < 1:
            raise InputError(
                f"There is no step to take: {len(self.dataset)} rows, num_train_epochs={args.num_train_epochs}, "
                f"dataloader_drop_last={args.dataloader_drop_last}; a step takes "
                f"{self.sampler.batch_size * self.sampler.chunks} rows."
            )
        return steps

    def steps(self, epoch: int, start: int = 0) -> Iterator[Step]:
        """Yield the steps of an epoch, those after its first `start` rows; all batches of one must be taken."""
        if self.is_stream:
            yield from self._streamed(start)
            return
        steps, total = self.sampler.steps(epoch, start), self.sampler.steps_in(epoch)
        mine = [deal(step, self.world.rank, self.world.size) for step in steps]
        seed = self.sampler.seed + epoch
        batches = Batches(self.dataset, [chunk for chunks in mine for chunk in chunks], self.collate, seed=seed)
        stream = batches.read(self.args.dataloader_num_workers)
        for number, (step, chunks) in enumerate(zip(steps, mine, strict=True), total - len(steps) + 1):
            rows = sum(len(chunk.rows) for chunk in step)
            yield Step(rows, ((chunk, next(stream)) for chunk in chunks), len(chunks), number / total)

    def _streamed(self, start: int) -> Iterator[Step]:
        args, world = self.args, self.world
        if self.args.per_device_train_tokens or self.args.train_sampling_strategy == "group_by_length":
            raise InputError("Rows that come one by one can not be sorted by length; give a dataset with a length.")
        steps = stream_steps(
            self.dataset,
            world.rank,
            world.size,
            batch_size=args.per_device_train_batch_size,
            chunks=args.gradient_accumulation_steps * world.size,
            skip=start,
        )
        for rows, chunks in steps:
            batches = ((chunk, self.collate(content)) for chunk, content in chunks)
            yield Step(rows, batches, len(chunks), None)

    def is_used_up(self) -> bool:
        """Tell whether rows can be read only once, and have been."""
        if not self.is_stream or iter(self.dataset) is not self.dataset:
            return False
        warnings.warn(
            f"train_dataset ended before max_steps={self.args.max_steps}, and can not be read again; training ends "
            "here. Give an object whose __iter__ begins anew.",
            stacklevel=2,
        )
        return True
