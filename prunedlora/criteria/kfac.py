"""Kronecker-factored curvature of the loss, from the bottleneck's two second moments."""

from prunedlora.criteria.registry import Reduction, register_reduction
from prunedlora.criteria.sparsegpt2023 import recovered_in_B
from prunedlora.factors import Factors
from prunedlora.linalg.elimination import eliminate
from prunedlora.statistics.data import Statistics

#: Relative damping of the activations' second moment.
DAMPING = 1e-2


@register_reduction("kfac", needs=("C_z", "U"), unit="loss")
def kfac(
    factors: Factors, statistics: Statistics, count: int, *, damping: float = DAMPING
) -> Reduction:
    r"""Removal that raises the loss least under the curvature :math:`D \otimes C`, with recovery in B.

    Column j costs :math:`\tfrac12 U_{jj} / (C_z^{-1})_{jj}`, with :math:`U = s^2 B^\top D B`; the recovery runs
    through :math:`C_z` alone, because D cancels.  For the same components it is that of `sparsegpt2023`; only the
    choice knows the loss.

    Curvature: Kronecker factorisation of the Fisher matrix (Martens, Grosse, arXiv:1503.05671).

    Invariant to permutation, to sign and to rescaling ``B[:, j]`` against ``A[j, :]``; not to a change of basis.
    """
    out = eliminate(
        (factors.B,),
        (statistics.require("C_z"),),
        count,
        moments=(statistics.require("U"),),
        damping=damping,
        name="the second moment of z = Ax",
    )
    return recovered_in_B(factors, out)
