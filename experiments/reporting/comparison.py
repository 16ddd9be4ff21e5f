"""Differences of two methods on the same examples and seeds, and when they may be called a difference."""

from typing import NamedTuple

import numpy as np
from jaxtyping import Float

from theory.intervals import interval


class Difference(NamedTuple):
    """One method's losses less another's.

    Attributes:
        mean: over examples and seeds.
        low: lower end of its 95 % bootstrap interval over examples.
        high: upper end.
        agree: seeds that have the sign of the mean.
        seeds: how many there are.
    """

    mean: float
    low: float
    high: float
    agree: int
    seeds: int

    @property
    def sign(self) -> int:
        """-1 or 1 where the interval excludes zero and every seed agrees, else 0.

        Many examples make an interval narrow, however few seeds there are; hence both.

        >>> Difference(-0.2, -0.3, -0.1, agree=3, seeds=3).sign, Difference(-0.2, -0.3, -0.1, agree=2, seeds=3).sign
        (-1, 0)
        """
        decided = self.agree == self.seeds and not self.low <= 0 <= self.high
        return int(np.sign(self.mean)) if decided else 0


def difference(
    one: Float[np.ndarray, "seeds examples"], other: Float[np.ndarray, "_ examples"]
) -> Difference:
    """Of the losses of `one` and `other`, which has as many seeds, or one that stands for all."""
    by_seed = one - other
    mean = float(by_seed.mean())
    agree = int((np.sign(by_seed.mean(axis=1)) == np.sign(mean)).sum())
    return Difference(mean, *mean_interval(by_seed.mean(axis=0)), agree, len(by_seed))


def mean_interval(sample: Float[np.ndarray, " examples"]) -> tuple[float, float]:
    """95 % interval of the mean, see `theory.intervals`; the mean itself where all are equal."""
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    return interval(np.mean, sample)
