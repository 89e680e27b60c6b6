"""Every schedule gives the original's learning rates, step by step."""

import json
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import get_scheduler as original

from pellucid.errors import ArgumentError, InputError
from pellucid.training.schedules import SCHEDULES, get_scheduler, get_wsd_schedule

KINDS = [
    ("constant", {}),
    ("constant_with_warmup", {}),
    ("linear", {}),
    ("cosine", {}),
    ("cosine", {"num_cycles": 2.0}),
    ("cosine_with_restarts", {}),
    ("cosine_with_restarts", {"num_cycles": 3}),
    ("polynomial", {}),
    ("polynomial", {"power": 2.5, "lr_end": 1e-5}),
    ("inverse_sqrt", {}),
    ("inverse_sqrt", {"timescale": 7}),
    ("cosine_with_min_lr", {"min_lr": 1e-4}),
    ("cosine_with_min_lr", {"min_lr_rate": 0.2, "num_cycles": 1.5}),
    ("cosine_warmup_with_min_lr", {"min_lr": 1e-4}),
    ("cosine_warmup_with_min_lr", {"min_lr_rate": 0.2, "warmup_lr_rate": 0.3}),
    ("warmup_stable_decay", {"num_decay_steps": 4}),
    ("warmup_stable_decay", {"num_decay_steps": 4, "min_lr_ratio": 0.1}),
    *(
        ("warmup_stable_decay", {"num_decay_steps": 5, "warmup_type": up, "decay_type": down})
        for up in ("linear", "cosine", "1-sqrt")
        for down in ("linear", "cosine", "1-sqrt")
    ),
    ("warmup_stable_decay", {"num_decay_steps": 4, "num_cycles": 1.0, "warmup_type": "cosine"}),
]


def rates(get, name, warmup, total, options, steps=30):
    """Return the learning rates of two groups at every step."""
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(2)]
    groups = [{"params": parameters[:1]}, {"params": parameters[1:], "lr": 5e-3}]
    optimizer = torch.optim.SGD(groups, lr=1e-3)
    schedule = get(name, optimizer, warmup, total, scheduler_specific_kwargs=options)
    seen = []
    for _ in range(steps):
        seen.append([group["lr"] for group in optimizer.param_groups])
        optimizer.step()
        schedule.step()
    return seen


@pytest.mark.parametrize("warmup, total", [(4, 20), (0, 12), (6, 25)])
@pytest.mark.parametrize("name, options", KINDS)
def test_learning_rates_equal_the_original(name, options, warmup, total):
    ours, theirs = (rates(get, name, warmup, total, options) for get in (get_scheduler, original))
    assert torch.allclose(torch.tensor(ours), torch.tensor(theirs), rtol=1e-12, atol=1e-15)


def test_every_schedule_of_the_original_is_there():
    from transformers import SchedulerType

    assert {kind.value for kind in SchedulerType} == set(SCHEDULES)
    assert rates(get_scheduler, SchedulerType.LINEAR, 2, 9, None) == rates(original, "linear", 2, 9, None)


@given(warmup=st.integers(0, 20), total=st.integers(21, 60), kind=st.sampled_from(KINDS))
@settings(max_examples=60, deadline=None)
def test_factors_stay_between_nothing_and_all(warmup, total, kind):
    seen = rates(get_scheduler, kind[0], warmup, total, kind[1], steps=70)
    assert all(-1e-12 <= rate[0] <= 1e-3 * (1 + 1e-12) and math.isfinite(rate[0]) for rate in seen)


def test_a_schedule_goes_on_where_it_was():
    def made():
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1e-3)
        return optimizer, get_scheduler("cosine", optimizer, 3, 20)

    optimizer, schedule = made()
    for _ in range(7):
        optimizer.step()
        schedule.step()
    again, resumed = made()
    again.load_state_dict(optimizer.state_dict())
    resumed.load_state_dict(schedule.state_dict())
    for _ in range(5):
        for one, other in ((optimizer, schedule), (again, resumed)):
            one.step()
            other.step()
        assert again.param_groups[0]["lr"] == optimizer.param_groups[0]["lr"]


def test_plateaus_lower_the_rate():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    schedule = get_scheduler("reduce_lr_on_plateau", optimizer, scheduler_specific_kwargs={"patience": 1})
    for _ in range(4):
        optimizer.step()
        schedule.step(1.0)
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.1)


