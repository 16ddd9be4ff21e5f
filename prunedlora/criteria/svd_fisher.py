"""Truncation under the exact Fisher matrix of the adapter's core."""

import torch

from prunedlora.criteria.registry import Reduction, register_reduction
from prunedlora.criteria.svd import input_moment, last_removed, output_moment, svd_kfac
from prunedlora.factors import Factors
from prunedlora.linalg.fisher_truncation import Subspace, truncate_core_fisher
from prunedlora.linalg.weighted_truncation import DAMPING
from prunedlora.statistics.data import Statistics


@register_reduction("svd_fisher", needs=("C_z", "U", "core_gradients"), unit="loss", rotates=True)
def svd_fisher(
    factors: Factors,
    statistics: Statistics,
    count: int,
    *,
    damping: float = DAMPING,
    mu: float | None = None,
    lam: float | None = None,
    max_iter: int = 100,
) -> Reduction:
    r"""Least increase of the loss under the Fisher matrix of every adapter within the spaces of B and A.

    See `prunedlora.linalg.fisher_truncation`; started at `svd_kfac` and never worse in its own objective.  By
    default `mu` and `lam` are chosen for each module by held-out samples, and `svd_kfac` stays where nothing beats it
    there.  It also stays where more components are kept than core gradients were measured for, see
    `prunedlora.statistics.core_gradients.MAX_CORE`.  The costs of the single components are those of `svd_kfac`,
    scaled to add up to the fitted objective.

    Invariant to permutation, to sign, to rescaling and to a change of basis.
    """
    base = svd_kfac(factors, statistics, count, damping=damping)
    if count in (0, factors.rank):
        return base
    core_gradients = statistics.require("core_gradients")
    kept = factors.rank - count
    if kept > core_gradients.shape[-1]:
        return base
    subspace = None
    if statistics.core_columns is not None:
        parts = ("core_columns", "core_rows", "core_traces")
        subspace = Subspace(*(statistics.require(part) for part in parts))
    fit = truncate_core_fisher(
        factors.B,
        factors.A,
        kept,
        core_gradients,
        output_moment(factors, statistics, damping),
        input_moment(factors, statistics, damping),
        subspace=subspace,
        mu=mu,
        lam=lam,
        max_iter=max_iter,
    )
    # Costs of single components, scaled so that they add up to the objective of the whole truncation.
    share = base.cost / base.cost.sum(dim=-1, keepdim=True).clamp(
        min=torch.finfo(base.cost.dtype).tiny
    )
    costs = base.cost.new_zeros((*base.cost.shape[:-1], factors.rank))
    costs[..., kept:] = (share * fit.objective.unsqueeze(-1)).flip(-1)
    return last_removed(factors, fit.B, fit.A, costs, count)
