"""Finite numbers, ties that are ties on every device, and conditions that are read from the device together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunedlora.distributed import true_everywhere

Outcome = TypeVar("Outcome")

#: By the places at which a tensor decides between two ways: which were taken there.
Taken = dict[str, set[bool]]


@dataclass
class Ways:
    """Which ways were taken in one kind of computation that comes again and again.

    Attributes:
        last: in the last computation.
        before: in the one before.
    """

    last: Taken = field(default_factory=dict)
    before: Taken = field(default_factory=dict)

    def expected(self, place: str) -> bool | None:
        """The way that was taken whenever the last two computations came to a place; None if there is not one."""
        ways = self.last.get(place, set())
        return next(iter(ways)) if len(ways) == 1 and ways == self.before.get(place) else None

    def add(self, taken: Taken) -> None:
        """Take note of a computation."""
        self.before = self.last
        self.last = taken


@dataclass
class _Assumptions:
    """What a computation takes for granted.

    Attributes:
        conditions: taken as true, to be read at the end; None where each is read at once.
        ways: that are expected to be taken where they are known; None where each decision is read at once.
        taken: the ways that have been taken.
    """

    conditions: list[Tensor] | None
    ways: Ways | None = None
    taken: Taken = field(default_factory=dict)


#: Those of the computation under way; None outside of one.
_assumed: ContextVar[_Assumptions | None] = ContextVar("assumed", default=None)


def holds(condition: Bool[Tensor, "*shape"]) -> bool:
    """Whether a condition is true in every entry; where it is not, raise an error.

    Outside `assuming` this waits for the device.  Within, it is taken as true and noted.

    >>> holds(torch.tensor([True, False]))
    False
    """
    assumed = _assumed.get()
    if assumed is None or assumed.conditions is None:
        return bool(condition.all())
    assumed.conditions.append(condition.all())
    return True


def fits(condition: Bool[Tensor, "*shape"], place: str) -> bool:
    """Whether the first of two ways will do, since a condition is true in every entry; else take the other.

    This waits for the device, but not within `optimistically` where the same way was always taken at the same place
    before: then it is taken to be as it was, and noted.

    >>> fits(torch.tensor([True, False]), "here")
    False
    """
    assumed = _assumed.get()
    if assumed is None:
        return bool(condition.all())
    known = assumed.ways.expected(place) if assumed.ways is not None else None
    if known is None or assumed.conditions is None:
        known = bool(condition.all())
    else:
        assumed.conditions.append(condition.all() == known)
    assumed.taken.setdefault(place, set()).add(known)
    return known


@contextmanager
def assuming(ways: Ways | None = None) -> Iterator[_Assumptions]:
    """Within the block `holds` does not wait, nor `fits` where the way is known; yields what is taken for granted.

    What is computed in the block counts only if all conditions are true: see `optimistically`.
    """
    with _taking(_Assumptions([], ways)) as assumed:
        yield assumed


@contextmanager
def _taking(assumptions: _Assumptions) -> Iterator[_Assumptions]:
    token = _assumed.set(assumptions)
    try:
        yield assumptions
    finally:
        _assumed.reset(token)


def optimistically(
    compute: Callable[[], Outcome],
    read: Callable[[Outcome], Sequence[Tensor]],
    ways: Ways | None = None,
) -> tuple[Outcome, list[list[float]]]:
    """What `compute` returns, with all its conditions and some results read from the device once, at the end.

    Where a condition turns out false, in any process, `compute` runs again and waits for each, so that it raises its
    errors and takes its other ways as it does outside.  It must change nothing.  The outcome is the same to the last
    digit however often it waits.

    Args:
        compute: calls `holds` and `fits` wherever it decides by a tensor.
        read: the tensors of its outcome that are wanted on the host; integers of at most 2**53 in absolute value.
        ways: that this computation has taken before, which are brought up to date.

    Returns:
        The outcome, and the entries of each tensor of `read`.

    >>> optimistically(lambda: torch.ones(2) if holds(torch.tensor(False)) else torch.zeros(2), lambda t: [t])
    (tensor([0., 0.]), [[0.0, 0.0]])
    """
    ways = Ways() if ways is None else ways
    with assuming(ways) as assumed:
        conditions = assumed.conditions
        assert conditions is not None
        try:
            outcome = compute()
            to_read = read(outcome)
        except Exception:
            # Decompositions refuse NaN by themselves; the run that waits says what was wrong.
            if not conditions:
                raise
            conditions.append(torch.zeros_like(conditions[0]))
            to_read = []
    # One transfer: whether all is as assumed, and what was to be read.
    held, *values = _to_host([_all_everywhere(conditions), *to_read])
    if all(held):
        ways.add(assumed.taken)
        return outcome, values
    with _taking(_Assumptions(None)) as waited:
        outcome = compute()
        to_read = read(outcome)
    ways.add(waited.taken)
    return outcome, _to_host(to_read)


def _all_everywhere(conditions: list[Tensor]) -> Tensor:
    """Whether all conditions are true in all processes, so that all go on alike; empty if there are none."""
    if not conditions:
        return torch.ones(0)
    device = conditions[0].device
    return true_everywhere(torch.stack([c.to(device) for c in conditions]).all())


def _to_host(tensors: Sequence[Tensor]) -> list[list[float]]:
    """The entries of tensors, in one transfer."""
    if not tensors:
        return []
    device = tensors[-1].device
    flat = [t.detach().to(device, torch.float64).flatten() for t in tensors]
    entries = iter(torch.cat(flat).tolist())
    return [list(islice(entries, t.numel())) for t in flat]


def is_finite(t: Tensor) -> bool:
    """Whether every entry is finite.

    >>> is_finite(torch.tensor([1e38, 3e38])), is_finite(torch.tensor([float("inf"), -float("inf")]))
    (True, False)
    """
    return holds(finite(t))


def finite(t: Tensor) -> Bool[Tensor, ""]:
    """Whether every entry is finite, left on the device.

    By the least and the largest entry, which NaN takes over: no tensor of that size is formed.
    """
    if t.numel() == 0:
        return torch.ones((), dtype=torch.bool, device=t.device)
    return torch.isfinite(torch.stack(torch.aminmax(t.detach()))).all()


#: Binary digits that are compared: 40 of float64's 53, the rest being rounding noise of the sums behind a score.
DIGITS = 40


def round_off(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Scores in float64, rounded to `DIGITS` binary digits each; infinities stay.

    Sums are taken in another order on another device, so that components that are equal differ in the last
    digits there; after rounding they tie, and a tie goes to the lowest index everywhere.

    >>> round_off(torch.tensor([0.1 + 0.2, 0.3], dtype=torch.float64)).unique().numel()
    1
    """
    mantissa, exponent = torch.frexp(scores.double())
    rounded = torch.ldexp(torch.round(mantissa * 2.0**DIGITS), exponent - DIGITS)
    return rounded.where(torch.isfinite(scores), scores.double())
