import pytest

from prunedlora.criteria import (
    get_criterion,
)


def test_sparsegpt_cost_is_half_the_lost_output_energy(layer):
    factors, statistics, x, _ = layer
    out = get_criterion("sparsegpt2023").reduce(factors, statistics, 3, damping=0.0)
    lost = x @ (factors.B @ factors.A - out.factors.B @ out.factors.A).mT
    assert float(out.cost.sum()) == pytest.approx(float(0.5 * lost.square().sum(-1).mean()), rel=1e-9)
