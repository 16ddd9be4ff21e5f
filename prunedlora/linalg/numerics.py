"""Finite numbers, ties that are ties on every device, and conditions that are read from the device together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from itertools import islice
from typing import TypeVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from prunedlora.distributed import true_everywhere

Outcome = TypeVar("Outcome")

#: Conditions taken as true within a block of `assuming`; None outside of one.
_assumed: ContextVar[list[Tensor] | None] = ContextVar("assumed", default=None)


def holds(condition: Bool[Tensor, "*shape"]) -> bool:
    """Whether a condition is true in every entry; where it is not, raise an error or compute in another way.

    Outside `assuming` this waits for the device.  Within, it is taken as true and noted.

    >>> holds(torch.tensor([True, False]))
    False
    """
    conditions = _assumed.get()
    if conditions is None:
        return bool(condition.all())
    conditions.append(condition.all())
    return True


@contextmanager
def assuming() -> Iterator[list[Tensor]]:
    """Within the block `holds` does not wait; yields the list of the conditions that it took as true.

    What is computed in the block counts only if all of them are: see `optimistically`.
    """
    conditions: list[Tensor] = []
    token = _assumed.set(conditions)
    try:
        yield conditions
    finally:
        _assumed.reset(token)


def optimistically(
    compute: Callable[[], Outcome], read: Callable[[Outcome], Sequence[Tensor]]
) -> tuple[Outcome, list[list[float]]]:
    """What `compute` returns, with all its conditions and some results read from the device once, at the end.

    Where a condition turns out false, in any process, `compute` runs again and waits for each, so that it raises its
    errors and takes its other ways as it does outside.  It must change nothing.

    Args:
        compute: calls `holds` wherever it decides by a tensor.
        read: the tensors of its outcome that are wanted on the host; integers of at most 2**53 in absolute value.

    Returns:
        The outcome, and the entries of each tensor of `read`.

    >>> optimistically(lambda: torch.ones(2) if holds(torch.tensor(False)) else torch.zeros(2), lambda t: [t])
    (tensor([0., 0.]), [[0.0, 0.0]])
    """
    with assuming() as conditions:
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
        return outcome, values
    outcome = compute()
    return outcome, _to_host(read(outcome))


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
