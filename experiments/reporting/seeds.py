"""Differences of two rows over seeds, and when they may be called lower, higher or level.

Seeds are what a result must hold over, so each counts once, however many test examples it was scored on.
"""

from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal, TypeVar

import numpy as np
from jaxtyping import Float
from scipy import stats

Verdict = Literal["lower", "higher", "level", "not decided", "not judged"]
K = TypeVar("K", bound=Hashable)
#: Of a confidence interval, and one less that of a test.
LEVEL = 0.95
#: What is left of a deviation where every seed has the same difference.
ROUNDING = float(np.finfo(float).eps)


@dataclass(frozen=True)
class SeedDifference:
    """One row's loss less another's, seed by seed.

    Attributes:
        mean: over seeds, in the unit of the loss.
        low: lower end of its 95 % t-interval over seeds; nan for one seed.
        high: upper end.
        p: of the paired t-test that it is zero; 1 for one seed, from which nothing follows.
        p_apart: of the two one-sided tests that it is as large as the margin or larger; 1 for one seed.
        seeds: how many.
        judged: whether anything may be said of it; not where what is compared makes no difference to the loss.
    """

    mean: float
    low: float
    high: float
    p: float
    p_apart: float
    seeds: int
    judged: bool = True


def difference_over_seeds(
    one: Float[np.ndarray, " seeds"],
    other: Float[np.ndarray, " _"],
    margin: float,
    *,
    judged: bool = True,
) -> SeedDifference:
    """The difference of two rows.

    Args:
        one: mean loss of each seed.
        other: of the same seeds, or one number that stands for all.
        margin: differences below it are level, in the unit of the loss.
        judged: see `SeedDifference`.

    >>> d = difference_over_seeds(np.array([0.5, 0.7, 0.6]), np.array([0.4, 0.6, 0.5]), margin=0.2)
    >>> round(d.mean, 3), d.p < 0.05, d.p_apart < 0.05
    (0.1, True, True)
    """
    by_seed = one - other
    mean, n = float(by_seed.mean()), len(by_seed)
    if n == 1:
        return SeedDifference(mean, np.nan, np.nan, 1.0, 1.0, n, judged)
    error = float(by_seed.std(ddof=1)) / n**0.5
    error = max(error, ROUNDING)
    t = stats.t(df=n - 1)
    half = float(t.ppf(0.5 + LEVEL / 2)) * error
    return SeedDifference(
        mean,
        mean - half,
        mean + half,
        p=float(2 * t.sf(abs(mean) / error)),
        p_apart=float(t.sf((margin - abs(mean)) / error)),
        seeds=n,
        judged=judged,
    )


def deviations(one: Float[np.ndarray, " seeds"], other: Float[np.ndarray, " seeds"]) -> float:
    """By how many standard deviations over seeds one row's loss is above another's; nan for one seed.

    >>> round(deviations(np.array([0.5, 0.7, 0.6]), np.array([0.4, 0.5, 0.5])), 2)
    2.31
    """
    by_seed = one - other
    if len(by_seed) == 1:
        return float("nan")
    return float(by_seed.mean()) / max(float(by_seed.std(ddof=1)), ROUNDING)


def verdicts(differences: Mapping[K, SeedDifference]) -> dict[K, Verdict]:
    """What may be said of each difference of a table, when all of them are looked at together.

    Lower or higher where the difference is told from zero, level where it is told from the margin, each kind of test
    corrected by Holm's method over all that are judged; where both hold, it is lower or higher, if by less than the
    margin.

    >>> sure, unsure = (SeedDifference(-1.0, -1.1, -0.9, p, 1.0, 5) for p in (0.001, 0.04))
    >>> verdicts({"a": sure, "b": unsure, "c": unsure})
    {'a': 'lower', 'b': 'not decided', 'c': 'not decided'}
    """
    out: dict[K, Verdict] = dict.fromkeys(differences, "not judged")
    judged = {key: d for key, d in differences.items() if d.judged}
    different = holm([d.p for d in judged.values()])
    level = holm([d.p_apart for d in judged.values()])
    for (key, d), p, p_apart in zip(judged.items(), different, level, strict=True):
        if p < 1 - LEVEL:
            out[key] = "lower" if d.mean < 0 else "higher"
        else:
            out[key] = "level" if p_apart < 1 - LEVEL else "not decided"
    return out


def holm(p: list[float]) -> list[float]:
    """p-values corrected for how many there are, by Holm's method.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    corrected = [0.0] * len(p)
    largest = 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        corrected[i] = largest
    return corrected
