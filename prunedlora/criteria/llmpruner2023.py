"""Taylor importance of LLM-Pruner (Ma, Fang, Wang, NeurIPS 2023, arXiv:2305.11627), per component of an adapter."""

from typing import Literal

from jaxtyping import Float
from torch import Tensor

from prunedlora.criteria.registry import register
from prunedlora.errors import ConfigurationError
from prunedlora.factors import Factors
from prunedlora.statistics.data import Statistics

Form = Literal["element1", "element2", "mixed"]


@register("llmpruner2023", needs=("gradient_B", "gradient_A"), unit="loss")
def llmpruner2023(
    factors: Factors, statistics: Statistics, *, form: Form = "element1"
) -> Float[Tensor, "*m r"]:
    r"""Sum over the weights of a component of their estimated effect on the loss.

    With :math:`t = g \cdot w` for a weight and its gradient: ``"element1"`` sums :math:`|t|` (first order),
    ``"element2"`` sums :math:`\tfrac12 t^2` (second order, the Hessian's diagonal estimated by :math:`g^2`), and
    ``"mixed"`` sums :math:`|t - \tfrac12 t^2|`.  The column of B and the row of A form one group, as in the
    paper's equations 4-6.

    Invariant to permutation, to sign and to rescaling ``B[:, j]`` against ``A[j, :]``; not to a change of basis.

    Raises:
        ConfigurationError: an unknown `form`.
    """
    t_B = factors.B.double() * statistics.require("gradient_B").double()
    t_A = factors.A.double() * statistics.require("gradient_A").double()
    if form == "element1":
        return t_B.abs().sum(dim=-2) + t_A.abs().sum(dim=-1)
    if form == "element2":
        return 0.5 * (t_B.square().sum(dim=-2) + t_A.square().sum(dim=-1))
    if form == "mixed":
        mixed_B, mixed_A = t_B - 0.5 * t_B.square(), t_A - 0.5 * t_A.square()
        return mixed_B.abs().sum(dim=-2) + mixed_A.abs().sum(dim=-1)
    raise ConfigurationError(f"form must be 'element1', 'element2' or 'mixed', not {form!r}")
