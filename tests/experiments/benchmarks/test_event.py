"""What stands beside an event does what it says."""

import pytest
import torch

from experiments.benchmarks.event import (
    Setting,
    by_dense_svd,
    event_seconds,
    floor_of,
    slow_ways,
)
from experiments.benchmarks.truncation import by_reflections, densely, factors
from prunedlora import truncate
from prunedlora.factors import Factors
from tests.layers import normal, relative

TINY = Setting([(12, 10), (12, 10)], rank=9, count=2, sampled=2)


def test_the_slow_ways_choose_as_the_library_does():
    taken, alike = slow_ways(TINY, "cpu")
    assert alike
    assert set(taken) == {"published", "naive", "dense_svd"}


def test_an_event_is_timed_and_its_floor_known():
    able = {"bytes_per_second": 1.0, "flops_per_second": 1.0}
    for name in ("magnitude", "prunedlora2025", "svd"):
        assert event_seconds(name, TINY, "cpu") > 0
    entries = 2 * 22 * 9
    assert floor_of("magnitude", TINY, able) == 4 * entries * 2
    moved = 4 * entries * 3 + 8 * 81 * 2 * 2
    assert floor_of("prunedlora2025", TINY, able) == pytest.approx(moved)


def test_the_ways_to_truncate_agree():
    B, A = factors(2, 20, 8, "cpu")
    ours = truncate(B, A, 3)
    assert (
        relative(by_reflections(B, A, 3)[0] @ by_reflections(B, A, 3)[1], ours[0] @ ours[1]) < 1e-6
    )
    assert relative(densely(B, A, 3)[0] @ densely(B, A, 3)[1], ours[0] @ ours[1]) < 1e-5
    kept = by_dense_svd(Factors(normal(0, 9, 4), normal(1, 4, 8)), 1)
    assert torch.linalg.matrix_rank(kept) == 3
