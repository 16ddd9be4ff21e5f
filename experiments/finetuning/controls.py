"""Pruning rules that only a study needs: the paper's recovery of a random choice, rebalancing, two-sided recoveries."""

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
#: Names of the rules, see `register_controls`.
RANDOM_RECOVERED = "random_recovered"
REBALANCED = "rebalanced"
CANCELLING = "cancelling"
KFAC_TWO_SIDED = "kfac_two_sided"
CONTROLS = (RANDOM_RECOVERED, REBALANCED, CANCELLING, KFAC_TWO_SIDED)
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


def cancelling(
    factors: Factors,
    statistics: Statistics,
    count: int,
    *,
    first: Literal["neither", "B"] = "neither",
) -> Reduction:
    """The paper's choice, and the shares of (11) after which the loss changes by nothing, to first order.

    Leaving the components out changes the loss by -x, the whole recovery of B by x_B and that of A by x_A, all read
    from the gradients.  Where the regressions behind (11) are exact, x_B = x_A = x.

    Args:
        factors: of the module.
        statistics: of the paper's rule.
        count: of components to remove.
        first: both factors move by the share x / (x_B + x_A), which is a half where the regressions are exact; or B
            moves by all, and A by what remains, (x - x_B) / x_A.  Shares are kept between 0 and 1.
    """
    paper = get_criterion("prunedlora2025")
    moved = paper.reduce(factors, statistics, count, recovery="both")
    masked = factors.without(moved.removed)
    G_B, G_A = statistics.require("gradient_B").double(), statistics.require("gradient_A").double()
    x = (G_B * (factors.B - masked.B)).sum(dim=(-2, -1))
    x_B = (G_B * (moved.factors.B - masked.B)).sum(dim=(-2, -1))
    x_A = (G_A * (moved.factors.A - masked.A)).sum(dim=(-2, -1))
    if first == "B":
        share_A = _share(x - x_B, x_A)
        share_B = torch.ones_like(share_A)
    else:
        share_B = share_A = _share(x, x_B + x_A)
    new = Factors(
        torch.lerp(masked.B, moved.factors.B, share_B[..., None, None].to(masked.B)),
        torch.lerp(masked.A, moved.factors.A, share_A[..., None, None].to(masked.A)),
    )
    return Reduction(new, moved.removed, moved.cost)


def kfac_two_sided(factors: Factors, statistics: Statistics, count: int) -> Reduction:
    r"""The choice and the recovery of B of `kfac`, after which A makes up for what remains, in the metric of D.

    With :math:`B' = B T` after B's recovery and :math:`E = A_M - X A_K` the rows that it leaves, A moves by
    :math:`(T^\top U T)^{-1} T^\top U_{:,M} E`: least squares again, so that the curvature's cost falls once more.

    Args:
        factors: of the module.
        statistics: of `kfac`.
        count: of components to remove.
    """
    plain = get_criterion("kfac").reduce(factors, statistics, count)
    C = damped(statistics.require("C_z"), DAMPING)
    U = damped(statistics.require("U"), DAMPING)
    gone = torch.zeros_like(C[..., 0]).scatter(-1, plain.removed, 1.0)
    kept, M = torch.diag_embed(1.0 - gone), torch.diag_embed(gone)
    # X, within r x r: of the removed rows and the kept columns.
    X = torch.linalg.solve(kept @ C @ kept + M, kept @ C @ M).mT
    T = kept + X
    left = (M - X) @ factors.A.double()
    step = torch.linalg.solve(T.mT @ U @ T + M, T.mT @ U @ M @ left)
    A = (plain.factors.A.double() + step).to(factors.A.dtype)
    return Reduction(Factors(plain.factors.B, A).without(plain.removed), plain.removed, plain.cost)


def _share(part: Float[Tensor, "*m"], whole: Float[Tensor, "*m"]) -> Float[Tensor, "*m"]:
    """Their ratio between 0 and 1; a half of nothing."""
    ratio = torch.where(whole == 0, 0.5, part / whole)
    return ratio.clamp(0.0, 1.0)


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
        register_reduction(CANCELLING, needs=GRADIENTS[:4], unit="none")(cancelling)
        register_reduction(KFAC_TWO_SIDED, needs=BOTTLENECK, unit="none")(kfac_two_sided)
