"""Algorithm 1 of PrunedLoRA with a properly normalised Fisher matrix in place of one mini-batch's Gram matrix."""

from prunedlora.criteria.prunedlora2025 import Recovery, part_of_recovery
from prunedlora.criteria.registry import Reduction, register_reduction
from prunedlora.factors import Factors
from prunedlora.linalg.elimination import eliminate
from prunedlora.statistics.data import Statistics

#: Relative damping of the Fisher estimate.
DAMPING = 1e-2


@register_reduction("fisher", needs=("fisher_B", "fisher_A"), unit="loss")
def fisher(
    factors: Factors,
    statistics: Statistics,
    count: int,
    *,
    damping: float = DAMPING,
    recovery: Recovery = "half",
) -> Reduction:
    r"""Joint removal of columns of B and rows of A, with recovery, by the empirical Fisher matrix.

    The form of `prunedlora2025` (equations 10 and 11 of arXiv:2510.00192) without its linear term, with
    :math:`H_B = E[G_B^\top G_B]` and :math:`H_A = E[G_A G_A^\top]` averaged over micro-batches or samples, so that
    the scale of the loss, accumulation and clipping do not change the choice.  `recovery` is as there, and for the
    same reason each factor makes half of its own.

    Raises:
        ConfigurationError: an unknown `recovery`.

    Invariant to permutation, to sign and to rescaling ``B[:, j]`` against ``A[j, :]``; not to a change of basis.
    """
    out = eliminate(
        (factors.B, factors.A.mT),
        (statistics.require("fisher_B"), statistics.require("fisher_A")),
        count,
        damping=damping,
        name="the Fisher matrix of the factors",
    )
    moved = Factors(out.matrices[0], out.matrices[1].mT)
    new = part_of_recovery(factors.without(out.removed), moved, recovery)
    return Reduction(new, out.removed, out.cost)
