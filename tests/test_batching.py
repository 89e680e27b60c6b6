import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.batching import FIRST_READ, LARGEST_READ, run_in_batches


@given(
    st.lists(st.integers(0, 300), max_size=200),
    st.one_of(st.none(), st.integers(1, 7)),
    st.integers(1, 500),
    st.integers(1, 3),
)
def test_order_budget_and_size(lengths, batch_size, budget, workers):
    batches, ran = [], []

    def run(batch):
        batches.append(batch)
        return [-item for item in batch]

    found = run_in_batches(
        iter(lengths),
        run,
        length=lambda n: n,
        batch_size=batch_size,
        budget=budget,
        workers=workers,
        ran=ran.extend,
    )
    assert list(found) == [-n for n in lengths]
    assert sorted(ran) == sorted(lengths)
    for batch in batches:
        assert batch == sorted(batch)
        assert len(batch) <= batch_size if batch_size else sum(batch) <= budget or len(batch) == 1


def test_reads_ahead_little_at_first_and_never_without_bound():
    taken = []

    def source():
        for i in range(10 * LARGEST_READ):
            taken.append(i)
            yield i

    results = run_in_batches(source(), lambda batch: batch, length=lambda _: 1)
    next(results)
    assert len(taken) == FIRST_READ
    for done in range(1, 5 * LARGEST_READ):
        next(results)
        assert len(taken) - done <= LARGEST_READ + 1


def test_an_error_of_the_source_comes_through():
    def source():
        yield 1
        raise RuntimeError("broken source")

    try:
        list(run_in_batches(source(), lambda batch: batch, length=lambda _: 1))
    except RuntimeError as error:
        assert str(error) == "broken source"
    else:
        raise AssertionError("the error was lost")


@given(st.lists(st.integers(1, 9), min_size=1, max_size=40), st.integers(9, 40))
def test_a_batch_that_does_not_fit_is_halved(lengths, memory):
    done = []

    def run(batch):
        if sum(batch) > memory:
            raise torch.OutOfMemoryError("no memory")
        done.extend(batch)
        return [-item for item in batch]

    assert list(run_in_batches(lengths, run, length=lambda n: n)) == [-n for n in lengths]
    assert sorted(done) == sorted(lengths)


def test_an_item_that_does_not_fit_is_an_error():
    def run(batch):
        raise torch.OutOfMemoryError("no memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(run_in_batches([1, 2, 3], run, length=lambda n: n))


def threads_of_a_new_thread():
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(torch.get_num_threads).result()


def test_workers_use_one_core_each_and_leave_no_trace():
    threads, used = torch.get_num_threads(), []
    torch.set_num_threads(3)
    try:

        def run(batch):
            used.append(torch.get_num_threads())
            return batch

        assert list(run_in_batches([500] * 40, run, length=lambda n: n, workers=3, ahead=40)) == [500] * 40
        assert used == [1] * 12  # as many for each
        assert (torch.get_num_threads(), threads_of_a_new_thread()) == (3, 3)
        used.clear()
        assert list(run_in_batches([5] * 40, run, length=lambda n: n, workers=3, ahead=40)) == [5] * 40
        assert used == [3]  # too few tokens to be worth a thread
    finally:
        torch.set_num_threads(threads)


def test_an_error_of_a_worker_comes_through_and_ends_the_others():
    def run(batch):
        raise ValueError("broken batch")

    before = threading.active_count()
    with pytest.raises(ValueError, match="broken batch"):
        list(run_in_batches([500] * 100, run, length=lambda n: n, workers=2))
    assert threading.active_count() == before
