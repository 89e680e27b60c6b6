"""Orders, chunks and how they are dealt out, for any sizes."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from pellucid.training.sampling import Batches, Chunk, Sampler, deal, stream_steps

SIZES = {
    "size": st.integers(1, 60),
    "batch_size": st.integers(1, 7),
    "accumulation": st.integers(1, 3),
    "processes": st.integers(1, 4),
    "strategy": st.sampled_from(["random", "sequential", "group_by_length"]),
    "tokens": st.sampled_from([None, 20, 60]),
    "epoch": st.integers(0, 3),
}


def sampler(size, batch_size, chunks, strategy="random", tokens=None, **options):
    lengths = torch.randint(1, 30, (size,), generator=torch.Generator().manual_seed(size)).tolist()
    return Sampler(size=size, batch_size=batch_size, chunks=chunks, seed=3, strategy=strategy, tokens=tokens,
                   lengths=lengths, **options)  # fmt: skip


@given(**SIZES)
@settings(max_examples=150, deadline=None)
def test_an_epoch_reads_each_row_once(size, batch_size, accumulation, processes, strategy, tokens, epoch):
    one = sampler(size, batch_size, accumulation * processes, strategy, tokens)
    steps = one.steps(epoch)
    read = [row for step in steps for chunk in step for row in chunk.rows]
    assert sorted(read) == list(range(size))
    assert read == one.order(epoch) and len(steps) == one.steps_in(epoch)
    for step in steps:
        shares = [deal(step, rank, processes) for rank in range(processes)]
        assert len({len(share) for share in shares}) == 1
        dealt = [chunk for share in zip(*shares, strict=True) for chunk in share if chunk.counts]
        assert dealt == step
        assert all(chunk.rows for share in shares for chunk in share)


@given(**SIZES, done=st.integers(0, 20))
@settings(max_examples=100, deadline=None)
def test_what_is_left_of_an_epoch(size, batch_size, accumulation, processes, strategy, tokens, epoch, done):
    one = sampler(size, batch_size, accumulation * processes, strategy, tokens)
    steps = one.steps(epoch)
    start = sum(len(chunk.rows) for step in steps[:done] for chunk in step)
    assert one.steps(epoch, start) == steps[done:]


@given(size=st.integers(1, 40), batch_size=st.integers(1, 6), processes=st.integers(1, 4))
@settings(max_examples=60, deadline=None)
def test_steps_do_not_depend_on_who_computes_them(size, batch_size, processes):
    """As long as they have the same number of rows."""
    alone = sampler(size, batch_size * processes, 1, "group_by_length").steps(1)
    shared = sampler(size, batch_size, processes, "group_by_length").steps(1)
    assert [[row for chunk in step for row in chunk.rows] for step in alone] == [
        [row for chunk in step for row in chunk.rows] for step in shared
    ]


@given(size=st.integers(1, 40), tokens=st.integers(1, 80), packed=st.booleans())
@settings(max_examples=60, deadline=None)
def test_budgets_hold(size, tokens, packed):
    one = sampler(size, 1, 1, tokens=tokens, packed=packed)
    for (chunk,) in one.steps(0):
        lengths = [one.lengths[row] for row in chunk.rows]
        cost = sum(lengths) if packed else len(lengths) * max(lengths)
        assert cost <= tokens or len(lengths) == 1


@given(size=st.integers(0, 40), batch_size=st.integers(1, 5), processes=st.integers(1, 3), skip=st.integers(0, 10))
@settings(max_examples=60, deadline=None)
def test_streams(size, batch_size, processes, skip):
    content = [f"row {i}" for i in range(size)]
    seen = []
    for rank in range(processes):
        steps = stream_steps(iter(content), rank, processes, batch_size=batch_size, chunks=processes, skip=skip)
        for _, mine in steps:
            seen += [row for chunk, rows in mine if chunk.counts for row in rows]
            assert all(content[i] == row for chunk, rows in mine for i, row in zip(chunk.rows, rows, strict=True))
    assert sorted(seen) == sorted(content[skip:])


def test_orders_differ_by_epoch_and_seed():
    one = sampler(50, 4, 1)
    assert one.order(0) == one.order(0) != one.order(1)
    assert sampler(50, 4, 1, "sequential").order(1) == list(range(50))


def test_the_longest_row_comes_first():
    one = sampler(300, 4, 2, "group_by_length")
    assert max(one.lengths) in [one.lengths[row] for chunk in one.steps(0)[0] for row in chunk.rows]


def test_drop_last():
    one = sampler(10, 4, 1, drop_last=True)
    assert len(one.steps(0)) == one.steps_in(0) == 2 and one.steps(0, 8) == []


def test_batches_by_workers_come_in_order():
    content = list(range(10))
    chunks = [Chunk((i, i + 1)) for i in range(0, 10, 2)]
    batches = Batches(content, chunks, lambda rows: (rows, torch.rand(1).item()), seed=1)
    alone = [rows for rows, _ in batches.read(0)]
    first, second = list(batches.read(2)), list(batches.read(2))
    assert [list(rows) for rows, _ in first] == alone == [[i, i + 1] for i in range(0, 10, 2)]
    assert [drawn for _, drawn in first] == [drawn for _, drawn in second]


def test_datasets_that_give_several_rows_at_once():
    class Table:
        def __getitems__(self, rows):
            return [row * 10 for row in rows]

    assert Batches(Table(), [Chunk((1, 2))], list)[0] == [10, 20]


@pytest.mark.parametrize("processes", [2, 3])
def test_stand_ins_do_not_count(processes):
    step = [Chunk((7, 8))]
    shares = [deal(step, rank, processes) for rank in range(processes)]
    assert shares[0] == [step[0]] and shares[1] == [Chunk((7,), counts=False)]
