"""Core-Fisher truncation (S12) against the dense objective and its own start."""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.linalg.fisher_truncation import CORE, MIN_SAMPLES, Subspace, truncate_core_fisher
from prunedlora.linalg.weighted_truncation import core_maps, truncate_weighted
from tests.layers import moment, normal, relative


def case(seed, r=4, n=30, tokens=3):
    """Factors, correlated core gradients and the bottleneck's moments of the same samples."""
    B, A = normal(seed, 9, r), normal(seed + 1, r, 8)
    z = normal(seed + 2, n, tokens, 8) @ A.mT
    u = (normal(seed + 3, n, tokens, 9) + z.mean(-1, keepdim=True)) @ B
    g = torch.einsum("nti,ntj->nij", u, z)
    return (
        B,
        A,
        g,
        torch.einsum("nti,ntj->ij", u, u) / n / tokens,
        torch.einsum("nti,ntj->ij", z, z) / n / tokens,
    )


def dense_objective(X, B, A, g, D, C, mu, lam):
    """The objective of an adapter X (d_out, d_in), from d_out x d_in curvatures."""
    S = torch.linalg.pinv(B) @ X @ torch.linalg.pinv(A) - torch.eye(B.shape[1], dtype=torch.float64)
    fisher = (g * S).sum((1, 2)).square().mean()
    M_b, M_a = B.mT @ D @ B, A @ C @ A.mT
    dual = [
        torch.einsum("nij,ik,nkl,jl->", g, torch.linalg.inv(b), g, torch.linalg.inv(a))
        for b, a in ((M_b, M_a), (B.mT @ B, A @ A.mT))
    ]
    c, c_frobenius = (d / g.shape[0] / B.shape[1] ** 2 for d in dual)
    delta = X - B @ A
    kronecker = torch.trace(D @ delta @ C @ delta.mT)
    return 0.5 * (fisher + mu * c * kronecker + lam * c_frobenius * delta.square().sum())


@given(
    st.integers(0, 1000), st.integers(1, 4), st.sampled_from([(1.0, 0.0), (0.1, 0.1), (0.0, 1.0)])
)
@hypothesis_settings(max_examples=15)
def test_objective_is_the_dense_one_and_never_above_the_start(seed, rank, weights):
    B, A, g, _, _ = case(seed)
    D, C = moment(seed + 5, 9), moment(seed + 7, 8)
    M_b, M_a = B.mT @ D @ B, A @ C @ A.mT
    out = truncate_core_fisher(B, A, rank, g, M_b, M_a, mu=weights[0], lam=weights[1])
    value = dense_objective(out.B @ out.A, B, A, g, D, C, *weights)
    scale = dense_objective(torch.zeros(9, 8).double(), B, A, g, D, C, *weights)
    assert float(out.objective) == pytest.approx(float(value), rel=1e-9, abs=1e-9 * float(scale))
    kept = truncate_weighted(B, A, rank, M_b, M_a)
    start = dense_objective(kept[0] @ kept[1], B, A, g, D, C, *weights)
    assert float(out.start) == pytest.approx(float(start), rel=1e-9, abs=1e-9 * float(scale))
    assert out.objective <= out.start


def test_solution_is_a_minimum():
    B, A, g, M_b, M_a = case(3, r=4, n=40)
    out = truncate_core_fisher(B, A, 2, g, M_b, M_a, mu=0.1, lam=0.1, max_iter=500)
    P = (torch.linalg.pinv(B) @ out.B).requires_grad_()
    Q = (out.A @ torch.linalg.pinv(A)).requires_grad_()
    D, C = (
        torch.linalg.pinv(B).mT @ M_b @ torch.linalg.pinv(B),
        torch.linalg.pinv(A) @ M_a @ torch.linalg.pinv(A).mT,
    )
    dense_objective(B @ P @ Q @ A, B, A, g, D, C, 0.1, 0.1).backward()
    assert float(P.grad.norm() * P.detach().norm()) < 1e-4 * out.objective
    assert float(Q.grad.norm() * Q.detach().norm()) < 1e-4 * out.objective
    for seed in range(5):
        shaken = P.detach() + 1e-3 * normal(seed, *P.shape)
        assert dense_objective(
            B @ shaken @ Q.detach() @ A, B, A, g, D, C, 0.1, 0.1
        ) > out.objective * (1 - 1e-9)


