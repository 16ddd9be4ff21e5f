"""Rules for spectra, against their definitions in words."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunedlora.ranks.spectrum import by_cumulative, by_energy, by_knee, by_ratio

SPECTRA = st.lists(st.floats(1e-3, 1e3), min_size=1, max_size=12).map(
    lambda values: torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
)


@given(SPECTRA, st.floats(0.05, 1.0))
def test_a_share_is_kept_by_no_smaller_rank(values, share):
    for rule, power in ((by_energy, 2), (by_cumulative, 1)):
        kept = values.pow(power)
        rank = rule(values, share)
        assert kept[:rank].sum() >= share * kept.sum() * (1 - 1e-9)
        assert rank == 1 or kept[: rank - 1].sum() < share * kept.sum()


@given(SPECTRA, st.floats(1.0, 100.0))
def test_a_ratio_keeps_exactly_what_is_within_it(values, ratio):
    rank = by_ratio(values, ratio)
    assert (values[:rank] * ratio >= values[0]).all()
    assert (values[rank:] * ratio < values[0]).all()


def test_the_elbow_separates_what_is_large_from_a_flat_tail():
    values = torch.tensor([20.0, 19.0, 18.0] + [1.0 - 0.01 * i for i in range(20)])
    assert by_knee(values, 1.0) == 3
    straight = torch.arange(10.0, 0.0, -1.0)
    assert by_knee(straight, 1.0) == 10
    assert by_knee(values, 1e3) == len(values)  # no elbow is that pronounced


@pytest.mark.parametrize("rule", [by_energy, by_cumulative, by_ratio, by_knee])
def test_what_adds_nothing_keeps_something(rule):
    assert rule(torch.zeros(4), 1.0) >= 1
    assert rule(torch.ones(1), 1.0) == 1