BOUNDS = [
    {"min_lr": 1e-3, "max_lr": 1.0},
    {"min_lr": 0.05, "max_lr": 0.2},
    {"min_lr": [0.02, 0.03], "max_lr": [0.3, 0.1]},
    {},
]
GREEDY = st.fixed_dictionaries(
    {
        "mode": st.sampled_from(["min", "max"]),
        "factor": st.sampled_from([0.3, 0.5, 0.9, 0.95]),
        "patience": st.integers(0, 2),
        "threshold": st.sampled_from([1e-6, 0.1, 1.0]),
        "threshold_mode": st.sampled_from(["abs", "rel"]),
        "cooldown": st.integers(0, 3),
        "warmup": st.integers(0, 3),
        "eps": st.sampled_from([1e-8, 0.01]),
        "smooth": st.booleans(),
        "window_size": st.integers(1, 4),
        "reset_start": st.sampled_from([0, 1, 2, 3, 500]),
    }
)


@given(
    options=GREEDY,
    bounds=st.sampled_from(BOUNDS),
    first=st.lists(st.sampled_from([0.0003, 1e-3, 0.01, 0.1, 0.5, 2.0]), min_size=2, max_size=2),
    metrics=st.lists(st.integers(-16, 16).map(lambda n: n / 8), min_size=20, max_size=60),  # of which sums are exact
    falls=st.integers(-1, 1),
    stop=st.integers(0, 19),
)
@settings(max_examples=150, deadline=None)
def test_rates_that_follow_a_metric_greedily(options, bounds, first, metrics, falls, stop):
    def made(get):
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": rate} for rate in first]
        optimizer = torch.optim.SGD(groups)
        return optimizer, get("greedy", optimizer, scheduler_specific_kwargs=options | bounds)

    (optimizer, schedule), (theirs, wanted) = made(get_scheduler), made(original)
    for i, metric in enumerate(metrics):
        if i == stop:
            state, said = optimizer.state_dict(), json.loads(json.dumps(schedule.state_dict()))
            optimizer, schedule = made(get_scheduler)
            optimizer.load_state_dict(state)
            schedule.load_state_dict(said)
        schedule.step(metric - i * falls / 4)
        wanted.step(metric - i * falls / 4)
        assert schedule.get_last_lr() == wanted.get_last_lr()
        assert [group["lr"] for group in optimizer.param_groups] == [group["lr"] for group in theirs.param_groups]


@pytest.mark.parametrize(
    "name, given, error, words",
    [
        ("liner", {}, InputError, "did you mean 'linear'"),
        ("linear", {"num_training_steps": 3}, InputError, "num_warmup_steps"),
        ("cosine", {"num_warmup_steps": 3}, InputError, "num_training_steps"),
        ("warmup_stable_decay", {"num_warmup_steps": 1, "num_training_steps": 9}, InputError, "num_decay_steps"),
        ("linear", {"scheduler_specific_kwargs": {"num_cycle": 1}}, ArgumentError, "num_cycle"),
        ("cosine", {"scheduler_specific_kwargs": {"num_cycle": 1}}, ArgumentError, "did you mean 'num_cycles'"),
        ("reduce_lr_on_plateau", {"scheduler_specific_kwargs": {"patienc": 1}}, ArgumentError, "'patience'"),
        ("greedy", {"scheduler_specific_kwargs": {"patienc": 1}}, ArgumentError, "did you mean 'patience'"),
        ("greedy", {"scheduler_specific_kwargs": {"factor": 1}}, InputError, "factor is 1; expected a number between"),
        ("greedy", {"scheduler_specific_kwargs": {"max_lr": [1, 2]}}, InputError, "max_lr has 2 values"),
        ("greedy", {"scheduler_specific_kwargs": {"smooth": True, "window_size": 0}}, InputError, "window_size is 0"),
        ("polynomial", {"scheduler_specific_kwargs": {"lr_end": 2.0}}, InputError, "lr_end is 2.0"),
        ("cosine_with_min_lr", {}, InputError, "exactly one"),
        ("warmup_stable_decay", {"scheduler_specific_kwargs": {"num_decay_steps": 1, "decay_type": "x"}}, InputError,
         "decay_type"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(name, given, error, words):
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    if words not in ("num_warmup_steps", "num_training_steps", "num_decay_steps"):
        given = {"num_warmup_steps": 1, "num_training_steps": 9} | given
    with pytest.raises(error, match=words):
        get_scheduler(name, optimizer, **given)


def test_a_decay_needs_to_know_where_it_begins():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
    with pytest.raises(InputError, match="num_stable_steps"):
        get_wsd_schedule(optimizer, 1, 2)
    with pytest.raises(InputError, match="leave 6; leave one of them out"):
        get_wsd_schedule(optimizer, 1, 2, 9, num_stable_steps=5)
    schedule = get_wsd_schedule(optimizer, 1, 2, num_stable_steps=1)
    assert [schedule.lr_lambdas[0](step) for step in range(5)] == pytest.approx([0, 1, 1, 0.5, 0])
