"""Truncation against the dense d_out x d_in problem."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunedlora.errors import ConfigurationError, NonFiniteError, SingularCurvatureError
from prunedlora.linalg.curvature import square_root
from prunedlora.linalg.truncation import SKEW, core_svd, rank_for_energy, truncate, truncation
from prunedlora.linalg.weighted_truncation import (
    core_maps,
    damped_moment,
    singular_values,
    truncate_weighted,
    weighted_truncation,
)
from tests.layers import moment, normal, relative

SEEDS = st.integers(0, 10_000)


def dense_optimum(X, rank, D=None, C=None):
    """Truncated SVD of D^{1/2} X C^{1/2}, mapped back; and the error in that metric."""

    def root(M, n):
        if M is None:
            return torch.eye(n, dtype=X.dtype)
        values, vectors = torch.linalg.eigh(M)
        return (vectors * values.clamp(min=1e-300).sqrt()) @ vectors.mT

    left, right = root(D, X.shape[0]), root(C, X.shape[1])
    U, S, Vh = torch.linalg.svd(left @ X @ right, full_matrices=False)
    best = (U[:, :rank] * S[:rank]) @ Vh[:rank]
    return torch.linalg.solve(left, best) @ torch.linalg.inv(right), S[rank:].square().sum()


@st.composite
def adapters(draw):
    r, seed = draw(st.integers(1, 6)), draw(SEEDS)
    d_out, d_in, rank = draw(st.integers(1, 9)), draw(st.integers(1, 9)), draw(st.integers(1, r))
    return normal(seed, d_out, r), normal(seed + 1, r, d_in), rank, seed


@given(adapters())
def test_truncate_is_eckart_young(adapter):
    B, A, rank, _ = adapter
    kept_B, kept_A = truncate(B, A, rank)
    assert kept_B.shape == (B.shape[0], rank)
    assert (kept_B @ kept_A - dense_optimum(B @ A, rank)[0]).norm() <= 1e-10 * (B @ A).norm()
    torch.testing.assert_close(kept_B.norm(), kept_A.norm(), rtol=1e-9, atol=1e-9)


@given(adapters(), st.sampled_from(["both", "D", "C"]))
def test_weighted_truncation_is_the_dense_optimum(adapter, which):
    B, A, rank, seed = adapter
    D = moment(seed + 2, B.shape[0]) if which != "C" else None
    C = moment(seed + 4, A.shape[1]) if which != "D" else None
    M_b = B.mT @ B if D is None else B.mT @ D @ B
    M_a = A @ A.mT if C is None else A @ C @ A.mT
    kept_B, kept_A = truncate_weighted(B, A, rank, M_b, M_a)
    expected, error = dense_optimum(B @ A, rank, D, C)
    full_rank = min(B.shape[0], A.shape[1]) >= B.shape[1]
    assert (kept_B @ kept_A - expected).norm() <= (1e-10 if full_rank else 1e-4) * (B @ A).norm()
    tail = singular_values(M_b, M_a)[rank:].square().sum()
    total = singular_values(M_b, M_a).square().sum()
    assert abs(tail - error) <= (1e-10 if full_rank else 1e-8) * total


@given(adapters())
def test_plain_moments_make_plain_truncation(adapter):
    B, A, rank, seed = adapter
    B, A = (
        torch.cat([B, normal(seed + 5, 6, B.shape[1])]),
        torch.cat([A, normal(seed + 6, B.shape[1], 6)], dim=1),
    )
    one, two = truncate(B, A, rank), truncate_weighted(B, A, rank, B.mT @ B, A @ A.mT)
    assert (one[0] @ one[1] - two[0] @ two[1]).norm() <= 1e-9 * (B @ A).norm()


@pytest.mark.parametrize("samples", [1, 3])
def test_singular_moments_keep_the_optimal_error(samples):
    """D of rank `samples` < r: the weighted error is that of the dense optimum, the factors stay finite."""
    B, A = normal(0, 9, 5), normal(1, 5, 8)
    D, C = moment(2, 9, samples), moment(4, 8, samples)
    for rank in (1, 2, 5):
        kept_B, kept_A = truncate_weighted(B, A, rank, B.mT @ D @ B, A @ C @ A.mT)
        error = kept_B @ kept_A - B @ A
        roots = (square_root(M)[0] for M in (D, C))
        best = torch.linalg.svdvals(next(roots) @ B @ A @ next(roots).mT)[rank:].square().sum()
        total = torch.trace(D @ B @ A @ C @ A.mT @ B.mT)
        assert torch.trace(D @ error @ C @ error.mT) <= best + 1e-8 * total
        assert kept_B.norm() * kept_A.norm() < 1e3 * B.norm() * A.norm()


@given(adapters())
def test_no_component_choice_with_recovery_does_better(adapter):
    """S11 against S8: the best k components with optimal recovery of B never beat the truncation."""
    from prunedlora.linalg.elimination import eliminate

    B, A, rank, seed = adapter
    D, C = moment(seed + 2, B.shape[0]), moment(seed + 4, A.shape[1])
    M_b, C_z = B.mT @ D @ B, A @ C @ A.mT + 1e-9 * torch.eye(A.shape[0])
    out = eliminate([B], [C_z], B.shape[1] - rank, moments=[M_b], damping=0.0)
    tail = singular_values(M_b, C_z)[rank:].square().sum()
    assert tail <= 2 * out.cost.sum() + 1e-9 * torch.trace(M_b) * torch.trace(C_z)


@given(adapters())
def test_change_of_basis_changes_nothing(adapter):
    B, A, rank, seed = adapter
    r = B.shape[1]
    D, C, R = (
        moment(seed + 2, B.shape[0]),
        moment(seed + 4, A.shape[1]),
        normal(seed + 6, r, r) + 3 * torch.eye(r),
    )
    R_inv = torch.linalg.inv(R)
    B, A = torch.cat([B, torch.eye(r).double()]), torch.cat([A, torch.eye(r).double()], dim=1)
    D, C = torch.block_diag(D, torch.eye(r)), torch.block_diag(C, torch.eye(r))
    products = []
    for b, a in ((B, A), (B @ R_inv, R @ A)):
        M_b, M_a = (
            damped_moment(m, g, 0.1)
            for m, g in ((b.mT @ D @ b, b.mT @ b), (a @ C @ a.mT, a @ a.mT))
        )
        kept_B, kept_A = truncate_weighted(b, a, rank, M_b, M_a)
        products.append(kept_B @ kept_A)
    assert (products[0] - products[1]).norm() <= 1e-6 * (B @ A).norm()


def test_factors_are_balanced_whatever_the_units_of_the_moments():
    B, A, D, C = normal(0, 9, 4), normal(1, 4, 8), moment(2, 9), moment(4, 8)
    one = truncate_weighted(B, A, 2, B.mT @ D @ B, A @ C @ A.mT)
    two = truncate_weighted(B, A, 2, 1e-12 * B.mT @ D @ B, 1e3 * A @ C @ A.mT)
    for b, a in (one, two):
        torch.testing.assert_close(b.mT @ b, a @ a.mT, rtol=1e-8, atol=1e-8)
    assert relative(two[0] @ two[1], one[0] @ one[1]) < 1e-10


def test_badly_scaled_components_cost_no_digits():
    """Components scaled by 1e±6 against each other: as exact as without."""
    B, A, D, C = normal(0, 9, 4), normal(1, 4, 8), moment(2, 9), moment(4, 8)
    errors = []
    for c in (torch.ones(4).double(), torch.tensor([1e6, 1.0, 1e-6, 1e3]).double()):
        b, a = B * c, A / c[:, None]
        kept_B, kept_A = truncate_weighted(b, a, 2, b.mT @ D @ b, a @ C @ a.mT)
        errors.append(relative(kept_B @ kept_A, dense_optimum(B @ A, 2, D, C)[0]))
    assert errors[1] <= 10 * max(errors[0], 1e-13)


def test_batch_equals_loop():
    B, A = normal(0, 3, 7, 4), normal(1, 3, 4, 6)
    M_b, M_a = (
        torch.stack([moment(s, 4) for s in range(3)]),
        torch.stack([moment(s + 9, 4) for s in range(3)]),
    )
    together = truncate_weighted(B, A, 2, M_b, M_a)
    plain = truncate(B, A, 2)
    for n in range(3):
        one = truncate_weighted(B[n], A[n], 2, M_b[n], M_a[n])
        assert relative(together[0][n] @ together[1][n], one[0] @ one[1]) < 1e-12
        one = truncate(B[n], A[n], 2)
        assert relative(plain[0][n] @ plain[1][n], one[0] @ one[1]) < 1e-12


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_result_has_the_dtype_of_the_input(dtype):
    B, A = normal(0, 7, 4).to(dtype), normal(1, 4, 6).to(dtype)
    for kept in (
        truncate(B, A, 2),
        truncate_weighted(B, A, 2, moment(0, 4).float(), moment(2, 4).float()),
    ):
        assert {t.dtype for t in kept} == {dtype}


def test_zero_adapter():
    B, A = torch.zeros(5, 3), torch.zeros(3, 4)
    for kept in (truncate(B, A, 2), truncate_weighted(B, A, 2, B.mT @ B, A @ A.mT)):
        assert not (kept[0] @ kept[1]).any()


@given(st.lists(st.floats(0, 1e3), min_size=1, max_size=8), st.floats(0.01, 1.0))
def test_rank_for_energy_is_the_smallest(values, energy):
    sigma = torch.tensor(sorted(values, reverse=True), dtype=torch.float64)
    rank = rank_for_energy(sigma, energy).item()
    total = float(sigma.square().sum())
    assert float(sigma[:rank].square().sum()) >= energy * total * (1 - 1e-9)
    assert rank == 1 or float(sigma[: rank - 1].square().sum()) < energy * total


def test_damped_moment_is_relative_to_the_mean_curvature():
    B = normal(0, 9, 4)
    identity = 5.0 * B.mT @ B
    assert relative(damped_moment(identity, B.mT @ B, 0.3), 1.3 * identity) < 1e-12


@pytest.mark.parametrize("rank", [0, 4])
def test_rank_out_of_range_is_refused(rank):
    for function in (truncate, lambda *a: truncate_weighted(*a, torch.eye(3), torch.eye(3))):
        with pytest.raises(ConfigurationError, match="rank must be between"):
            function(torch.ones(5, 3), torch.ones(3, 5), rank)


def test_bad_input_is_refused():
    B, A, bad = torch.ones(5, 3), torch.ones(3, 5), torch.full((3, 3), float("nan"))
    with pytest.raises(NonFiniteError):
        truncate(B * float("inf"), A, 2)
    with pytest.raises(NonFiniteError, match="M_b"):
        truncate_weighted(B, A, 2, bad, torch.eye(3))
    with pytest.raises(NonFiniteError, match="M_a"):
        core_maps(torch.eye(3), bad, 2)
    with pytest.raises(SingularCurvatureError, match="M_a is indefinite"):
        core_maps(torch.eye(3), torch.diag(torch.tensor([1.0, 1.0, -1.0])), 2)
    with pytest.raises(ConfigurationError, match="energy"):
        rank_for_energy(torch.ones(3), 1.5)
    with pytest.raises(ConfigurationError, match="damping"):
        damped_moment(torch.eye(3), torch.eye(3), -0.1)


def test_damping_does_not_mind_more_components_than_dimensions():
    """Rounded moments of redundant components: the mean of D over B's columns stays what it is, never negative."""
    B, D = normal(1, 6, 6), torch.diag(torch.arange(1.0, 7.0, dtype=torch.float64))
    redundant = torch.cat([B, B @ normal(2, 6, 10), torch.zeros(6, 2, dtype=torch.float64)], dim=1)
    for factor in (B, redundant):
        gram, M = factor.mT @ factor, (factor.mT @ D @ factor).float().double()
        level = (damped_moment(M, gram, 1.0) - M)[0, 0] / gram[0, 0]
        assert level == pytest.approx(float(D.diagonal().mean()), rel=1e-3)
        square_root(damped_moment(M, gram, 1e-2))


