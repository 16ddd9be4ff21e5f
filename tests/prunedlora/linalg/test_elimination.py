"""The closed form against independent solvers: scipy's KKT system, brute force, finite perturbations."""

import numpy as np
import pytest
import scipy.linalg
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.linalg.elimination import block_solution, eliminate, newton_step
from tests.layers import moment, normal, relative

SEEDS = st.integers(0, 10_000)
RANKS = st.integers(1, 8)


def kkt(W, H, removed, G):
    """Minimum of <G, δ> + ½ tr(δHδᵀ) under δ[:, M] = -W[:, M], row by row from the Karush-Kuhn-Tucker system."""
    r, m = H.shape[0], len(removed)
    selector = np.eye(r)[removed]
    system = np.block([[H.numpy(), selector.T], [selector, np.zeros((m, m))]])
    right = np.concatenate([-G.numpy().T, -W.numpy()[:, removed].T])
    delta = torch.from_numpy(scipy.linalg.solve(system, right)[:r].T.copy())
    return delta, (G * delta).sum() + 0.5 * torch.trace(delta @ H @ delta.mT)


@st.composite
def problems(draw):
    r, d, seed = draw(RANKS), draw(st.integers(1, 12)), draw(SEEDS)
    removed = draw(st.lists(st.integers(0, r - 1), unique=True, max_size=r))
    return normal(seed, d, r), moment(seed + 1, r), removed, normal(seed + 3, d, r)


@given(problems(), st.booleans())
def test_block_solution_solves_the_kkt_system(problem, with_gradient):
    W, H, removed, G = problem
    gradient = G if with_gradient else None
    delta, cost = block_solution(W, H, removed, gradient)
    expected, value = kkt(W, H, removed, G if with_gradient else torch.zeros_like(G))
    torch.testing.assert_close(delta, expected, rtol=1e-7, atol=1e-8)
    torch.testing.assert_close(cost, value, rtol=1e-8, atol=1e-8)
    assert not (W + delta)[:, removed].any()


@given(problems())
def test_no_feasible_change_is_cheaper(problem):
    W, H, removed, G = problem
    delta, cost = block_solution(W, H, removed, G)
    for seed in range(5):
        other = delta + 0.1 * normal(seed, *W.shape)
        other[:, removed] = -W[:, removed]
        assert (G * other).sum() + 0.5 * torch.trace(other @ H @ other.mT) >= cost - 1e-9


def pair(seed, r, d=7):
    """B and Aᵀ of an adapter with one curvature each."""
    return (normal(seed, d, r), normal(seed + 1, d + 2, r)), (
        moment(seed + 2, r),
        moment(seed + 4, r),
    )


@given(SEEDS, RANKS)
def test_first_choice_is_the_best_of_all(seed, r):
    matrices, curvatures = pair(seed, r)
    costs = [
        sum(block_solution(W, H, [j])[1] for W, H in zip(matrices, curvatures, strict=True))
        for j in range(r)
    ]
    out = eliminate(matrices, curvatures, 1, damping=0.0)
    assert out.removed.item() == int(torch.stack(costs).argmin())
    torch.testing.assert_close(out.cost[0], min(costs), rtol=1e-9, atol=0)


@given(SEEDS, RANKS, st.data())
def test_sequence_equals_block_and_costs_add_up(seed, r, data):
    count = data.draw(st.integers(0, r))
    matrices, curvatures = pair(seed, r)
    out = eliminate(matrices, curvatures, count, damping=0.0)
    total = 0.0
    for W, H, new in zip(matrices, curvatures, out.matrices, strict=True):
        delta, cost = block_solution(W, H, out.removed.tolist())
        torch.testing.assert_close(new, W + delta, rtol=1e-7, atol=1e-8)
        total += float(cost)
    assert float(out.cost.sum()) == pytest.approx(total, rel=1e-8, abs=1e-12)
    assert len(set(out.removed.tolist())) == count


