"""The interval that is meant wherever a result has one: 95 %, by the percentile bootstrap, the same each time."""

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, Shaped
from scipy.stats import bootstrap, rankdata

#: Statistic of samples along an axis, as `numpy.mean` is.
Statistic = Callable[..., np.ndarray | np.floating]
RESAMPLES = 9_999
LEVEL = 0.95


def interval(statistic: Statistic, *samples: Shaped[np.ndarray, " n"]) -> tuple[float, float]:
    """Ends of the 95 % bootstrap interval of a statistic.

    Args:
        statistic: takes as many samples and ``axis``, and works along it.
        samples: at least two items each; several are resampled together, item by item.

    >>> interval(np.mean, np.array([0.0, 1.0, 2.0, 3.0]))
    (0.5, 2.5)
    """
    ends = bootstrap(
        samples,
        statistic,
        paired=len(samples) > 1,
        vectorized=True,
        n_resamples=RESAMPLES,
        confidence_level=LEVEL,
        method="percentile",
        rng=np.random.default_rng(0),
    ).confidence_interval
    return float(ends.low), float(ends.high)


def ratio_of_means(
    one: Float[np.ndarray, "*shape n"], other: Float[np.ndarray, "*shape n"], axis: int = -1
) -> Float[np.ndarray, "*shape"] | np.floating:
    """Mean of one sample over that of another; for as many items each, the ratio of their sums."""
    return one.mean(axis=axis) / other.mean(axis=axis)


def rank_correlation(
    x: Float[np.ndarray, "*shape n"], y: Float[np.ndarray, "*shape n"]
) -> Float[np.ndarray, "*shape"]:
    """Spearman's coefficient along the last axis; 0 where one of the two is constant.

    >>> rank_correlation(np.array([[1.0, 2.0, 3.0], [1.0, 1.0, 1.0]]), np.array([[1.0, 4.0, 9.0], [1.0, 2.0, 3.0]]))
    array([1., 0.])
    """
    a, b = (rankdata(sample, axis=-1) for sample in (x, y))
    a -= a.mean(axis=-1, keepdims=True)
    b -= b.mean(axis=-1, keepdims=True)
    scale = np.sqrt((a**2).sum(axis=-1) * (b**2).sum(axis=-1))
    return np.divide((a * b).sum(axis=-1), scale, out=np.zeros_like(scale), where=scale > 0)
