"""Algorithm 1 of PrunedLoRA (Yu, Xie, Zhao, Fan, Xue, Zhang, arXiv:2510.00192)."""

from typing import Literal, get_args

import torch

from prunedlora.criteria.registry import Reduction, register_reduction
from prunedlora.errors import ConfigurationError
from prunedlora.factors import Factors
from prunedlora.linalg.elimination import Newton, eliminate
from prunedlora.statistics.data import Statistics

#: Relative damping of the curvature estimate; not tuned yet.
DAMPING = 1e-2

#: Which factors move to compensate for the components that go.
Recovery = Literal["both", "half", "B", "A", "none"]
#: The share of its own recovery that each factor, B and A, makes.
SHARES: dict[str, tuple[float, float]] = {
    "both": (1.0, 1.0),
    "half": (0.5, 0.5),
    "B": (1.0, 0.0),
    "A": (0.0, 1.0),
    "none": (0.0, 0.0),
}


@register_reduction(
    "prunedlora2025", needs=("gradient_B", "gradient_A", "gram_B", "gram_A"), unit="loss"
)
def prunedlora2025(
    factors: Factors,
    statistics: Statistics,
    count: int,
    *,
    damping: float = DAMPING,
    newton: Newton = "off",
    trust: float = 0.1,
    recovery: Recovery = "half",
) -> Reduction:
    r"""Joint removal of columns of B and rows of A by the gradient's second moments, with recovery.

    Minimises (10) greedily over masks, with :math:`H_B = G_B^\top G_B`, :math:`H_A = G_A G_A^\top`, and moves what
    stays by half of (11), see below.  Damping is relative to the diagonal, which keeps the invariance to rescaling.

    The literal Newton term :math:`G H^{-1}` is the pseudo-inverse of the gradient and grows as the gradient
    shrinks; it is off by default.  ``newton="literal", recovery="both"`` is the printed algorithm and is unsafe near a
    minimum of the loss.  ``"capped"`` bounds it by `trust` times the factor's norm.

    `recovery` says which factors move.  ``"both"`` is (11) as printed: B makes up for the removed components as if A
    stayed, and A as if B stayed, so that together they make up for them twice, and the change of BA is that of leaving
    the components out with the opposite sign (statement S13 of `theory`).  ``"half"``, the default, moves each of them
    by half, ``"B"`` and ``"A"`` one of them alone; little of the change is left then.  ``"none"`` only removes.
    Measured, half is ahead of ``"both"``, ``"B"`` and ``"A"``, and of ``"none"`` unless most of the learning rate is
    still to come after the last event (table ``verdict`` of `experiments`).

    Raises:
        ConfigurationError: an unknown `recovery`, or a Newton step with another one than ``"both"``.

    Invariant to permutation, to sign and to rescaling ``B[:, j]`` against ``A[j, :]``; not to a change of
    basis, and not to the scale of the loss when the Newton term is on.
    """
    if newton != "off" and recovery != "both":
        raise ConfigurationError(
            "the Newton term is part of (11) as printed; use recovery='both', or newton='off'"
        )
    out = eliminate(
        (factors.B, factors.A.mT),
        (statistics.require("gram_B"), statistics.require("gram_A")),
        count,
        None
        if newton == "off"
        else (statistics.require("gradient_B"), statistics.require("gradient_A").mT),
        damping=damping,
        newton=newton,
        trust=trust,
        name="the Gram matrix of the gradients",
    )
    moved = Factors(out.matrices[0], out.matrices[1].mT)
    new = part_of_recovery(factors.without(out.removed), moved, recovery)
    return Reduction(new, out.removed, out.cost)


def part_of_recovery(masked: Factors, moved: Factors, recovery: Recovery) -> Factors:
    """Between factors that only lose components and those of (11), each factor by its own share.

    Args:
        masked: without the removed components, nothing else moved.
        moved: both factors by (11).
        recovery: which factors move.

    Raises:
        ConfigurationError: an unknown `recovery`.
    """
    if recovery not in SHARES:
        raise ConfigurationError(f"recovery must be one of {get_args(Recovery)}, not {recovery!r}")
    share_B, share_A = SHARES[recovery]
    return Factors(torch.lerp(masked.B, moved.B, share_B), torch.lerp(masked.A, moved.A, share_A))