def with_values(*values: torch.Tensor) -> torch.Tensor:
    """Square matrices of given singular values."""
    r = values[0].numel()
    Q = torch.linalg.qr(normal(5, 2, len(values), r, r))[0]
    return Q[0] * torch.stack(values).unsqueeze(-2) @ Q[1]


@pytest.mark.parametrize("r", [2, 64, 256])
@pytest.mark.parametrize("digits", [0, 2, 5, 7, 12], ids=lambda d: f"condition 1e{d}")
def test_the_core_is_decomposed_to_the_last_digits(r, digits):
    """On both sides of the fast way: singular values to 1e-12 of the largest, the product and V as torch's own."""
    true = torch.logspace(0, -digits, r, dtype=torch.float64)
    C = with_values(true)
    U, S, Vh = core_svd(C)
    assert (S - true).abs().max() < 1e-12
    assert (S.diff() <= 0).all()
    assert relative(U * S.unsqueeze(-2) @ Vh, C) < 1e-13
    eye = torch.eye(r, dtype=torch.float64)
    assert (Vh @ Vh.mT - eye).abs().max() < 1e-12
    assert (U.mT @ U - eye).abs().max() < SKEW
    k = max(1, r // 2)
    best = torch.linalg.vector_norm(true[k:])
    assert (
        torch.linalg.vector_norm(U[..., :k] * S[..., None, :k] @ Vh[..., :k, :] - C)
        <= best + 1e-13 * true.sum()
    )


def test_the_core_may_be_singular_rectangular_or_have_equal_singular_values():
    singular = with_values(torch.tensor([1.0, 0.5, 0.0, 0.0], dtype=torch.float64))
    for C in (
        singular,
        torch.zeros(1, 3, 3, dtype=torch.float64),
        normal(1, 4, 3, 5),
        normal(1, 4, 5, 3),
    ):
        U, S, Vh = core_svd(C)
        eye = torch.eye(S.shape[-1], dtype=torch.float64)
        assert (U.mT @ U - eye).abs().max() < 1e-12
        assert (U * S.unsqueeze(-2) @ Vh - C).abs().max() < 1e-13
    equal = with_values(*torch.ones(2, 6, dtype=torch.float64))
    U, S, _ = core_svd(equal)
    assert (S - 1).abs().max() < 1e-14
    assert (U.mT @ U - torch.eye(6, dtype=torch.float64)).abs().max() < 1e-13


@pytest.mark.parametrize("rank", [1, 3, 5])
def test_the_basis_leads_from_the_old_factors_to_the_new(rank):
    B, A = normal(0, 2, 40, 5).float(), normal(1, 2, 5, 30).float()
    M_b, M_a = torch.stack([moment(0, 5), moment(4, 5)]), torch.stack([moment(2, 5), moment(6, 5)])
    for out in (truncation(B, A, rank), weighted_truncation(B, A, rank, M_b, M_a)):
        P, Q = out.basis
        assert relative(B.double() @ P, out.B) < 1e-12
        assert relative(Q @ A.double(), out.A) < 1e-12
    assert truncation(B.double(), A.double(), rank).basis is None
