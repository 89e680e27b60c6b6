import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from pellucid.batching import FIRST_READ, LARGEST_READ, run_in_batches


@given(st.lists(st.integers(1, 300), max_size=200), st.one_of(st.none(), st.integers(1, 7)), st.integers(1, 500))
def test_order_budget_and_size(lengths, batch_size, budget):
    batches = []

    def run(batch):
        batches.append(batch)
        return [-item for item in batch]

    items = iter(lengths)
    assert list(run_in_batches(items, run, length=lambda n: n, batch_size=batch_size, budget=budget)) == [
        -n for n in lengths
    ]
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
