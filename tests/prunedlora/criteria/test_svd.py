import pytest
import torch

from prunedlora.criteria import (
    get_criterion,
)


@pytest.mark.parametrize(
    ("name", "factor"),
    [("svd", 1.0), ("svd_activation", 1.0), ("svd_gradient", 0.5), ("svd_kfac", 0.5)],
)
def test_truncation_costs_are_those_of_the_dense_model(layer, name, factor):
    factors, statistics, x, g = layer
    options = {} if name == "svd" else {"damping": 0.0}
    out = get_criterion(name).reduce(factors, statistics, 3, **options)
    C = (
        torch.einsum("nti,ntj->ij", x, x) / x[..., 0].numel()
        if name in ("svd_activation", "svd_kfac")
        else torch.eye(6)
    )
    D = (
        4.0 * torch.einsum("nti,ntj->ij", g, g) / g.shape[0]
        if name in ("svd_gradient", "svd_kfac")
        else torch.eye(7)
    )
    delta = out.factors.B @ out.factors.A - factors.B @ factors.A
    dense = factor * torch.trace(D.double() @ delta @ C.double() @ delta.mT)
    assert float(out.cost.sum()) == pytest.approx(float(dense), rel=1e-9)
