"""Weights times activations (Sun, Liu, Bair, Kolter: Wanda, ICLR 2024, arXiv:2306.11695), per component."""

from jaxtyping import Float
from torch import Tensor

from prunedlora.criteria.registry import register
from prunedlora.factors import Factors
from prunedlora.statistics.data import Statistics


@register("wanda2024", needs=("C_z",), unit="energy")
def wanda2024(factors: Factors, statistics: Statistics) -> Float[Tensor, "*m r"]:
    r"""Energy that a component adds to the output, :math:`\|B_{:,j}\|^2 \, E[z_j^2] = \sum_i (|B_{ij}|\,\|z_j\|)^2`.

    The paper's score :math:`|W_{ij}| \|x_j\|`, taken on B, whose input is :math:`z = Ax`, squared and summed over
    the outputs of a component.  No weight is updated.

    Invariant to permutation, to sign and to rescaling ``B[:, j]`` against ``A[j, :]``; not to a change of basis.
    """
    C_z = statistics.require("C_z").double()
    return factors.B.double().square().sum(dim=-2) * C_z.diagonal(dim1=-2, dim2=-1)
