"""Numbers of somebody's runs beside the committed ones: do they agree?

The reference of a number is the committed one with the same settings and seed.  On the same kind of machine, with the
same versions and threads, it is expected to the last digit.  Elsewhere rounding differs, training carries that on, and
a number agrees where it is within `DEVIATIONS` standard deviations over seeds: those of its own cell or those of all
cells it is pooled with, whichever is larger, since few seeds may be close to each other by chance.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from statistics import stdev
from typing import Any, Literal

import pandas as pd

from experiments.reporting.table import Table, loss_of

Verdict = Literal["agrees", "differs", "not comparable"]
#: Standard deviations over seeds within which a number agrees on another kind of machine.
DEVIATIONS = 3.0
#: Relative difference of numbers that are the same to the last digit, as far as files keep digits.
DIGITS = 1e-9
#: What two runs have in common on the same kind of machine.
MACHINE = ("device", "threads")
VERSIONS = ("torch", "transformers", "peft", "numpy")
#: Records of runs by their keys: settings, environment and result.
Records = Mapping[str, Mapping[str, Any]]


@dataclass(frozen=True)
class Number:
    """A number that was measured, beside committed ones.

    Attributes:
        table: where the committed one is found: a table, or an experiment.
        cell: its place there, and the seed.
        here: what was measured.
        committed: the same with the same seed; none if there is none.
        over_seeds: committed ones of all seeds.
        pool: numbers with the same one vary alike over seeds.
        error: its own standard error over test examples, where that adds to what seeds say.
        same_machine: whether the two were made on the same kind of machine, by the same versions.
        same_data: whether they were made of the same examples.
    """

    table: str
    cell: str
    here: float
    committed: float | None
    over_seeds: tuple[float, ...] = ()
    pool: str = ""
    error: float = 0.0
    same_machine: bool = False
    same_data: bool = True


@dataclass(frozen=True)
class Comparison:
    """What is said of a number, or of a word.

    Attributes:
        table: as in `Number`.
        cell: as in `Number`.
        here: what was measured.
        committed: what it is compared with.
        mean: of committed ones over seeds; nan if there are none.
        seeds: how many those are.
        tolerance: by how much they may differ; nan if nothing is known.
        verdict: whether they agree.
        why: in a few words.
    """

    table: str
    cell: str
    here: float | str
    committed: float | str
    mean: float
    seeds: int
    tolerance: float
    verdict: Verdict
    why: str


def compare(numbers: Iterable[Number]) -> list[Comparison]:
    """What is said of each number.

    >>> near, far = (Number("t", "a", here, 0.50, (0.49, 0.50, 0.51)) for here in (0.52, 0.54))
    >>> [c.verdict for c in compare([near, far])]
    ['agrees', 'differs']
    """
    numbers = list(numbers)
    pooled = _pooled(numbers)
    return [_compare(number, pooled.get(number.pool, 0.0)) for number in numbers]


def _compare(number: Number, pooled: float) -> Comparison:
    seeds = [value for value in number.over_seeds if math.isfinite(value)]
    own = stdev(seeds) if len(seeds) > 1 else 0.0
    spread = math.hypot(max(own, pooled), number.error)
    tolerance = DEVIATIONS * spread if spread else math.nan
    verdict, why = _judged(number, tolerance)
    return Comparison(
        number.table,
        number.cell,
        number.here,
        math.nan if number.committed is None else number.committed,
        sum(seeds) / len(seeds) if seeds else math.nan,
        len(seeds),
        tolerance,
        verdict,
        why,
    )


def _judged(number: Number, tolerance: float) -> tuple[Verdict, str]:
    if number.committed is None:
        return "not comparable", "nothing committed with these settings and this seed"
    if not number.same_data:
        return "differs", "made of other examples"
    if not math.isfinite(number.here) or not math.isfinite(number.committed):
        both = str(number.here) == str(number.committed)
        return ("agrees", "neither is finite") if both else ("differs", "one is not finite")
    gap = abs(number.here - number.committed)
    if gap <= DIGITS * abs(number.committed):
        return "agrees", "to the last digit"
    if math.isnan(tolerance):
        return "not comparable", "other digits, and one seed gives no tolerance"
    if gap > tolerance:
        return "differs", "by more than the tolerance"
    # On such a machine the same code gives the same digits: it is worth a look, and no failure to reproduce.
    return "agrees", "other digits on such a machine" if number.same_machine else "in tolerance"


def _pooled(numbers: Iterable[Number]) -> dict[str, float]:
    """Standard deviation over seeds of all cells that are pooled, by the name of the pool."""
    variances: dict[str, list[float]] = {}
    for number in numbers:
        finite = all(math.isfinite(value) for value in number.over_seeds)
        if number.pool and finite and len(number.over_seeds) > 1:
            variances.setdefault(number.pool, []).append(stdev(number.over_seeds) ** 2)
    return {pool: math.sqrt(sum(values) / len(values)) for pool, values in variances.items()}


def of_words(table: str, cell: str, here: str, committed: str | None) -> Comparison:
    """Of two words, which must be the same.

    >>> of_words("theory", "S4", "refuted", "verified").verdict
    'differs'
    """
    verdict: Verdict = "agrees" if here == committed else "differs"
    if committed is None:
        verdict = "not comparable"
    why = {"agrees": "the same", "differs": "not the same"}.get(verdict, "nothing committed")
    return Comparison(table, cell, here, committed or "", math.nan, 0, math.nan, verdict, why)


def numbers_of(table: Table, here: Records, committed: Records) -> list[Number]:
    """The loss of every run of a table that was done here, once for all columns that share it.

    Args:
        table: with the runs of all seeds.
        here: records of the runs that were done here.
        committed: records of those and of the other seeds.
    """
    numbers: dict[str, Number] = {}
    for row in table.rows:
        for column, runs in row.cells.items():
            known = [committed[run.key] for run in runs if run.key in committed]
            for run in runs:
                if run.key not in here or run.key in numbers:
                    continue
                own, other = here[run.key], committed.get(run.key)
                numbers[run.key] = Number(
                    table.name,
                    f"{column}: {row.label}, seed {run.seed}",
                    loss_of(own["result"]),
                    None if other is None else loss_of(other["result"]),
                    tuple(loss_of(record["result"]) for record in known),
                    pool=f"{table.name}, {run.task}",
                    same_machine=other is not None and same_machine(own, other),
                    same_data=other is None or same_data(own, other),
                )
    return list(numbers.values())


def same_machine(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records come from the same kind of machine and the same versions."""
    a, b = one["environment"], other["environment"]
    named = all(a.get(name) == b.get(name) for name in MACHINE)
    return named and all(a["packages"].get(n) == b["packages"].get(n) for n in VERSIONS)