@given(SEEDS, RANKS, st.data())
def test_literal_newton_step_is_equation_7(seed, r, data):
    count = data.draw(st.integers(0, r))
    matrices, curvatures = pair(seed, r)
    G = tuple(0.1 * normal(seed + 6 + i, *W.shape) for i, W in enumerate(matrices))
    out = eliminate(matrices, curvatures, count, G, damping=0.0, newton="literal")
    total = 0.0
    for W, H, g, new in zip(matrices, curvatures, G, out.matrices, strict=True):
        delta, value = block_solution(W, H, out.removed.tolist(), g)
        torch.testing.assert_close(new, W + delta, rtol=1e-7, atol=1e-7)
        total += float(value + 0.5 * (g @ torch.linalg.inv(H) * g).sum())
    assert float(out.cost.sum()) == pytest.approx(total, rel=1e-7, abs=1e-9)


@given(SEEDS, RANKS, st.floats(0.01, 1.0))
def test_capped_newton_step_has_the_trust_radius(seed, r, trust):
    W, G, H_inverse = (
        normal(seed, 5, r),
        1e3 * normal(seed + 1, 5, r),
        torch.linalg.inv(moment(seed + 2, r)),
    )
    literal, capped = (
        newton_step(W, G, H_inverse, "literal"),
        newton_step(W, G, H_inverse, "capped", trust),
    )
    assert capped.norm() == pytest.approx(float(min(trust * W.norm(), literal.norm())), rel=1e-12)
    assert relative(capped / capped.norm(), literal / literal.norm()) < 1e-12
    small = newton_step(W, 1e-9 * G, torch.eye(r, dtype=torch.float64), "capped", trust)
    assert torch.equal(small, 1e-9 * G)


@given(SEEDS, RANKS)
def test_output_curvature_weighs_the_cost_and_not_the_compensation(seed, r):
    """S8: the dense problem ½ tr(D δ C δᵀ), solved over vec δ without using that D cancels."""
    W, C, D = normal(seed, 4, r), moment(seed + 1, r), moment(seed + 3, 4)
    out = eliminate([W], [C], 1, moments=[W.mT @ D @ W], damping=0.0)
    j = out.removed.item()
    big = torch.kron(D, C)
    fixed = [i * r + j for i in range(4)]
    delta, value = kkt(W.reshape(1, -1), big, fixed, torch.zeros(1, 4 * r, dtype=torch.float64))
    torch.testing.assert_close(out.matrices[0], W + delta.reshape(4, r), rtol=1e-6, atol=1e-7)
    assert float(out.cost[0]) == pytest.approx(float(value), rel=1e-7)


@given(SEEDS, st.integers(2, 8), st.data())
def test_scores_and_product_do_not_change_with_the_gauge(seed, r, data):
    """S3 with damping proportional to the diagonal."""
    count = data.draw(st.integers(1, r))
    (B, At), (H_B, H_A) = pair(seed, r)
    c = torch.exp(2 * normal(seed + 9, r)) * torch.where(normal(seed + 10, r) > 0, 1.0, -1.0)
    one = eliminate((B, At), (H_B, H_A), count, damping=0.1)
    two = eliminate(
        (B * c, At / c), (H_B / c / c[:, None], H_A * c * c[:, None]), count, damping=0.1
    )
    assert one.removed.tolist() == two.removed.tolist()
    torch.testing.assert_close(one.cost, two.cost, rtol=1e-6, atol=1e-12)
    products = [out.matrices[0] @ out.matrices[1].mT for out in (one, two)]
    torch.testing.assert_close(*products, rtol=1e-6, atol=1e-7)


