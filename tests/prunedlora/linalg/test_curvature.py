"""Inverses and square roots of curvatures that are singular, indefinite or damped."""

import itertools

import pytest
import torch

from prunedlora.errors import SingularCurvatureError
from prunedlora.linalg.curvature import damped, inverse, square_root
from tests.layers import moment, relative


def test_indefinite_curvature_is_refused_by_name():
    with pytest.raises(SingularCurvatureError, match=r"layer 3.*condition number"):
        inverse(torch.tensor([[1.0, 2.0], [2.0, 1.0]]), name="layer 3")
    with pytest.raises(SingularCurvatureError, match="negative diagonal"):
        inverse(torch.diag(torch.tensor([1.0, -1.0])))


def test_slightly_indefinite_curvature_is_floored():
    """Beyond the last rung of the ladder: one eigenvalue at -1.5 % of the trace's share."""
    Q = torch.linalg.qr(
        torch.tensor([[1.0, 1, 1], [1, -1, 0.2], [1, 0.3, -1]], dtype=torch.float64)
    )[0]
    H = Q @ torch.diag(torch.tensor([2.5, 0.52, -0.02], dtype=torch.float64)) @ Q.mT
    R = H / H.diagonal().sqrt() / H.diagonal().sqrt()[:, None]
    assert -0.01 > float(torch.linalg.eigvalsh(R)[0]) > -0.01 * float(torch.linalg.eigvalsh(R)[-1])
    out = inverse(H)
    assert torch.isfinite(out).all()
    assert (torch.linalg.eigvalsh(out) > 0).all()


def test_damping_is_that_of_marquardt():
    H = moment(0, 4)
    for damping, entry in itertools.product((0.0, 0.5), range(4)):
        assert damped(H, damping)[entry, entry] == pytest.approx(
            float((1 + damping) * H[entry, entry])
        )
    torch.testing.assert_close(
        inverse(H, 0.5), torch.linalg.inv(H + 0.5 * torch.diag(H.diagonal()))
    )


def test_square_root_is_one():
    M = moment(0, 6)
    R, R_inverse = square_root(M)
    assert relative(R.mT @ R, M) < 1e-13
    assert relative(R @ R_inverse, torch.eye(6, dtype=torch.float64)) < 1e-12
    assert torch.isfinite(square_root(torch.zeros(3, 3))[1]).all()
