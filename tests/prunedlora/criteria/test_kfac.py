import pytest
import torch

from prunedlora.criteria import (
    get_criterion,
)


@pytest.mark.parametrize("name", ["sparsegpt2023", "kfac"])
def test_recovery_is_the_least_squares_solution(layer, name):
    """B of the kept components is the regression of the old output on the kept z (S8: the same for both rules)."""
    factors, statistics, x, _ = layer
    out = get_criterion(name).reduce(factors, statistics, 2, damping=0.0)
    kept = [j for j in range(5) if j not in out.removed.tolist()]
    z = (x @ factors.A.mT).flatten(0, 1)
    solution = torch.linalg.lstsq(z[:, kept], z @ factors.B.mT).solution.mT
    torch.testing.assert_close(out.factors.B[:, kept], solution, rtol=1e-7, atol=1e-8)
    assert torch.equal(out.factors.A[kept], factors.A[kept])


def test_kfac_cost_is_that_of_the_dense_kronecker_model(layer):
    factors, statistics, x, g = layer
    out = get_criterion("kfac").reduce(factors, statistics, 3, damping=0.0)
    C = torch.einsum("nti,ntj->ij", x, x) / x[..., 0].numel()
    D = 4.0 * torch.einsum("nti,ntj->ij", g, g) / g.shape[0]  # s² = 4
    delta = out.factors.B @ out.factors.A - factors.B @ factors.A
    assert float(out.cost.sum()) == pytest.approx(
        float(0.5 * torch.trace(D @ delta @ C @ delta.mT)), rel=1e-9
    )
