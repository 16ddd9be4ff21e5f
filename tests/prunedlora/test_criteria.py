import pytest
import torch

from prunedlora.criteria import Factors, Statistics, available_criteria, drop_lowest, get_criterion, register
from prunedlora.errors import ConfigurationError

R = 6


def example(batch: tuple[int, ...] = (), dtype: torch.dtype = torch.float64) -> tuple[Factors, Statistics]:
    factors = Factors(torch.randn(*batch, 5, R).to(dtype), torch.randn(*batch, R, 7).to(dtype))
    G_B, G_A = torch.randn(*batch, 9, 5, R).to(dtype), torch.randn(*batch, 9, R, 7).to(dtype)
    gram_B, gram_A = (G_B.mT @ G_B).sum(-3), (G_A @ G_A.mT).sum(-3)
    return factors, Statistics(G_B.mean(-3), G_A.mean(-3), gram_B, gram_A, torch.rand(*batch, R))


def rescaled(factors: Factors, s: Statistics, c: torch.Tensor) -> tuple[Factors, Statistics]:
    """B[:, j] -> c_j B[:, j], A[j, :] -> A[j, :] / c_j, and the gradients accordingly."""
    outer = c.unsqueeze(1) * c
    return (
        Factors(factors.B * c, factors.A / c.unsqueeze(1)),
        Statistics(s.gradient_B / c, s.gradient_A * c.unsqueeze(1), s.gram_B / outer, s.gram_A * outer, s.noise),
    )


@pytest.mark.parametrize("name", ["magnitude", "llmpruner2023", "prunedlora2025"])
def test_rescaling_the_factors_changes_neither_choice_nor_product(name):
    factors, statistics = example()
    c = torch.tensor([1.0, -2.0, 0.1, 30.0, 1.0, -0.5], dtype=torch.float64)
    criterion = get_criterion(name)
    one = criterion.reduce(factors, statistics, 3)
    other = criterion.reduce(*rescaled(factors, statistics, c), 3)
    assert torch.equal(one.removed, other.removed)
    torch.testing.assert_close(one.factors.B @ one.factors.A, other.factors.B @ other.factors.A)


@pytest.mark.parametrize("name", ["random", "magnitude", "llmpruner2023", "prunedlora2025"])
@pytest.mark.parametrize("count", [0, 1, R - 1, R])
def test_every_criterion_removes_exactly_what_it_says(name, count):
    factors, statistics = example()
    out = get_criterion(name).reduce(factors, statistics, count)
    assert out.removed.shape == out.cost.shape == (count,)
    assert len(set(out.removed.tolist())) == count
    kept = sorted(set(range(R)) - set(out.removed.tolist()))
    assert not out.factors.B[:, out.removed].any()
    assert not out.factors.A[out.removed].any()
    assert out.factors.B[:, kept].any(dim=0).all()


@pytest.mark.parametrize("name", ["random", "magnitude", "llmpruner2023", "prunedlora2025"])
def test_a_batch_of_modules_equals_one_at_a_time(name):
    factors, statistics = example(batch=(3,))
    criterion = get_criterion(name)
    together = criterion.reduce(factors, statistics, 2)
    for i in range(3):
        own = Statistics(**{k: v[i] for k, v in vars(statistics).items() if v is not None})
        alone = criterion.reduce(Factors(factors.B[i], factors.A[i]), own, 2)
        assert torch.equal(alone.removed, together.removed[i])
        torch.testing.assert_close(alone.factors.B, together.factors.B[i])
        torch.testing.assert_close(criterion.score(factors, statistics)[i], criterion.score(*_one(factors, own, i)))


def _one(factors: Factors, own: Statistics, i: int) -> tuple[Factors, Statistics]:
    return Factors(factors.B[i], factors.A[i]), own


def test_magnitude_is_the_norm_of_the_rank_one_term():
    factors, statistics = example()
    scores = get_criterion("magnitude").score(factors, statistics)
    dense = [torch.linalg.matrix_norm(torch.outer(factors.B[:, j], factors.A[j])) for j in range(R)]
    torch.testing.assert_close(scores.double(), torch.stack(dense), rtol=1e-6, atol=0)


@pytest.mark.parametrize(
    ("form", "effect"),
    [
        ("element1", lambda t: t.abs()),
        ("element2", lambda t: 0.5 * t**2),
        ("mixed", lambda t: (t - 0.5 * t**2).abs()),
    ],
)
def test_llmpruner_sums_the_effect_of_each_weight_of_a_component(form, effect):
    factors, s = example()
    scores = get_criterion("llmpruner2023").score(factors, s, form=form)
    for j in range(R):
        weights = torch.cat([factors.B[:, j], factors.A[j]])
        gradients = torch.cat([s.gradient_B[:, j], s.gradient_A[j]])
        assert scores[j].item() == pytest.approx(effect(weights * gradients).sum().item(), rel=1e-5)


def test_the_literal_newton_term_explodes_as_gradients_vanish_and_the_capped_does_not():
    factors, s = example()
    small = Statistics(1e-5 * s.gradient_B, 1e-5 * s.gradient_A, 1e-10 * s.gram_B, 1e-10 * s.gram_A)
    norms = {
        newton: get_criterion("prunedlora2025").reduce(factors, small, 1, newton=newton).factors.B.norm()
        for newton in ("off", "capped", "literal")
    }
    assert norms["literal"] > 100 * norms["off"]
    assert norms["capped"] < 2 * norms["off"]


def test_a_missing_statistic_is_named():
    factors, _ = example()
    with pytest.raises(ConfigurationError, match="gram_B"):
        get_criterion("prunedlora2025").reduce(factors, Statistics(), 1)


def test_ties_go_to_the_lowest_index():
    factors, _ = example()
    assert drop_lowest(factors, torch.zeros(R), 2).removed.tolist() == [0, 1]


def test_the_registry_refuses_doubles_unknown_needs_and_unknown_names():
    with pytest.raises(ConfigurationError, match="registered already"):
        register("magnitude", needs=(), unit="none")(lambda factors, statistics: statistics.noise)
    with pytest.raises(ConfigurationError, match="unknown statistics: hessian"):
        register("mine", needs=("hessian",), unit="none")(lambda factors, statistics: statistics.noise)
    with pytest.raises(ConfigurationError, match=r"there are: .*magnitude"):
        get_criterion("mine")
    assert "mine" not in available_criteria()
