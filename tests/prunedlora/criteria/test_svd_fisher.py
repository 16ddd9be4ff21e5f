import torch

from prunedlora.criteria import (
    get_criterion,
)


def test_svd_fisher_is_never_worse_than_svd_kfac_in_its_own_objective(layer):
    factors, statistics, _, _ = layer
    S_B, S_A = torch.linalg.pinv(factors.B), torch.linalg.pinv(factors.A)
    losses = []
    for name, options in (("svd_fisher", {"mu": 0.0, "lam": 0.0}), ("svd_kfac", {})):
        out = get_criterion(name).reduce(factors, statistics, 3, **options).factors
        X = S_B @ out.B @ out.A @ S_A - torch.eye(5)
        losses.append(0.5 * (statistics.core_gradients * X).sum((1, 2)).square().mean())
    assert losses[0] < losses[1]