def test_absolute_damping_depends_on_the_gauge():
    """The counter-instance of S3: with H + λI the mask flips under B[:, 0] -> B[:, 0]/10, A[0] -> 10 A[0]."""
    W, H, c = (
        torch.tensor([[1.0, 1.5]]).double(),
        torch.eye(2).double(),
        torch.tensor([0.1, 1.0]).double(),
    )
    gauged = W * c, H / c / c[:, None]
    absolute = [
        eliminate([w], [h + torch.eye(2)], 1, damping=0.0).removed.item()
        for w, h in ((W, H), gauged)
    ]
    assert absolute == [0, 0]
    W = torch.tensor([[1.5, 1.0]]).double()
    gauged = W / c.flip(0), H * c.flip(0) * c.flip(0)[:, None]
    absolute = [
        eliminate([w], [h + torch.eye(2)], 1, damping=0.0).removed.item()
        for w, h in ((W, H), gauged)
    ]
    relative_ = [eliminate([w], [h], 1, damping=1.0).removed.item() for w, h in ((W, H), gauged)]
    assert absolute == [1, 0]
    assert relative_ == [1, 1]


def test_a_general_change_of_basis_changes_the_result():
    (B, At), (H_B, H_A) = pair(3, 4)
    R = normal(8, 4, 4)
    R_inv = torch.linalg.inv(R)
    one = eliminate((B, At), (H_B, H_A), 2, damping=0.0)
    two = eliminate(
        (B @ R_inv, At @ R.mT), (R @ H_B @ R.mT, R_inv.mT @ H_A @ R_inv), 2, damping=0.0
    )
    assert (
        relative(two.matrices[0] @ two.matrices[1].mT, one.matrices[0] @ one.matrices[1].mT) > 0.05
    )


@pytest.mark.parametrize("count", [0, 1, 5, 6])
def test_batch_equals_loop(count):
    items = [pair(seed, 6) for seed in (1, 20, 40)]
    singular = moment(77, 6, samples=2)
    items[1] = (items[1][0], (singular, items[1][1][1]))
    batch = eliminate(
        [torch.stack([i[0][k] for i in items]) for k in (0, 1)],
        [torch.stack([i[1][k] for i in items]) for k in (0, 1)],
        count,
    )
    for n, (matrices, curvatures) in enumerate(items):
        one = eliminate(matrices, curvatures, count)
        assert one.removed.tolist() == batch.removed[n].tolist()
        for k in (0, 1):
            torch.testing.assert_close(batch.matrices[k][n], one.matrices[k], rtol=1e-7, atol=1e-8)


def test_count_zero_changes_nothing():
    matrices, curvatures = pair(0, 5)
    out = eliminate(matrices, curvatures, 0)
    assert all(torch.equal(new, old) for new, old in zip(out.matrices, matrices, strict=True))
    assert out.removed.shape == (0,)
    assert out.cost.shape == (0,)


@pytest.mark.parametrize("r", [1, 2, 7])
def test_everything_can_go(r):
    matrices, curvatures = pair(5, r)
    out = eliminate(matrices, curvatures, r)
    assert sorted(out.removed.tolist()) == list(range(r))
    assert all(not new.any() for new in out.matrices)


@pytest.mark.parametrize("d", [1, 2])
@pytest.mark.parametrize("samples", [1, 2])
def test_fewer_rows_or_samples_than_components(d, samples):
    """H of rank `samples` < r and W of rank d < r: the ladder finds a damping, the model cost stays bounded."""
    W, H = normal(0, d, 6), moment(1, 6, samples)
    out = eliminate([W], [H], 4, damping=0.0)
    assert torch.isfinite(out.matrices[0]).all()
    assert out.removed.unique().numel() == 4
    exact = 0.5 * torch.trace((out.matrices[0] - W) @ H @ (out.matrices[0] - W).mT)
    keeping = W.where(out.matrices[0] != 0, 0.0) - W
    assert exact <= 0.5 * torch.trace(keeping @ H @ keeping.mT) + 1e-6


def test_without_curvature_every_removal_is_free_and_moves_nothing():
    W = normal(0, 3, 4)
    out = eliminate([W], [torch.zeros(4, 4)], 2)
    assert float(out.cost.sum()) < 1e-12
    kept = [j for j in range(4) if j not in out.removed.tolist()]
    assert torch.equal(out.matrices[0][:, kept], W[:, kept])


