import pytest
from hypothesis import given
from hypothesis import strategies as st

from prunedlora import PruneConfig, Schedule
from prunedlora.errors import ConfigurationError


@pytest.mark.parametrize(
    ("initial", "events", "steps"), [(128, 32, 320), (256, 96, 960), (512, 224, 2240)]
)
def test_the_papers_schedule(initial, events, steps):
    plan = Schedule(target_rank=64, interval=10, per_event=2, warmup_steps=0).events(initial)
    assert (len(plan), plan[-1]) == (events, (steps, 64))


@given(
    st.integers(1, 40), st.integers(1, 60), st.integers(1, 9), st.integers(1, 9), st.integers(1, 30)
)
def test_ranks_fall_by_at_most_k2_to_exactly_the_target(target, above, k1, k2, warmup):
    plan = Schedule(target, k1, k2, warmup).events(target + above)
    steps, ranks = zip(*plan, strict=True)
    before = (target + above, *ranks)
    assert all(0 < a - b <= k2 for a, b in zip(before, ranks, strict=False))
    assert ranks[-1] == target
    assert all(b - a == k1 for a, b in zip((warmup, *steps), steps, strict=False))


def test_an_unreachable_target_says_what_would_do():
    schedule = Schedule(target_rank=8, interval=10, per_event=2, warmup_steps=10)
    schedule.check(16, total_steps=50)
    with pytest.raises(
        ConfigurationError,
        match="the last at step 50, but training has 49 steps; use interval <= 9",
    ):
        schedule.check(16, total_steps=49)
    with pytest.raises(ConfigurationError, match="larger per_event"):
        schedule.check(64, total_steps=20)


@pytest.mark.parametrize("initial", [8, 7, 1])
def test_a_target_not_below_the_initial_rank_is_refused(initial):
    with pytest.raises(ConfigurationError, match="below the initial rank"):
        Schedule(target_rank=8).events(initial)


@pytest.mark.parametrize(
    "settings",
    [
        {"target_rank": 0},
        {"target_rank": -1},
        {"target_rank": 4, "interval": 0},
        {"target_rank": 4, "per_event": 0},
        {"target_rank": 4, "warmup_steps": -1},
        {"target_rank": 4, "warmup_steps": 0, "interval": 1},
        {"target_rank": 4, "decay": 1.0},
        {"target_rank": 4, "criterion": "no_such_rule"},
        {"target_rank": 4, "options": {"dampness": 1}},
    ],
)
def test_impossible_settings_are_refused(settings):
    with pytest.raises(ConfigurationError):
        PruneConfig(**settings)


def test_a_schedule_that_leaves_it_open_takes_few_events_and_not_less_than_two_at_a_time():
    open_ = Schedule(target_rank=16, per_event=None)
    assert len(open_.events(128)) == 8
    assert open_.events(128)[-1] == (90, 16)
    assert len(open_.events(20)) == 2
    assert {rank for _, rank in open_.events(20)} == {18, 16}


def test_only_truncations_leave_it_open():
    assert PruneConfig(target_rank=2, criterion="svd").schedule.per_event is None
    assert PruneConfig(target_rank=2, criterion="kfac").schedule.per_event == 2
    assert PruneConfig(target_rank=2, criterion="svd", per_event=3).schedule.per_event == 3
