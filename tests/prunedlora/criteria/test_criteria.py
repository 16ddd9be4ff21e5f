"""Every registered criterion: stated invariances both ways, formulas, precision, bad input."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from prunedlora.criteria import (
    available_criteria,
    get_criterion,
    llmpruner2023,
    register,
    register_reduction,
    unregister,
)
from prunedlora.criteria.registry import Reduction
from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.factors import Factors
from prunedlora.statistics.data import Statistics
from tests.layers import measured, normal, raw_data, relative

CRITERIA = (
    "adalora2023",
    "fisher",
    "kfac",
    "llmpruner2023",
    "lorasqueeze2026",
    "magnitude",
    "para2026",
    "prunedlora2025",
    "random",
    "sparsegpt2023",
    "svd",
    "svd_activation",
    "svd_fisher",
    "svd_gradient",
    "svd_kfac",
    "wanda2024",
)
TRUNCATIONS = ("lorasqueeze2026", "para2026", "svd", "svd_activation", "svd_fisher", "svd_gradient", "svd_kfac")
CHANGES = ("permutation", "sign", "rescaling", "basis")
#: Options under which a rule is compared: a fixed regularisation, solved to convergence.
OPTIONS = {"svd_fisher": {"mu": 0.3, "lam": 0.1, "max_iter": 500}}


def invariant(name: str, change: str) -> bool:
    """What the docstring states."""
    if change == "basis":
        return name in TRUNCATIONS
    return not (name == "random" and change == "permutation")


def changed(change: str, seed: int, r: int):
    """R of B -> B R⁻¹, A -> R A."""
    eye = torch.eye(r, dtype=torch.float64)
    if change == "permutation":
        return eye[torch.arange(r).roll(1 + seed % (r - 1))]
    if change == "sign":
        return torch.diag(torch.where(torch.arange(r) % 2 == seed % 2, 1.0, -1.0)).double()
    if change == "rescaling":
        return torch.diag(torch.exp(normal(seed + 50, r)))
    return normal(seed + 60, r, r) + 2 * eye


def kept_products(name, change, seed, count=2):
    """The product BA that is kept, before and after the change of gauge, from statistics measured each time."""
    B, A, x, g = raw_data(seed)
    R = changed(change, seed, 5)
    products = []
    for b, a in ((B, A), (B @ torch.linalg.inv(R), R @ A)):
        out = get_criterion(name).reduce(Factors(b, a), measured(b, a, x, g), count, **OPTIONS.get(name, {}))
        products.append(out.factors.B @ out.factors.A)
    return products


def test_the_list_is_complete():
    assert available_criteria() == sorted(CRITERIA)


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("name", CRITERIA)
def test_invariance_is_as_stated(name, change):
    seeds = range(3) if name != "random" else range(1)
    differences = [relative(two, one) for one, two in (kept_products(name, change, 100 * s) for s in seeds)]
    if invariant(name, change):
        assert max(differences) < 1e-5
    else:
        assert max(differences) > 1e-2


@pytest.mark.parametrize("name", CRITERIA)
def test_invariance_is_stated_in_the_docstring(name):
    criterion = get_criterion(name)
    text = " ".join((criterion.document or "").split())
    assert "Invariant to" in text
    stated = text[text.index("Invariant to") :]
    positive, _, negative = stated.partition("not to")
    for change in CHANGES:
        assert change in (positive if invariant(name, change) else negative), change


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("count", [0, 1, 4, 5])
def test_shapes_zeros_and_order(name, count):
    B, A, x, g = raw_data(7)
    out = get_criterion(name).reduce(Factors(B, A), measured(B, A, x, g), count)
    assert out.factors.B.shape == B.shape
    assert out.removed.shape == out.cost.shape == (count,)
    assert out.removed.unique().numel() == count
    assert not out.factors.B[:, out.removed].any()
    assert not out.factors.A[out.removed].any()
    assert torch.isfinite(out.factors.B).all()
    if count == 0:
        assert torch.equal(out.factors.B, B)
        assert torch.equal(out.factors.A, A)
    if name in TRUNCATIONS and count:
        assert out.removed.tolist() == list(range(4, 4 - count, -1))


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("shape", [(1, 7, 6), (3, 1, 1), (4, 2, 9)], ids=["r=1", "d=1", "d_out<r"])
def test_extreme_shapes(name, shape):
    r, d_out, d_in = shape
    B, A, x, g = raw_data(3, r=r, n=1, d_out=d_out, d_in=d_in)
    for count in range(r + 1):
        out = get_criterion(name).reduce(Factors(B, A), measured(B, A, x, g), count)
        assert torch.isfinite(out.factors.B @ out.factors.A).all()
        assert out.removed.unique().numel() == count


@pytest.mark.parametrize("name", CRITERIA)
def test_batch_equals_loop(name):
    cases = [raw_data(seed) for seed in (1, 2, 3)]
    singles = [(Factors(B, A), measured(B, A, x, g)) for B, A, x, g in cases]
    factors = Factors(*(torch.stack([getattr(f, k) for f, _ in singles]) for k in "BA"))
    statistics = Statistics(**{k: torch.stack([getattr(s, k) for _, s in singles]) for k in vars(singles[0][1])})
    out = get_criterion(name).reduce(factors, statistics, 3)
    for i, (f, s) in enumerate(singles):
        one = get_criterion(name).reduce(f, s, 3)
        assert one.removed.tolist() == out.removed[i].tolist()
        assert relative(out.factors.B[i] @ out.factors.A[i], one.factors.B @ one.factors.A) < 1e-6
        torch.testing.assert_close(out.cost[i], one.cost, rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", sorted(set(CRITERIA) - set(TRUNCATIONS) - {"random"}))
def test_zero_components_go_first(name):
    B, A, x, g = raw_data(11)
    B[:, [1, 3]], A[[1, 3]] = 0.0, 0.0
    out = get_criterion(name).reduce(Factors(B, A), measured(B, A, x, g), 2)
    assert sorted(out.removed.tolist()) == [1, 3]


@pytest.mark.parametrize("name", CRITERIA)
def test_scores_order_the_removals(name):
    """`score` sorts components as `reduce` removes them, and is monotone along the order of removal."""
    B, A, x, g = raw_data(5)
    criterion, factors, statistics = get_criterion(name), Factors(B, A), measured(B, A, x, g)
    scores = criterion.score(factors, statistics)
    order = criterion.reduce(factors, statistics, 5).removed
    assert (scores[order].diff() >= 0).all()


@pytest.mark.parametrize("name", CRITERIA)
@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_not_finite_is_refused(name, bad):
    B, A, x, g = raw_data(2)
    criterion, statistics = get_criterion(name), measured(B, A, x, g)
    for key in criterion.needs:
        spoilt = {**vars(statistics), key: torch.full_like(getattr(statistics, key), bad)}
        if (key, name) in {("gradient_B", "prunedlora2025"), ("gradient_A", "prunedlora2025")}:
            continue  # read only by its Newton term, see test_obs
        with pytest.raises(NonFiniteError):
            criterion.reduce(Factors(B, A), Statistics(**spoilt), 2)
    if name != "random":
        with pytest.raises(NonFiniteError):
            criterion.reduce(Factors(B * bad, A), statistics, 2)


@pytest.mark.parametrize("name", CRITERIA)
def test_missing_statistics_are_named(name):
    B, A, _, _ = raw_data(2)
    needs = get_criterion(name).needs
    if needs:
        with pytest.raises(ConfigurationError, match="needs the statistic"):
            get_criterion(name).reduce(Factors(B, A), Statistics(), 2)
    else:
        get_criterion(name).reduce(Factors(B, A), Statistics(), 2)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", sorted(set(CRITERIA) - {"random", "svd_fisher"}))
def test_low_precision_chooses_as_float64(name, dtype, record_property):
    """On the same 16-bit weights and statistics, against float64 arithmetic throughout."""
    equal, cases = 0, 100
    for seed in range(cases):
        B, A, x, g = (t.to(dtype) for t in raw_data(1000 + 10 * seed, n=10))
        low = measured(B, A, x, 0.1 * g, scaling=1.0)
        wide = Statistics(**{k: v.double() for k, v in vars(low).items()})
        one = get_criterion(name).reduce(Factors(B, A), low, 2)
        two = get_criterion(name).reduce(Factors(B.double(), A.double()), wide, 2)
        same = relative(one.factors.B.double() @ one.factors.A.double(), two.factors.B @ two.factors.A)
        equal += one.removed.tolist() == two.removed.tolist() and same < 0.05
    record_property("share", equal / cases)
    assert equal / cases >= 0.99


# ------------------------------------------------------------------ formulas, one by one


@pytest.fixture
def layer():
    B, A, x, g = raw_data(42)
    return Factors(B, A), measured(B, A, x, g), x, g


def test_magnitude_is_the_norm_of_each_term(layer):
    factors, statistics, _, _ = layer
    terms = [torch.outer(factors.B[:, j], factors.A[j]).norm() for j in range(5)]
    torch.testing.assert_close(get_criterion("magnitude").score(factors, statistics), torch.stack(terms))


def test_wanda_is_the_output_energy_of_each_term(layer):
    factors, statistics, x, _ = layer
    energies = [(x @ torch.outer(factors.B[:, j], factors.A[j]).mT).square().sum(-1).mean() for j in range(5)]
    torch.testing.assert_close(get_criterion("wanda2024").score(factors, statistics), torch.stack(energies))


@pytest.mark.parametrize("form", ["element1", "element2", "mixed"])
def test_llmpruner_sums_its_taylor_terms(layer, form):
    factors, statistics, _, _ = layer
    expected = []
    for j in range(5):
        t = torch.cat([factors.B[:, j] * statistics.gradient_B[:, j], factors.A[j] * statistics.gradient_A[j]])
        terms = {"element1": t.abs(), "element2": 0.5 * t**2, "mixed": (t - 0.5 * t**2).abs()}
        expected.append(terms[form].sum())
    torch.testing.assert_close(
        get_criterion("llmpruner2023").score(factors, statistics, form=form), torch.stack(expected)
    )


def test_llmpruner_refuses_an_unknown_form(layer):
    with pytest.raises(ConfigurationError, match="form must be"):
        inspect.unwrap(llmpruner2023.llmpruner2023)(*layer[:2], form="element3")


def test_adalora_averages_sensitivity_times_uncertainty(layer):
    factors, s, _, _ = layer
    expected = [
        (s.sensitivity_B[:, j] * s.uncertainty_B[:, j]).mean() + (s.sensitivity_A[j] * s.uncertainty_A[j]).mean()
        for j in range(5)
    ]
    torch.testing.assert_close(get_criterion("adalora2023").score(factors, s), torch.stack(expected))


@pytest.mark.parametrize("name", ["sparsegpt2023", "kfac"])
def test_recovery_is_the_least_squares_solution(layer, name):
    """B of the kept components is the regression of the old output on the kept z (S8: the same for both rules)."""
    factors, statistics, x, _ = layer
    out = get_criterion(name).reduce(factors, statistics, 2, damping=0.0)
    kept = [j for j in range(5) if j not in out.removed.tolist()]
    z = (x @ factors.A.mT).flatten(0, 1)
    solution = torch.linalg.lstsq(z[:, kept], z @ factors.B.mT).solution.mT
    torch.testing.assert_close(out.factors.B[:, kept], solution, rtol=1e-7, atol=1e-8)
    assert torch.equal(out.factors.A[kept], factors.A[kept])


def test_sparsegpt_cost_is_half_the_lost_output_energy(layer):
    factors, statistics, x, _ = layer
    out = get_criterion("sparsegpt2023").reduce(factors, statistics, 3, damping=0.0)
    lost = x @ (factors.B @ factors.A - out.factors.B @ out.factors.A).mT
    assert float(out.cost.sum()) == pytest.approx(float(0.5 * lost.square().sum(-1).mean()), rel=1e-9)


def test_kfac_cost_is_that_of_the_dense_kronecker_model(layer):
    factors, statistics, x, g = layer
    out = get_criterion("kfac").reduce(factors, statistics, 3, damping=0.0)
    C = torch.einsum("nti,ntj->ij", x, x) / x[..., 0].numel()
    D = 4.0 * torch.einsum("nti,ntj->ij", g, g) / g.shape[0]  # s² = 4
    delta = out.factors.B @ out.factors.A - factors.B @ factors.A
    assert float(out.cost.sum()) == pytest.approx(float(0.5 * torch.trace(D @ delta @ C @ delta.mT)), rel=1e-9)


@pytest.mark.parametrize(
    ("name", "factor"), [("svd", 1.0), ("svd_activation", 1.0), ("svd_gradient", 0.5), ("svd_kfac", 0.5)]
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
    D = 4.0 * torch.einsum("nti,ntj->ij", g, g) / g.shape[0] if name in ("svd_gradient", "svd_kfac") else torch.eye(7)
    delta = out.factors.B @ out.factors.A - factors.B @ factors.A
    dense = factor * torch.trace(D.double() @ delta @ C.double() @ delta.mT)
    assert float(out.cost.sum()) == pytest.approx(float(dense), rel=1e-9)


def test_svd_fisher_is_never_worse_than_svd_kfac_in_its_own_objective(layer):
    factors, statistics, _, _ = layer
    S_B, S_A = torch.linalg.pinv(factors.B), torch.linalg.pinv(factors.A)
    losses = []
    for name, options in (("svd_fisher", {"mu": 0.0, "lam": 0.0}), ("svd_kfac", {})):
        out = get_criterion(name).reduce(factors, statistics, 3, **options).factors
        X = S_B @ out.B @ out.A @ S_A - torch.eye(5)
        losses.append(0.5 * (statistics.core_gradients * X).sum((1, 2)).square().mean())
    assert losses[0] < losses[1]


def test_fisher_and_prunedlora_agree_on_equal_curvature(layer):
    factors, statistics, _, _ = layer
    grams = Statistics(**{**vars(statistics), "gram_B": statistics.fisher_B, "gram_A": statistics.fisher_A})
    one, two = (get_criterion(n).reduce(factors, grams, 2) for n in ("fisher", "prunedlora2025"))
    assert torch.equal(one.factors.B, two.factors.B)


def test_newton_forms_of_prunedlora(layer):
    factors, statistics, _, _ = layer
    changes = {}
    for newton in ("off", "capped", "literal"):
        out = get_criterion("prunedlora2025").reduce(factors, statistics, 0, newton=newton, trust=0.05)
        changes[newton] = float((out.factors.B - factors.B).norm() / factors.B.norm())
    assert changes["off"] == 0
    assert 0 < changes["capped"] <= 0.05 * (1 + 1e-9)
    assert changes["literal"] > 0


# ------------------------------------------------------------------ registering one's own


def test_own_score_is_usable_by_name():
    @register("smallest_index", needs=(), unit="none")
    def smallest_index(factors, statistics, *, reverse=False):
        order = torch.arange(factors.rank, dtype=torch.float64)
        return -order if reverse else order

    try:
        factors = Factors(torch.ones(2, 3), torch.ones(3, 2))
        criterion = get_criterion("smallest_index")
        assert criterion.options == {"reverse": False}
        assert criterion.reduce(factors, Statistics(), 2).removed.tolist() == [0, 1]
        assert criterion.reduce(factors, Statistics(), 2, reverse=True).removed.tolist() == [2, 1]
        with pytest.raises(ConfigurationError, match="registered already"):
            register("smallest_index", needs=(), unit="none")(smallest_index)
    finally:
        unregister("smallest_index")
    with pytest.raises(ConfigurationError, match="no criterion 'smallest_index'; there are: adalora2023"):
        get_criterion("smallest_index")


def test_own_reduction_has_a_score():
    @register_reduction("halving", needs=(), unit="none")
    def halving(factors, statistics, count):
        removed = torch.arange(count)
        B = 0.5 * factors.B
        B[:, removed] = 0.0
        A = factors.A.clone()
        A[removed] = 0.0
        return Reduction(Factors(B, A), removed, torch.tensor([3.0, 1.0, 2.0])[:count])

    try:
        factors = Factors(torch.ones(2, 3), torch.ones(3, 2))
        assert get_criterion("halving").score(factors, Statistics()).tolist() == [3.0, 3.0, 3.0]
    finally:
        unregister("halving")


def test_unknown_statistics_are_refused():
    with pytest.raises(ConfigurationError, match="needs unknown statistics: hessian"):
        register("x", needs=("hessian",), unit="loss")(lambda f, s: s)


def test_ties_go_to_the_lowest_index_for_every_score():
    factors = Factors(torch.ones(4, 6), torch.ones(6, 3))
    assert get_criterion("magnitude").reduce(factors, Statistics(), 3).removed.tolist() == [0, 1, 2]


@given(st.integers(0, 1000), st.integers(0, 6))
@hypothesis_settings(max_examples=20)
def test_any_seed_removes_what_is_asked(seed, count):
    B, A, x, g = raw_data(seed, r=6, n=8)
    for name in CRITERIA:
        if name != "svd_fisher":
            assert (
                get_criterion(name).reduce(Factors(B, A), measured(B, A, x, g), count).removed.unique().numel() == count
            )


def test_the_literal_newton_term_explodes_as_gradients_vanish_and_the_capped_does_not(layer):
    factors, s, _, _ = layer
    small = Statistics(
        gradient_B=1e-5 * s.gradient_B, gradient_A=1e-5 * s.gradient_A, gram_B=1e-10 * s.gram_B, gram_A=1e-10 * s.gram_A
    )
    norms = {
        newton: get_criterion("prunedlora2025").reduce(factors, small, 1, newton=newton).factors.B.norm()
        for newton in ("off", "capped", "literal")
    }
    assert norms["literal"] > 100 * norms["off"]
    assert norms["capped"] < 2 * norms["off"]
