"""Criteria that look neither at data nor at the loss."""

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.criteria.registry import register
from prunedlora.factors import Factors
from prunedlora.statistics.data import Statistics


@register("random", needs=("noise",), unit="none")
def random(factors: Factors, statistics: Statistics) -> Float[Tensor, "*m r"]:
    """A uniform random number for each component: the floor that every rule must beat.

    Invariant to sign and to rescaling; not to permutation, nor to a change of basis.
    """
    return statistics.require("noise")


@register("magnitude", needs=(), unit="weight")
def magnitude(factors: Factors, statistics: Statistics) -> Float[Tensor, "*m r"]:
    r"""Norm of each rank-1 term, :math:`\|B_{:,j}\| \cdot \|A_{j,:}\|`.  Unit: that of :math:`\Delta W / s`.

    Invariant to permutation, to sign and to rescaling ``B[:, j]`` against ``A[j, :]``; not to a change of basis.
    Ignores data and loss.
    """
    return torch.linalg.vector_norm(factors.B.double(), dim=-2) * torch.linalg.vector_norm(
        factors.A.double(), dim=-1
    )
