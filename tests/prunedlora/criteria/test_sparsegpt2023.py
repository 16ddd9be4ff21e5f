import pytest
import torch

from prunedlora.criteria import get_criterion
from prunedlora.criteria.sparsegpt2023 import recovered


def test_sparsegpt_cost_is_half_the_lost_output_energy(layer):
    factors, statistics, x, _ = layer
    out = get_criterion("sparsegpt2023").reduce(factors, statistics, 3, damping=0.0)
    lost = x @ (factors.B @ factors.A - out.factors.B @ out.factors.A).mT
    assert float(out.cost.sum()) == pytest.approx(
        float(0.5 * lost.square().sum(-1).mean()), rel=1e-9
    )


def test_recovery_for_a_given_mask_is_the_least_squares_fit_of_the_output(layer):
    factors, statistics, x, _ = layer
    removed = torch.tensor([1, 3])
    out = recovered(factors, statistics.C_z, removed, damping=0.0)
    assert not out.B[:, removed].any()
    assert not out.A[removed].any()
    z = (x @ factors.A.mT).flatten(0, 1)
    kept = [j for j in range(factors.rank) if j not in (1, 3)]
    fit = torch.linalg.lstsq(z[:, kept], z @ factors.B.mT).solution.mT
    torch.testing.assert_close(out.B[:, kept], fit)
    assert torch.equal(out.A[kept], factors.A[kept])


def test_the_mask_that_the_rule_itself_chooses_is_recovered_alike(layer):
    factors, statistics, _, _ = layer
    out = get_criterion("sparsegpt2023").reduce(factors, statistics, 2)
    again = recovered(factors, statistics.C_z, out.removed)
    torch.testing.assert_close(again.B, out.factors.B)
    torch.testing.assert_close(again.A, out.factors.A)
