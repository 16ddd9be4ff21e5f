"""Activation-based removal with least-squares recovery (Frantar, Alistarh: SparseGPT, ICML 2023, arXiv:2301.00774)."""

from jaxtyping import Float, Int
from torch import Tensor

from prunedlora.criteria.registry import Reduction, register_reduction
from prunedlora.factors import Factors
from prunedlora.linalg.elimination import Elimination, block_solution, eliminate
from prunedlora.statistics.data import Statistics

#: Relative damping of the activations' second moment, the paper's 1 %.
DAMPING = 1e-2


@register_reduction("sparsegpt2023", needs=("C_z",), unit="energy")
def sparsegpt2023(
    factors: Factors, statistics: Statistics, count: int, *, damping: float = DAMPING
) -> Reduction:
    r"""Removal of columns of B that changes the layer's output least, the other columns making up for it.

    B is a linear layer with the input :math:`z = Ax`, so the cost of a change is
    :math:`\tfrac12\operatorname{tr}(\delta\,C_z\,\delta^\top)`, and column j costs
    :math:`\tfrac12\|B_{:,j}\|^2 / (C_z^{-1})_{jj}` when it goes.  Rows of A that stay do not change.

    Invariant to permutation, to sign and to rescaling ``B[:, j]`` against ``A[j, :]``; not to a change of basis.
    """
    out = eliminate(
        (factors.B,),
        (statistics.require("C_z"),),
        count,
        damping=damping,
        name="the second moment of z = Ax",
    )
    return recovered_in_B(factors, out)


def recovered_in_B(factors: Factors, out: Elimination) -> Reduction:
    """The reduction in which B makes up for the components that went, and A only loses their rows."""
    kept = Factors(out.matrices[0], factors.without(out.removed).A)
    return Reduction(kept, out.removed, out.cost)


def recovered(
    factors: Factors,
    C_z: Float[Tensor, "r r"],
    removed: Int[Tensor, " count"],
    damping: float = DAMPING,
) -> Factors:
    """The factors without components that another rule chose, B making up for them as in `sparsegpt2023`.

    Args:
        factors: of one module.
        C_z: second moment of z = Ax.
        removed: the components that go.
        damping: added to C_z, relative to its diagonal.
    """
    C = C_z.double()
    change, _ = block_solution(factors.B.double(), C + damping * C.diagonal().diag(), removed)
    moved = Factors((factors.B.double() + change).to(factors.B.dtype), factors.A)
    return moved.without(removed)
