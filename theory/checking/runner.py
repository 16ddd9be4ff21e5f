"""Verify statements: random instances batch by batch, the constructed extremal instance, then the adversary."""

import hashlib
import math
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Generator, Tensor

from theory.checking import instances as algebra
from theory.checking.adversary import STEPS, Attack, attack
from theory.checking.registry import Statement
from theory.checking.result import Result, Summary

#: Instances checked at once.
BATCH = 500
#: What a bound that is claimed tight must reach.
ATTAINED = 0.99
#: Bin edges of the histograms, log10 of measured / bound.
EDGES = [-12.0 + i / 3 for i in range(46)]


@dataclass(frozen=True)
class Batch:
    """A batch of random instances: everything needed to draw it again."""

    number: int
    size: int
    shape: Mapping[str, int]
    seed: int


@dataclass
class _Tally:
    """What the random instances have shown so far."""

    count: int = 0
    violations: int = 0
    failures: dict[str, int] = field(default_factory=dict)
    applicable: int = 0
    tightest: float = -math.inf
    worst: dict[str, Any] = field(default_factory=dict)
    histogram: Tensor = field(
        default_factory=lambda: torch.zeros(len(EDGES) - 1, dtype=torch.float64)
    )

    def add(self, batch: Batch, result: Result) -> None:
        """Count one batch."""
        self.count += batch.size
        self.violations += int(result.violated.sum())
        for name, met in result.assumptions.items():
            self.failures[name] = self.failures.get(name, 0) + int((~met).sum())
        applies = result.applies
        self.applicable += int(applies.sum())
        ratio = torch.where(applies, result.ratio.nan_to_num(nan=math.inf), -1.0)
        logs = ratio[applies].clamp(min=1e-12).log10().clamp(EDGES[0], EDGES[-1])
        self.histogram += torch.histogram(
            logs.cpu(), torch.tensor(EDGES, dtype=logs.dtype)
        ).hist.double()
        leader = int(ratio.argmax())
        if bool(applies.any()) and ratio[leader] > self.tightest:
            self.tightest = ratio[leader].item()
            self.worst = {
                "batch": batch.number,
                "index": leader,
                "shape": dict(batch.shape),
                "seed": batch.seed,
            }


def derived_seed(seed: int, *parts: object) -> int:
    """A seed for a part of the run; parts do not depend on which other parts run.

    >>> derived_seed(0, "S5", 1) == derived_seed(0, "S5", 1) != derived_seed(0, "S5", 2)
    True
    """
    text = "/".join(str(part) for part in (seed, *parts))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:7], "big")


def batches(statement: Statement, count: int, seed: int) -> Iterator[Batch]:
    """`count` instances, the shapes taking turns."""
    for number, first in enumerate(range(0, count, BATCH)):
        shape = statement.shapes[number % len(statement.shapes)]
        yield Batch(
            number, min(BATCH, count - first), shape, derived_seed(seed, statement.key, number)
        )


def plan(statement: Statement, count: int, seed: int) -> list[Batch]:
    """The batches of a run: at least one for each shape."""
    if count >= BATCH * len(statement.shapes):
        return list(batches(statement, count, seed))
    share = -(-count // len(statement.shapes))
    return [
        Batch(i, share, shape, derived_seed(seed, statement.key, i))
        for i, shape in enumerate(statement.shapes)
    ]


def draw(statement: Statement, batch: Batch, device: str = "cpu") -> Any:
    """The instances of a batch."""
    generator = Generator().manual_seed(batch.seed)
    return algebra.to_device(statement.sample(generator, batch.size, **batch.shape), device)


def replay(statement: Statement, count: int, seed: int, batch: int, index: int) -> Any:
    """One instance of a run again, from what ``statements.json`` says about it.

    >>> from theory import get_statement
    >>> statement = get_statement("S5.jacobian")
    >>> summary = verify(statement, count=30, seed=3, steps=2)
    >>> worst = replay(statement, 30, 3, summary.worst["batch"], summary.worst["index"])
    >>> statement.check(worst).ratio.item() == summary.tightest_ratio
    True
    """
    return algebra.entry(draw(statement, plan(statement, count, seed)[batch]), index)


def verify(
    statement: Statement,
    count: int | None = None,
    seed: int = 0,
    device: str = "cpu",
    tighten: float = 1.0,
    steps: int = STEPS,
) -> Summary:
    """Check one statement in every way there is.

    Args:
        statement: the statement.
        count: random instances; by default what the statement asks for.
        seed: of the run.
        device: where to compute; instances are the same on every device.
        tighten: multiplies every right-hand side.  With 0.9 a bound that is attained must fall.
        steps: of the adversary.
    """
    began = time.perf_counter()
    tally = _Tally()
    for batch in plan(statement, count or statement.instances, seed):
        tally.add(batch, statement.check(draw(statement, batch, device)).tightened(tighten))
    extremal = None
    if statement.extremal is not None:
        extremal = statement.check(algebra.to_device(statement.extremal(), device)).tightened(
            tighten
        )
    attacks = [
        attack(
            statement,
            dict(shape),
            derived_seed(seed, statement.key, "adversary", i),
            device,
            tighten,
            steps,
        )
        for i, shape in enumerate(statement.adversary_shapes)
    ]
    return _summary(statement, tally, extremal, attacks, time.perf_counter() - began)


def _summary(
    statement: Statement,
    tally: _Tally,
    extremal: Result | None,
    attacks: list[Attack],
    seconds: float,
) -> Summary:
    broken = tally.violations + sum(a.violations for a in attacks)
    broken += 0 if extremal is None else int(extremal.violated.sum())
    reached = [a.best_ratio for a in attacks] + (
        [] if extremal is None else [extremal.ratio.max().item()]
    )
    return Summary(
        key=statement.key,
        module=statement.module,
        title=statement.title,
        formula=statement.formula,
        claim=statement.claim,
        instances=tally.count,
        assumption_failures=tally.failures,
        violations=broken,
        tightest_ratio=tally.tightest,
        worst=tally.worst,
        histogram={"edges": EDGES, "counts": tally.histogram.tolist()},
        extremal_ratio=None if extremal is None else extremal.ratio.max().item(),
        attained=statement.attained,
        adversary=[a.to_json() for a in attacks],
        verdict=_verdict(statement, broken, tally.applicable, max([tally.tightest, *reached])),
        seconds=seconds,
    )


def _verdict(statement: Statement, broken: int, applicable: int, reached: float) -> str:
    if statement.claim == "refuted":
        return "refuted" if broken else "not refuted"
    if broken:
        return "violated"
    if not applicable:
        return "vacuous"
    return "not attained" if statement.attained and reached < ATTAINED else "verified"
