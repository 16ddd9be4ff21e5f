import pytest
import torch

from prunedlora.linalg.qr import ByCholesky, ByReflections, least_squares, orthogonal
from prunedlora.linalg.truncation import truncate
from tests.layers import normal


def conditioned(d: int, r: int, condition: float) -> torch.Tensor:
    """A matrix of that condition number, whatever its columns are scaled by."""
    U, _, Vh = torch.linalg.svd(normal(1, d, r), full_matrices=False)
    return (
        U
        * torch.logspace(0, -float(torch.log10(torch.tensor(condition))), r, dtype=torch.float64)
        @ Vh
    )


@pytest.mark.parametrize("shape", [(40, 8), (8, 8), (5, 8), (3, 40, 8)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_decomposition_is_one(shape, dtype):
    X = normal(2, *shape).to(dtype)
    found = orthogonal(X)
    torch.testing.assert_close(found.apply(found.R), X.double(), rtol=0, atol=1e-9)
    Q = found.apply(torch.eye(found.R.shape[-2], dtype=torch.float64).expand(*shape[:-2], -1, -1))
    torch.testing.assert_close(
        Q.mT @ Q, torch.eye(Q.shape[-1]).double().expand(*shape[:-2], -1, -1), rtol=0, atol=1e-9
    )


def test_cholesky_is_taken_only_where_it_costs_no_digit():
    easy, hard = conditioned(40, 8, 10.0), conditioned(40, 8, 1e6)
    scales = torch.logspace(-12, 12, 8)
    assert isinstance(orthogonal(easy.float()), ByCholesky)
    assert isinstance(
        orthogonal(normal(3, 40, 8).float() * scales), ByCholesky
    )  # only the columns' lengths differ
    for X in (
        easy,
        hard.float(),
        easy.float()[:5],
        torch.zeros(40, 8),
        torch.cat([easy, easy[:, :1]], 1).float(),
    ):
        assert isinstance(orthogonal(X), ByReflections)


@pytest.mark.parametrize("condition", [1.0, 1e2, 1e3, 2e3, 1e4, 1e6])
def test_truncation_in_float32_is_as_good_as_in_float64(condition):
    """On both sides of the switch: as far from the float64 result as rounding to float32 takes it."""
    B, A = (
        conditioned(60, 16, condition).float(),
        conditioned(50, 16, condition).mT.contiguous().float(),
    )
    narrow = [t.double() for t in truncate(B, A, 5)]
    wide = truncate(B.double(), A.double(), 5)
    difference = (narrow[0] @ narrow[1] - wide[0] @ wide[1]).norm() / (wide[0] @ wide[1]).norm()
    assert difference < 2e-7


def test_truncation_has_a_derivative():
    generator = torch.Generator().manual_seed(0)
    B, A, change = (torch.randn(s, generator=generator).double() for s in ((6, 3), (3, 5), (6, 3)))
    B.requires_grad_(True)

    def retained(B):
        kept_B, kept_A = truncate(B, A, 2)
        return (kept_B @ kept_A).square().sum()

    (gradient,) = torch.autograd.grad(retained(B), B)
    with torch.no_grad():
        slope = (retained(B + 1e-5 * change) - retained(B - 1e-5 * change)) / 2e-5
    torch.testing.assert_close((gradient * change).sum(), slope, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("condition", [10.0, 1e3, 1e5])
def test_a_second_round_of_cholesky_makes_up_for_the_first(condition):
    X = conditioned(60, 16, condition)
    found = ByCholesky.of(X, 1e5, twice=True)
    assert found is not None
    assert (ByCholesky.of(X, 1e5) is None) == (condition > 10)
    R = torch.linalg.qr(X)[1]
    signs = R.diagonal().sign().unsqueeze(-1)
    torch.testing.assert_close(found.R, signs * R, rtol=0, atol=1e-13)
    Q = found.apply(torch.eye(16, dtype=torch.float64))
    assert (Q.mT @ Q - torch.eye(16, dtype=torch.float64)).abs().max() < 1e-15 * condition * 16
    assert ByCholesky.of(torch.zeros(60, 16, dtype=torch.float64), 1e5, twice=True) is None
    assert ByCholesky.of(conditioned(60, 16, 1e9), 1e5, twice=True) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("columns", [8, 30])
def test_least_squares_is_the_pseudo_inverse(dtype, columns):
    """For independent columns, for more of them than rows, and for two that are equal."""
    X, Y = normal(1, 3, 20, columns).to(dtype), normal(2, 3, 20, 4).to(dtype)
    X[1, :, 1] = X[1, :, 0]
    for x, y in ((X, Y), (X[0], Y[0])):
        expected = torch.linalg.pinv(x.double()) @ y.double()
        torch.testing.assert_close(least_squares(x, y), expected, rtol=1e-9, atol=1e-10)
