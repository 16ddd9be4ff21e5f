"""Importance score of AdaLoRA (Zhang et al., ICLR 2023, arXiv:2303.10512), for the components of plain LoRA."""

from jaxtyping import Float
from torch import Tensor

from prunedlora.criteria.registry import register
from prunedlora.factors import Factors
from prunedlora.statistics.data import Statistics


@register(
    "adalora2023",
    needs=("sensitivity_B", "sensitivity_A", "uncertainty_B", "uncertainty_A"),
    unit="loss",
)
def adalora2023(factors: Factors, statistics: Statistics) -> Float[Tensor, "*m r"]:
    r"""Smoothed sensitivity times uncertainty, averaged over each factor of a component.

    For a weight w with gradient g, the sensitivity :math:`I = |w g|` has the moving average :math:`\bar I` and
    the uncertainty is the moving average :math:`\bar U` of :math:`|I - \bar I|`; the weight's score is
    :math:`\bar I \bar U` (equations 8-11 of the paper), here
    :math:`\operatorname{mean}_i \bar I\bar U(B_{ij}) + \operatorname{mean}_k \bar I\bar U(A_{jk})`: the doublet of
    a LoRA component, the paper's triplet without the singular value.  Nothing but the masked weights moves.

    Invariant to permutation, to sign and to rescaling ``B[:, j]`` against ``A[j, :]``; not to a change of basis.
    """
    score_B, score_A = (
        statistics.require(f"sensitivity_{x}").double()
        * statistics.require(f"uncertainty_{x}").double()
        for x in "BA"
    )
    return score_B.mean(dim=-2) + score_A.mean(dim=-1)
