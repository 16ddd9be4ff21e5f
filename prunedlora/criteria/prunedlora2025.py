"""Algorithm 1 of PrunedLoRA (Yu, Xie, Zhao, Fan, Xue, Zhang, arXiv:2510.00192)."""

from prunedlora.criteria.registry import Reduction, register_reduction
from prunedlora.factors import Factors
from prunedlora.linalg.elimination import Newton, eliminate
from prunedlora.statistics.data import Statistics

#: Relative damping of the curvature estimate; not tuned yet.
DAMPING = 1e-2


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
) -> Reduction:
    r"""Joint removal of columns of B and rows of A by the gradient's second moments, with recovery.

    Minimises (10) greedily over masks, with :math:`H_B = G_B^\top G_B`, :math:`H_A = G_A G_A^\top`, and applies
    (11).  Damping is relative to the diagonal, which keeps the invariance to rescaling.

    The literal Newton term :math:`G H^{-1}` is the pseudo-inverse of the gradient and grows as the gradient
    shrinks; it is off by default.  ``newton="literal"`` is the printed algorithm and is unsafe near a
    minimum of the loss.  ``"capped"`` bounds it by `trust` times the factor's norm.

    Invariant to permutation, to sign and to rescaling ``B[:, j]`` against ``A[j, :]``; not to a change of
    basis, and not to the scale of the loss when the Newton term is on.
    """
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
    return Reduction(Factors(out.matrices[0], out.matrices[1].mT), out.removed, out.cost)
