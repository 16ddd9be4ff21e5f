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
    recovery: Recovery = "both",
) -> Reduction:
    r"""Joint removal of columns of B and rows of A by the gradient's second moments, with recovery.

    Minimises (10) greedily over masks, with :math:`H_B = G_B^\top G_B`, :math:`H_A = G_A G_A^\top`, and applies
    (11).  Damping is relative to the diagonal, which keeps the invariance to rescaling.

    The literal Newton term :math:`G H^{-1}` is the pseudo-inverse of the gradient and grows as the gradient
    shrinks; it is off by default.  ``newton="literal"`` is the printed algorithm and is unsafe near a
    minimum of the loss.  ``"capped"`` bounds it by `trust` times the factor's norm.

    `recovery` says which factors move.  ``"both"`` is (11) as printed: B makes up for the removed components as if A
    stayed, and A as if B stayed, so that together they make up for them twice, and the change of BA is that of leaving
    the components out with the opposite sign (statement S13 of `theory`).  ``"B"`` and ``"A"`` move one of them
    alone, ``"half"`` each by half; little of the change is left then.  ``"none"`` only removes.

    Raises:
        ConfigurationError: an unknown `recovery`, or a Newton step with another one than ``"both"``.

    Invariant to permutation, to sign and to rescaling ``B[:, j]`` against ``A[j, :]``; not to a change of
    basis, and not to the scale of the loss when the Newton term is on.
    """
    if recovery not in SHARES:
        raise ConfigurationError(f"recovery must be one of {get_args(Recovery)}, not {recovery!r}")
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
    # Between the factors that only lose the components (share 0) and those of (11) (share 1).
    masked = factors.without(out.removed)
    share_B, share_A = SHARES[recovery]
    B = torch.lerp(masked.B, out.matrices[0], share_B)
    A = torch.lerp(masked.A, out.matrices[1].mT, share_A)
    return Reduction(Factors(B, A), out.removed, out.cost)
