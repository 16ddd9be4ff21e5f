"""Differences over seeds, against scipy's tests, and what is said when there are many."""

import numpy as np
import pytest
from scipy import stats

from experiments.reporting.seeds import SeedDifference, difference_over_seeds, holm, verdicts

RNG = np.random.default_rng(0)
ONE = RNG.normal(0.5, 0.02, 5)
OTHER = RNG.normal(0.51, 0.02, 5)
MARGIN = 0.05


def test_interval_and_p_are_those_of_the_paired_t_test():
    d = difference_over_seeds(ONE, OTHER, MARGIN)
    test = stats.ttest_rel(ONE, OTHER)
    assert d.p == pytest.approx(test.pvalue)
    assert (d.low, d.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
    assert d.seeds == 5


def test_equivalence_is_tested_by_two_one_sided_tests():
    d = difference_over_seeds(ONE, OTHER, MARGIN)
    above = stats.ttest_rel(ONE + MARGIN, OTHER, alternative="greater").pvalue
    below = stats.ttest_rel(ONE - MARGIN, OTHER, alternative="less").pvalue
    assert d.p_apart == pytest.approx(max(above, below))


def test_nothing_follows_from_one_seed():
    d = difference_over_seeds(ONE[:1], OTHER[:1], MARGIN)
    assert (d.p, d.p_apart) == (1.0, 1.0)
    assert verdicts({"a": d}) == {"a": "not decided"}


def test_one_number_stands_for_all_seeds():
    d = difference_over_seeds(ONE, np.array([0.5]), MARGIN)
    assert d.p == pytest.approx(stats.ttest_1samp(ONE, 0.5).pvalue)


def test_differences_that_are_the_same_in_every_seed_are_decided():
    same = difference_over_seeds(ONE, ONE, MARGIN)
    apart = difference_over_seeds(ONE + 0.3, ONE, MARGIN)
    assert verdicts({"same": same, "apart": apart}) == {"same": "level", "apart": "higher"}


def test_more_comparisons_need_stronger_evidence():
    weak = SeedDifference(-0.1, -0.2, -0.01, p=0.02, p_apart=1.0, seeds=5)
    none = SeedDifference(0.0, -0.2, 0.2, p=0.9, p_apart=1.0, seeds=5)
    assert verdicts({0: weak}) == {0: "lower"}
    assert verdicts({0: weak, 1: none, 2: none})[0] == "not decided"


def test_holm_keeps_the_family_wise_error():
    # Under the null hypothesis p is uniform: at most 5 % of families have any rejection.
    families = np.random.default_rng(1).random((4000, 6))
    rejected = [min(holm(list(family))) < 0.05 for family in families]
    assert 0.035 < np.mean(rejected) < 0.06