def same_data(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records were made of the same examples, by the fingerprints of the splits that both name."""
    a, b = (record["result"].get("splits", {}) for record in (one, other))
    return all(a[name] == b[name] for name in a.keys() & b.keys())


def frame(comparisons: Sequence[Comparison]) -> pd.DataFrame:
    """One line for each comparison."""
    return pd.DataFrame([vars(c) for c in comparisons])


def markdown(comparisons: Sequence[Comparison]) -> str:
    """A table for people."""
    lines = [
        {
            "table": c.table,
            "cell": c.cell,
            "here": _written(c.here),
            "committed": _written(c.committed),
            "over seeds": f"{c.mean:.4f} ({c.seeds})" if c.seeds else "",
            "tolerance": "" if math.isnan(c.tolerance) else f"± {c.tolerance:.4f}",
            "verdict": c.verdict if c.verdict == "agrees" else f"**{c.verdict}**",
            "why": c.why,
        }
        for c in comparisons
    ]
    return pd.DataFrame(lines).to_markdown(index=False, disable_numparse=True) + "\n"


def summary(comparisons: Sequence[Comparison]) -> str:
    """All comparisons in a line.

    >>> summary([of_words("theory", "S4", "refuted", "refuted"), of_words("theory", "S5", "verified", "refuted")])
    '2 numbers: 1 agrees with the committed one (0 to the last digit), 1 differs, 0 not comparable'
    """
    count = {v: sum(c.verdict == v for c in comparisons) for v in ("agrees", "differs")}
    exact = sum(c.why == "to the last digit" for c in comparisons)
    rest = len(comparisons) - count["agrees"] - count["differs"]
    one = "agrees with the committed one" if count["agrees"] == 1 else "agree with committed ones"
    differ = "differs" if count["differs"] == 1 else "differ"
    return (
        f"{len(comparisons)} numbers: {count['agrees']} {one} ({exact} to the last digit), "
        f"{count['differs']} {differ}, {rest} not comparable"
    )


def _written(value: float | str) -> str:
    if isinstance(value, str):
        return value
    return "" if math.isnan(value) else f"{value:.6f}"