def test_equals_the_kronecker_solution_for_independent_u_and_z():
    """Samples that are all pairs of orthonormal-like u and z: the Fisher matrix is exactly U ⊗ C_z."""
    B, A, us, zs = normal(0, 9, 4), normal(1, 4, 8), normal(2, 12, 4), normal(3, 11, 4)
    g = torch.einsum("ai,bj->abij", us, zs).flatten(0, 1)
    M_b, M_a = us.mT @ us / 12, zs.mT @ zs / 11
    out = truncate_core_fisher(B, A, 2, g, M_b, M_a, mu=0.0, lam=0.0)
    kept = truncate_weighted(B, A, 2, M_b, M_a)
    assert float(out.objective) == pytest.approx(float(out.start), rel=1e-10)
    assert relative(out.B @ out.A, kept[0] @ kept[1]) < 1e-4


def test_full_rank_is_exact_and_scale_of_moments_does_not_matter():
    B, A, g, M_b, M_a = case(5)
    out = truncate_core_fisher(B, A, 4, g, M_b, M_a)
    assert relative(out.B @ out.A, B @ A) < 1e-8
    one = truncate_core_fisher(B, A, 2, g, M_b, M_a, mu=0.1, lam=0.1)
    two = truncate_core_fisher(B, A, 2, 1e-4 * g, 1e-6 * M_b, 1e3 * M_a, mu=0.1, lam=0.1)
    assert relative(one.B @ one.A, two.B @ two.A) < 1e-4


def test_change_of_basis_changes_nothing():
    B, A, g, M_b, M_a = case(6)
    R = normal(9, 4, 4) + 3 * torch.eye(4)
    R_inv = torch.linalg.inv(R)
    one = truncate_core_fisher(B, A, 2, g, M_b, M_a, mu=0.1, lam=0.1, max_iter=500)
    two = truncate_core_fisher(
        B @ R_inv,
        R @ A,
        2,
        R_inv.mT @ g @ R.mT,
        R_inv.mT @ M_b @ R_inv,
        R @ M_a @ R.mT,
        mu=0.1,
        lam=0.1,
        max_iter=500,
    )
    assert relative(one.B @ one.A, two.B @ two.A) < 1e-4


def test_held_out_choice_keeps_the_kronecker_solution_when_there_is_little_data():
    B, A, g, M_b, M_a = case(7, n=MIN_SAMPLES - 1)
    out = truncate_core_fisher(B, A, 2, g, M_b, M_a)
    kept = truncate_weighted(B, A, 2, M_b, M_a)
    assert out.mu == float("inf")
    assert relative(out.B @ out.A, kept[0] @ kept[1]) < 1e-12


def test_held_out_choice_helps_on_fresh_samples():
    """With plenty of correlated samples the chosen fit loses less than the Kronecker one on samples not seen."""
    lower = 0
    for seed in range(5):
        B, A, g, _, _ = case(20 + seed, r=5, n=600)
        seen, fresh = g[:300], g[300:]
        D, C = torch.eye(9).double(), torch.eye(8).double()
        out = truncate_core_fisher(B, A, 2, seen, B.mT @ D @ B, A @ C @ A.mT)
        kept = truncate_weighted(B, A, 2, B.mT @ D @ B, A @ C @ A.mT)
        losses = [
            dense_objective(X, B, A, fresh, D, C, 0.0, 0.0)
            for X in (out.B @ out.A, kept[0] @ kept[1])
        ]
        lower += bool(losses[0] < losses[1])
    assert lower == 5


