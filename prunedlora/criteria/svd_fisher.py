"""Truncation under the exact Fisher matrix of the adapter's core."""

import torch

from prunedlora.criteria.registry import Reduction, register_reduction
from prunedlora.criteria.svd import DAMPING, input_moment, last_removed, output_moment, svd_kfac
from prunedlora.factors import Factors
from prunedlora.linalg.fisher_truncation import truncate_core_fisher
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
    there.  The costs of the single components are those of `svd_kfac`, scaled to add up to the fitted objective.

    Invariant to permutation, to sign, to rescaling and to a change of basis.
    """
    base = svd_kfac(factors, statistics, count, damping=damping)
    if count in (0, factors.rank):
        return base
    # One module at a time: each fit takes as many steps as it needs.
    shape = factors.A.shape[:-2]
    flat = [
        t.reshape(-1, *t.shape[len(shape) :])
        for t in (
            factors.B,
            factors.A,
            statistics.require("core_gradients"),
            output_moment(factors, statistics, damping),
            input_moment(factors, statistics, damping),
        )
    ]
    fits = [
        truncate_core_fisher(
            B, A, factors.rank - count, g, M_b, M_a, mu=mu, lam=lam, max_iter=max_iter
        )
        for B, A, g, M_b, M_a in zip(*flat, strict=True)
    ]
    # Costs of single components, scaled so that they add up to the objective of the whole truncation.
    B = torch.stack([fit.B for fit in fits]).reshape(*shape, -1, factors.rank - count)
    A = torch.stack([fit.A for fit in fits]).reshape(*shape, factors.rank - count, -1)
    total = torch.tensor(
        [fit.objective for fit in fits], dtype=base.cost.dtype, device=base.cost.device
    )
    share = base.cost / base.cost.sum(dim=-1, keepdim=True).clamp(
        min=torch.finfo(base.cost.dtype).tiny
    )
    costs = torch.zeros((*shape, factors.rank), dtype=base.cost.dtype, device=base.cost.device)
    costs[..., factors.rank - count :] = (share * total.reshape(*shape, 1)).flip(-1)
    return last_removed(factors, B, A, costs, count)
