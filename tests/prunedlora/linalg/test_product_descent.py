"""Batched L-BFGS on products, against other optimisers and the definition of the problem."""

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from scipy.optimize import minimize

from prunedlora.linalg.product_descent import Quadratic, descend, first_minimum
from tests.layers import moment, normal


def quadratic(seed, m=3, w=2, c=5, n=12, kappa=0.1, phi=0.1):
    """m problems of c x c matrices with w weights each."""
    metrics = [torch.stack([moment(seed + 10 * i + j, c) for i in range(m)]) for j in (1, 2)]
    weights = torch.tensor([kappa, phi], dtype=torch.float64)[:, None, None].expand(2, m, w)
    values = 1 + normal(seed + 3, m, c).abs().sort(dim=-1, descending=True).values
    return Quadratic(
        rows=normal(seed, m, n, c * c),
        offsets=0.1 * normal(seed + 4, m, n),
        count=torch.full((m,), float(n), dtype=torch.float64),
        target=torch.diag_embed(values),
        metric_b=metrics[0],
        metric_a=metrics[1],
        cross=0.1 * normal(seed + 5, m, c, c),
        rest=torch.full((2, m), 5.0, dtype=torch.float64),
        weights=weights * torch.arange(1, w + 1, dtype=torch.float64),
    )


def started(problem, k=2, seed=0):
    m, w = problem.weights.shape[1:]
    c = problem.target.shape[-1]
    return normal(seed + 100, m, w, c, k), normal(seed + 101, m, w, k, c)


def value_of_one(problem, i, j, X):
    """The quadratic of problem i under weights j, from its definition."""
    E = X - problem.target[i]
    along = torch.stack([(row.view_as(E) * E).sum() for row in problem.rows[i]])
    kappa, phi = problem.weights[:, i, j]
    bent = (E * (problem.metric_b[i] @ E @ problem.metric_a[i] + 2 * problem.cross[i])).sum()
    fisher = (along - problem.offsets[i]).square().mean()
    near = E.square().sum() + problem.rest[0, i]
    return 0.5 * (fisher + kappa * near + phi * (bent + problem.rest[1, i]))


def test_value_and_gradient_are_those_of_the_definition():
    problem = quadratic(0)
    P, Q = started(problem)
    E = P @ Q - problem.target.unsqueeze(1)
    gradient = problem.gradient(E, problem.residuals(E))
    for i, j in ((0, 0), (2, 1)):
        X = (P @ Q)[i, j].clone().requires_grad_()
        value = value_of_one(problem, i, j, X)
        value.backward()
        assert float(problem.value(E)[i, j]) == pytest.approx(value.item(), rel=1e-12)
        torch.testing.assert_close(gradient[i, j], X.grad)


def test_as_low_as_torch_and_scipy_from_the_same_start():
    # More samples than entries, and the best diagonal matrix of rank 2, as in use: else minima are many.
    problem = quadratic(1, n=40)
    root = problem.target.sqrt().unsqueeze(1).expand(-1, 2, -1, -1)
    start = root[..., :2].clone(), root[..., :2, :].clone()
    P, Q = descend(problem, *start, 500)
    ours = problem.value(P @ Q - problem.target.unsqueeze(1))
    for i in range(3):
        for j in range(2):
            p, q = (t[i, j].clone().requires_grad_() for t in start)
            optimizer = torch.optim.LBFGS([p, q], max_iter=500, line_search_fn="strong_wolfe")

            def closure(p=p, q=q, i=i, j=j, optimizer=optimizer):
                optimizer.zero_grad()
                value = value_of_one(problem, i, j, p @ q)
                value.backward()
                return value

            optimizer.step(closure)
            x = torch.cat([t[i, j].flatten() for t in start])

            def function(x, i=i, j=j):
                x = torch.from_numpy(x).requires_grad_()
                value = value_of_one(problem, i, j, x[:10].view(5, 2) @ x[10:].view(2, 5))
                value.backward()
                return value.item(), x.grad.numpy()

            theirs = [closure().item(), minimize(function, x.numpy(), jac=True).fun]
            assert float(ours[i, j]) == pytest.approx(min(theirs), rel=1e-6)


@given(st.integers(0, 1000), st.integers(1, 4), st.integers(0, 30))
@hypothesis_settings(max_examples=25)
def test_never_above_the_start_and_each_problem_as_if_alone(seed, k, steps):
    problem = quadratic(seed)
    start = started(problem, k, seed)
    P, Q = descend(problem, *start, steps)
    target = problem.target.unsqueeze(1)
    values = problem.value(P @ Q - target)
    assert (values <= problem.value(start[0] @ start[1] - target)).all()
    # A problem of its own takes the same steps.
    fields = {name: t[1:2] for name, t in vars(problem).items() if name not in ("rest", "weights")}
    alone = Quadratic(**fields, rest=problem.rest[:, 1:2], weights=problem.weights[:, 1:2])
    one = descend(alone, *(t[1:2] for t in start), steps)
    value = alone.value(one[0] @ one[1] - alone.target.unsqueeze(1))
    torch.testing.assert_close(values[1:2], value, rtol=1e-6, atol=0)


def test_more_steps_go_lower_and_the_end_is_flat():
    problem = quadratic(2)
    target = problem.target.unsqueeze(1)
    start = started(problem)
    ends = [descend(problem, *start, steps) for steps in (0, 3, 400)]
    values = [problem.value(P @ Q - target) for P, Q in ends]
    assert torch.equal(ends[0][0], start[0])
    assert (values[1] < values[0]).all()
    assert (values[2] <= values[1]).all()
    P, Q = ends[2]
    slope = problem.gradient(P @ Q - target, problem.residuals(P @ Q - target))
    assert ((slope @ Q.mT).abs().amax(dim=(-2, -1)) < 1e-3 * values[0]).all()


def test_solved_problems_stay_as_they_are():
    problem = quadratic(3)
    start = started(problem)
    solved = torch.tensor([[True, False], [False, False], [True, True]])
    P, _ = descend(problem, *start, 20, solved)
    unchanged = (start[0] == P).all(dim=(-2, -1))
    assert torch.equal(unchanged, solved)


@given(st.lists(st.floats(-10, 10), min_size=4, max_size=4), st.integers(-30, 30))
@hypothesis_settings(max_examples=200)
def test_first_minimum_is_the_first_flat_point(coefficients, exponent):
    """The polynomial falls all the way to it, at any scale of the step."""
    c1, c2, c3, c4 = coefficients
    c1, c4 = -abs(c1) - 1e-3, abs(c4) + 1e-3
    scale = 2.0**exponent
    values = [c1 / scale, c2 / scale**2, c3 / scale**3, c4 / scale**4]
    x = first_minimum(*(torch.tensor(v, dtype=torch.float64) for v in values)).item() / scale

    def slope(t):
        return c1 + t * (2 * c2 + t * (3 * c3 + t * 4 * c4))

    size = sum(abs(t) for t in (c1, 2 * c2 * x, 3 * c3 * x**2, 4 * c4 * x**3))
    assert abs(slope(x)) <= 1e-6 * size
    assert x > 0
    assert all(slope(x * share / 50) < 1e-6 * size for share in range(50))


def test_first_minimum_stays_where_nothing_falls():
    zero, one = torch.zeros((), dtype=torch.float64), torch.ones((), dtype=torch.float64)
    assert first_minimum(one, one, zero, one) == 0
    assert first_minimum(zero, one, zero, one) == 0
    assert first_minimum(-one, zero, zero, zero) == 0