@pytest.mark.parametrize("weights", [(0.1, 0.1), (0.0, 0.0), None])
def test_gradients_within_the_best_components_are_enough(weights, monkeypatch):
    """The fit uses no more of the core gradients than what a subspace of CORE times the rank holds."""
    monkeypatch.setattr("prunedlora.linalg.fisher_truncation.LEAST_CORE", 1)
    B, A, g, M_b, M_a = case(11, r=7, n=60)
    mu, lam = weights or (None, None)
    whole = truncate_core_fisher(B, A, 1, g, M_b, M_a, mu=mu, lam=lam)
    P, Q = core_maps(M_b, M_a, CORE)
    # Any basis of the two spaces will do.
    R = normal(3, CORE, CORE) + 3 * torch.eye(CORE)
    P, Q = P @ R, torch.linalg.inv(R) @ Q
    traces = g.diagonal(dim1=-2, dim2=-1).sum(-1)
    within = truncate_core_fisher(
        B, A, 1, P.mT @ g @ Q.mT, M_b, M_a, subspace=Subspace(P, Q, traces), mu=mu, lam=lam
    )
    assert relative(within.B @ within.A, whole.B @ whole.A) < 1e-5
    assert float(within.objective) == pytest.approx(float(whole.objective), rel=1e-8)
    assert float(within.start) == pytest.approx(float(whole.start), rel=1e-8)


def test_objective_in_a_subspace_is_the_dense_one():
    B, A, g, _, _ = case(12, r=6)
    D, C = moment(5, 9), moment(7, 8)
    M_b, M_a = B.mT @ D @ B, A @ C @ A.mT
    P, Q = core_maps(M_b, M_a, 3)
    traces = g.diagonal(dim1=-2, dim2=-1).sum(-1)
    known = Subspace(P, Q, traces)
    out = truncate_core_fisher(B, A, 2, P.mT @ g @ Q.mT, M_b, M_a, subspace=known, mu=0.0, lam=0.0)
    value = dense_objective(out.B @ out.A, B, A, g, D, C, 0.0, 0.0)
    assert float(out.objective) == pytest.approx(float(value), rel=1e-8)
    kept = truncate_weighted(B, A, 2, M_b, M_a)
    start = dense_objective(kept[0] @ kept[1], B, A, g, D, C, 0.0, 0.0)
    assert float(out.start) == pytest.approx(float(start), rel=1e-8)
    assert out.objective < out.start
    with pytest.raises(ConfigurationError, match="between 1 and 3"):
        truncate_core_fisher(B, A, 4, P.mT @ g @ Q.mT, M_b, M_a, subspace=known)


@pytest.mark.parametrize("n", [9, 40, 151])
def test_a_batch_in_parts_is_each_module_alone(n, monkeypatch):
    """With fewer and with more samples than a core has entries, an odd number of them, and several chunks."""
    cases = [case(30 + seed, n=n) for seed in range(3)]
    monkeypatch.setattr("prunedlora.linalg.fisher_truncation.AT_ONCE_ON_CPU", 2 * 8 * n * 16)
    batch = truncate_core_fisher(
        *(torch.stack(t) for t in list(zip(*cases, strict=True))[:2]),
        2,
        *(torch.stack(t) for t in list(zip(*cases, strict=True))[2:]),
    )
    for i, (B, A, *rest) in enumerate(cases):
        one = truncate_core_fisher(B, A, 2, *rest)
        assert float(batch.mu[i]) == float(one.mu)
        assert float(batch.objective[i]) == pytest.approx(float(one.objective), rel=1e-6)
        assert relative(batch.B[i] @ batch.A[i], one.B @ one.A) < 1e-4


def test_singular_inputs_stay_finite():
    B, A, g, _, _ = case(8, n=10)
    B[:, 1], M = B[:, 0], moment(0, 4, samples=1)
    out = truncate_core_fisher(B, A, 2, g, M, M, mu=0.1, lam=0.1)
    assert torch.isfinite(out.B @ out.A).all()
    zero = truncate_core_fisher(0 * B, A, 2, 0 * g, 0 * M, M)
    assert not (zero.B @ zero.A).any()


def test_bad_input_is_refused():
    B, A, g, M_b, M_a = case(0)
    with pytest.raises(ConfigurationError, match="rank"):
        truncate_core_fisher(B, A, 0, g, M_b, M_a)
    with pytest.raises(ConfigurationError, match="both mu and lam"):
        truncate_core_fisher(B, A, 1, g, M_b, M_a, mu=1.0)
    with pytest.raises(ConfigurationError, match="no core gradients"):
        truncate_core_fisher(B, A, 1, g[:0], M_b, M_a)
    with pytest.raises(NonFiniteError):
        truncate_core_fisher(B, A, 1, g * float("nan"), M_b, M_a)
