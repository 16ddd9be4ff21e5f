import pytest
import torch

from experiments.real_layers.edits import core_change, quadratic_predictions
from prunedlora.criteria import get_criterion


def test_the_core_fisher_prediction_is_half_the_mean_square_of_what_samples_see(measured):
    _, candidate = measured.layers[0]
    new = get_criterion("svd_kfac").reduce(candidate.factors, candidate.statistics, 2).factors
    found = quadratic_predictions(candidate.factors, candidate.statistics, new)
    X = core_change(candidate.factors, new)
    old = candidate.factors
    torch.testing.assert_close(
        old.B.double() @ (torch.eye(4) + X) @ old.A.double(),
        new.B.double() @ new.A.double(),
        rtol=1e-4,
        atol=1e-6,
    )
    costs = get_criterion("svd_kfac").reduce(old, candidate.statistics, 2, damping=0.0)
    undamped = quadratic_predictions(old, candidate.statistics, costs.factors)
    assert undamped["kronecker"] == pytest.approx(costs.cost.sum().item(), rel=1e-3)
    assert undamped["kronecker"] <= found["kronecker"] * (1 + 1e-6)
    assert found["second_order"] == pytest.approx(found["first_order"] + found["core_fisher"])
