"""Pruning rules that only a study needs: random choice with the paper's recovery, and a rebalancing."""

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunedlora.criteria import available_criteria, get_criterion, register_reduction
from prunedlora.criteria.prunedlora2025 import DAMPING, Recovery, part_of_recovery
from prunedlora.criteria.registry import Reduction
from prunedlora.factors import Factors
from prunedlora.linalg.curvature import damped
from prunedlora.linalg.elimination import block_solution
from prunedlora.statistics.data import Statistics

Rule = Literal["random", "prunedlora2025", "kfac", "sparsegpt2023"]
#: Names of the two rules, see `register_controls`.
RANDOM_RECOVERED = "random_recovered"
REBALANCED = "rebalanced"
#: The statistics of the paper's rule, and of random choice.
GRADIENTS = ("gradient_B", "gradient_A", "gram_B", "gram_A", "noise")
#: Those of the rules that look at activations, too.
BOTTLENECK = ("C_z", "U")


def random_recovered(
    factors: Factors,
    statistics: Statistics,
    count: int,
    *,
    recovery: Recovery = "half",
) -> Reduction:
    """Components chosen at random, and the paper's recovery from its moments of the gradients.

    With `recovery` as in `prunedlora2025`: what differs from it then is the choice alone.
    """
    chosen = get_criterion("random").reduce(factors, statistics, count)
    moved_B = _recover(factors.B, statistics.require("gram_B"), chosen.removed)
    moved_A = _recover(factors.A.mT, statistics.require("gram_A"), chosen.removed).mT
    new = part_of_recovery(chosen.factors, Factors(moved_B, moved_A), recovery)
    return Reduction(new, chosen.removed, chosen.cost)


def rebalanced(
    factors: Factors,
    statistics: Statistics,
    count: int,
    *,
    rule: Rule = "prunedlora2025",
    recovery: Recovery = "half",
) -> Reduction:
    r"""Another rule, after which each column of B has the norm of its row of A, as it has after `svd`.

    The product BA is that of the rule.  The optimiser's state follows as it does for `svd`.

    Args:
        factors: of the module.
        statistics: of the rule.
        count: of components to remove.
        rule: what removes them.
        recovery: of ``prunedlora2025``.
    """
    options = {"recovery": recovery} if rule == "prunedlora2025" else {}
    out = get_criterion(rule).reduce(factors, statistics, count, **options)
    norm_B = torch.linalg.vector_norm(out.factors.B.double(), dim=-2)
    norm_A = torch.linalg.vector_norm(out.factors.A.double(), dim=-1)
    # Components that are gone, or were never there, stay as they are.
    there = (norm_B > 0) & (norm_A > 0)
    scale = (norm_A / norm_B).where(there, torch.ones_like(norm_B)).sqrt()
    new = Factors(
        (out.factors.B * scale.unsqueeze(-2)).to(factors.B.dtype),
        (out.factors.A / scale.unsqueeze(-1)).to(factors.A.dtype),
    )
    kept = torch.ones_like(scale).scatter(-1, out.removed, 0.0)
    basis = torch.diag_embed(kept * scale), torch.diag_embed(kept / scale)
    return Reduction(new, out.removed, out.cost, basis)


def _recover(
    W: Float[Tensor, "*m d r"], H: Float[Tensor, "*m r r"], removed: Int[Tensor, "*m count"]
) -> Float[Tensor, "*m d r"]:
    """The matrix after its best change that zeroes some columns, under damped moments."""
    change, _ = block_solution(W, damped(H, DAMPING), removed)
    return (W.double() + change).to(W.dtype)


def register_controls() -> None:
    """Make the rules known by their names, for all that prunes in this process; again, it does nothing."""
    if RANDOM_RECOVERED not in available_criteria():
        register_reduction(RANDOM_RECOVERED, needs=GRADIENTS, unit="none")(random_recovered)
        needs = GRADIENTS + BOTTLENECK
        register_reduction(REBALANCED, needs=needs, unit="none", rotates=True)(rebalanced)