@given(SEEDS, st.integers(2, 8), st.data())
def test_zero_components_go_first_and_none_twice(seed, r, data):
    dead = data.draw(st.lists(st.integers(0, r - 1), unique=True, min_size=1, max_size=r))
    (B, At), curvatures = pair(seed, r)
    B[:, dead], At[:, dead] = 0.0, 0.0
    out = eliminate((B, At), [torch.diag(H.diagonal()) for H in curvatures], r)
    assert sorted(out.removed[: len(dead)].tolist()) == sorted(dead)
    assert sorted(out.removed.tolist()) == list(range(r))
    first = eliminate((B, At), curvatures, 1)
    assert first.removed.item() in dead
    assert float(first.cost) == 0.0


def test_ties_go_to_the_lowest_index():
    W = torch.ones(3, 6, dtype=torch.float64)
    assert eliminate([W], [torch.eye(6)], 4).removed.tolist() == [0, 1, 2, 3]
    noise = 1.0 + 1e-15 * torch.arange(6, 0, -1)
    assert eliminate([W * noise], [torch.eye(6)], 4).removed.tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
@pytest.mark.parametrize("where", ["matrix", "curvature", "gradient", "moment"])
def test_not_finite_is_refused(bad, where):
    values = {key: normal(i, 3, 3) for i, key in enumerate(("matrix", "gradient"))}
    values |= {"curvature": moment(5, 3), "moment": moment(7, 3)}
    values[where][1, 1] = bad
    newton = "off" if where == "moment" else "literal"
    with pytest.raises(NonFiniteError):
        eliminate(
            [values["matrix"]],
            [values["curvature"]],
            1,
            [values["gradient"]],
            newton=newton,
            moments=[values["moment"]] if where == "moment" else None,
        )
    if where != "moment":
        with pytest.raises(NonFiniteError):
            block_solution(values["matrix"], values["curvature"], [0], values["gradient"])


def test_bad_arguments_are_refused():
    matrices, curvatures = pair(0, 3)
    for count in (-1, 4):
        with pytest.raises(ConfigurationError, match="cannot remove"):
            eliminate(matrices, curvatures, count)
    with pytest.raises(ConfigurationError, match="needs the gradients"):
        eliminate(matrices, curvatures, 1, newton="capped")
    with pytest.raises(ConfigurationError, match="cannot be combined"):
        eliminate(matrices, curvatures, 1, matrices, newton="capped", moments=curvatures)
    with pytest.raises(ConfigurationError, match="trust"):
        eliminate(matrices, curvatures, 1, matrices, newton="capped", trust=0.0)
    with pytest.raises(ConfigurationError, match="damping"):
        eliminate(matrices, curvatures, 1, damping=-1.0)
    for removed in ([0, 0], [3], [-1]):
        with pytest.raises(ConfigurationError, match="distinct indices"):
            block_solution(matrices[0], curvatures[0], removed)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_is_decided_in_float64(dtype):
    """The choice is that for the rounded weights in float64, exactly; the result has the dtype of the input."""
    for seed in range(20):
        matrices, curvatures = pair(seed, 8)
        rounded = [W.to(dtype) for W in matrices]
        out = eliminate(rounded, curvatures, 5)
        assert (
            out.removed.tolist()
            == eliminate([W.double() for W in rounded], curvatures, 5).removed.tolist()
        )
        assert {W.dtype for W in out.matrices} == {dtype}


@pytest.mark.parametrize("count", [0, 1, 3])
def test_empty_batch(count):
    out = eliminate([torch.zeros(0, 4, 3)], [torch.zeros(0, 3, 3)], count)
    assert out.matrices[0].shape == (0, 4, 3)
    assert out.removed.shape == out.cost.shape == (0, count)
