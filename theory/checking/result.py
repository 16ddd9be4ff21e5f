"""Outcome of checking a statement: of a batch of instances (`Result`), of a whole run (`Summary`)."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor

#: Relative rounding allowed to a comparison in float64 of two numbers that are each some hundred operations away
#: from the input.
RELATIVE_ROUNDING = 1e-9


@dataclass(frozen=True)
class Result:
    """Both sides of ``lhs <= rhs``, one entry per instance.

    Attributes:
        lhs: what was measured.
        rhs: the bound.
        holds: ``lhs <= rhs`` up to rounding; False where a side is NaN.
        assumptions: for each assumption of the statement, where it is met.
        rounding: absolute rounding error allowed to the comparison.
    """

    lhs: Float[Tensor, "*n"]
    rhs: Float[Tensor, "*n"]
    holds: Bool[Tensor, "*n"]
    assumptions: Mapping[str, Bool[Tensor, "*n"]]
    rounding: Float[Tensor, "*n"]

    @property
    def applies(self) -> Bool[Tensor, "*n"]:
        """Where every assumption is met: only there does the statement say anything."""
        met = torch.ones_like(self.holds)
        for assumption in self.assumptions.values():
            met = met & assumption
        return met

    @property
    def violated(self) -> Bool[Tensor, "*n"]:
        """Where the assumptions are met and the statement fails."""
        return self.applies & ~self.holds

    @property
    def ratio(self) -> Float[Tensor, "*n"]:
        """``lhs / rhs``: 1 where the bound is attained, 0 where both sides vanish."""
        both_vanish = (self.lhs <= self.rounding) & (self.rhs <= self.rounding)
        return torch.where(both_vanish, torch.zeros_like(self.lhs), self.lhs / self.rhs)

    def tightened(self, factor: float) -> "Result":
        """The same instances against ``factor * rhs``: a bound that is attained must then fall.

        >>> compare(torch.ones(1), torch.ones(1), {}).tightened(0.9).holds
        tensor([False])
        """
        return compare(self.lhs, factor * self.rhs, self.assumptions, self.rounding)


def compare(
    lhs: Float[Tensor, "*n"],
    rhs: Float[Tensor, "*n"],
    assumptions: Mapping[str, Bool[Tensor, "*n"]],
    rounding: Float[Tensor, "*n"] | None = None,
) -> Result:
    """``lhs <= rhs``, with a relative slack of `RELATIVE_ROUNDING` and an absolute one of `rounding`.

    >>> compare(torch.tensor([1.0, float("nan")]), torch.tensor([2.0, 1.0]), {}).holds
    tensor([ True, False])
    """
    allowed = torch.zeros_like(lhs) if rounding is None else rounding
    return Result(lhs, rhs, lhs <= rhs * (1 + RELATIVE_ROUNDING) + allowed, assumptions, allowed)


@dataclass(frozen=True)
class Summary:
    """What a run has found about one statement; everything in it goes into ``statements.json``.

    Attributes:
        key: for instance ``"S5"``.
        module: module that holds statement and proof.
        title: what it is about.
        formula: the inequality, in plain text.
        claim: ``bound``, ``identity``, or ``refuted`` for a printed statement that is false.
        instances: random instances checked.
        assumption_failures: how many instances fail each assumption; the statement is silent about them.
        violations: instances that meet the assumptions and violate the statement: random, constructed, or found by
            the adversary.
        tightest_ratio: largest measured / bound over the random instances.
        worst: seed, batch and index from which the tightest random instance is made again (`runner.replay`).
        histogram: counts of log10 of the ratio, with the bin edges.
        extremal_ratio: ratio at the constructed extremal instance, if there is one.
        attained: whether the bound is claimed tight.
        adversary: what the adversarial search reached, one entry per shape.
        verdict: ``verified``, ``violated``, ``refuted``, ``not refuted``, ``not attained``, or ``vacuous`` where no
            instance met the assumptions.
        seconds: time spent.
    """

    key: str
    module: str
    title: str
    formula: str
    claim: str
    instances: int
    assumption_failures: dict[str, int]
    violations: int
    tightest_ratio: float
    worst: dict[str, Any]
    histogram: dict[str, list[float]]
    extremal_ratio: float | None
    attained: bool
    adversary: list[dict[str, Any]]
    verdict: str
    seconds: float

    @property
    def passed(self) -> bool:
        """Whether the run found what the statement claims."""
        return self.verdict in ("verified", "refuted")

    def to_json(self) -> dict[str, Any]:
        """Plain dictionary."""
        return asdict(self)
