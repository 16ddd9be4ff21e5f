"""The one interval, against resampling by hand and against what it must cover."""

import numpy as np
import pytest
from scipy.stats import spearmanr

from theory.intervals import RESAMPLES, interval, rank_correlation, ratio_of_means


def by_hand(statistic, *samples):
    """The percentiles of a statistic of resampled items, one resampling at a time."""
    rng = np.random.default_rng(1)
    n = len(samples[0])
    values = []
    for _ in range(RESAMPLES):
        chosen = rng.integers(n, size=n)
        values.append(statistic(*(sample[chosen] for sample in samples)))
    return np.quantile(values, (0.025, 0.975))


@pytest.mark.parametrize("statistic", [np.mean, np.sum])
def test_of_one_sample(statistic):
    sample = np.random.default_rng(0).standard_normal(40)
    width = np.ptp(by_hand(statistic, sample))
    assert interval(statistic, sample) == pytest.approx(
        by_hand(statistic, sample), abs=0.03 * width
    )


def test_of_pairs_is_not_that_of_two_samples():
    rng = np.random.default_rng(0)
    one = 3 + rng.standard_normal(50)
    other = one / 2 + 0.01 * rng.standard_normal(50)
    low, high = interval(ratio_of_means, one, other)
    expected = by_hand(lambda a, b: a.sum() / b.sum(), one, other)
    assert (low, high) == pytest.approx(expected, abs=0.03 * np.ptp(expected))
    assert low < 2 < high
    assert high - low < 0.01  # unpaired, the spread of either would make it forty times as wide


def test_it_covers_the_mean_about_as_often_as_it_says():
    rng = np.random.default_rng(2)
    ends = [interval(np.mean, rng.standard_normal(60)) for _ in range(200)]
    covered = sum(low < 0 < high for low, high in ends)
    assert 178 <= covered <= 198  # 190 expected, a little fewer from sixty items


def test_it_is_the_same_each_time():
    sample = np.arange(9.0)
    assert interval(np.mean, sample) == interval(np.mean, sample)


def test_rank_correlations_are_spearmans_and_zero_of_constants():
    rng = np.random.default_rng(3)
    x = rng.integers(5, size=(20, 12)).astype(float)  # with ties
    y = rng.standard_normal((20, 12))
    found = rank_correlation(x, y)
    for row in range(20):
        assert found[row] == pytest.approx(spearmanr(x[row], y[row]).statistic)
    assert rank_correlation(np.ones(4), y[0, :4]) == 0
