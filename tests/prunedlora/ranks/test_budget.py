"""Budgets over modules."""

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from prunedlora.criteria import get_criterion
from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.ranks.budget import allocate, check_comparable, comparable

SCORES = st.lists(
    st.lists(st.floats(0, 100, allow_nan=False), min_size=1, max_size=4), min_size=1, max_size=3
).map(lambda rows: {str(i): torch.tensor(row, dtype=torch.float64) for i, row in enumerate(rows)})


def kept(scores, ranks):
    return sum(float(v.sort(descending=True).values[: ranks[n]].sum()) for n, v in scores.items())


@given(SCORES, st.data())
def test_keeps_most_of_the_scores(scores, data):
    """Against every other allocation of the same total rank."""
    most = sum(v.numel() for v in scores.values())
    budget = data.draw(st.integers(len(scores), most))
    ranks = allocate(scores, budget)
    assert sum(ranks.values()) == budget
    choices = itertools.product(*(range(1, v.numel() + 1) for v in scores.values()))
    best = max(kept(scores, dict(zip(scores, c, strict=True))) for c in choices if sum(c) == budget)
    assert kept(scores, ranks) >= best * (1 - 1e-9)


@given(SCORES, st.data())
def test_stays_within_a_budget_of_parameters(scores, data):
    sizes = {name: data.draw(st.integers(1, 50)) for name in scores}
    least = sum(sizes.values())
    budget = data.draw(st.integers(least, 4 * least))
    ranks = allocate(scores, budget, sizes=sizes)
    assert sum(ranks[n] * sizes[n] for n in scores) <= budget
    assert all(1 <= ranks[n] <= v.numel() for n, v in scores.items())


def test_a_cheap_component_of_equal_score_is_kept_first():
    scores = {"wide": torch.tensor([2.0, 1.0]), "narrow": torch.tensor([2.0, 1.0])}
    assert allocate(scores, 115, sizes={"wide": 100, "narrow": 10}) == {"wide": 1, "narrow": 1}
    assert allocate(scores, 120, sizes={"wide": 100, "narrow": 10}) == {"wide": 1, "narrow": 2}


def test_min_rank_and_round_to():
    scores = {"a": torch.arange(10.0), "b": 100 + torch.arange(10.0)}
    assert allocate(scores, 12, min_rank=3) == {"a": 3, "b": 9}
    assert allocate(scores, 12, round_to=4) == {"a": 4, "b": 8}
    assert allocate(scores, 12, min_rank=3, round_to=2) == {"a": 4, "b": 8}
    assert allocate(scores, 14, round_to=4) == {"a": 4, "b": 10}
    assert allocate({"small": torch.ones(2), "large": torch.ones(8)}, 10, round_to=4) == {
        "small": 2,
        "large": 8,
    }


def test_ties_go_to_the_first_module_and_do_not_depend_on_rounding():
    scores = {"a": torch.ones(3, dtype=torch.float64), "b": torch.ones(3, dtype=torch.float64)}
    assert allocate(scores, 4) == {"a": 3, "b": 1}
    noisy = {"a": scores["a"] * (1 - 1e-15), "b": scores["b"] * (1 + 1e-15)}
    assert allocate(noisy, 4) == {"a": 3, "b": 1}


def test_bad_requests_are_refused():
    scores = {"a": torch.ones(3), "b": torch.ones(3)}
    with pytest.raises(ConfigurationError, match="is below the 4 that min_rank=2"):
        allocate(scores, 3, min_rank=2)
    with pytest.raises(ConfigurationError, match="at least 0"):
        allocate(scores, 3, min_rank=-1)
    with pytest.raises(NonFiniteError, match="a score of b"):
        allocate({**scores, "b": torch.tensor([float("nan")])}, 3)
    with pytest.raises(ConfigurationError, match="random have no unit"):
        check_comparable(get_criterion("random"))


@pytest.mark.parametrize(("name", "power"), [("magnitude", 1), ("svd", 2), ("kfac", 0)])
def test_scores_are_taken_of_the_scaled_product(name, power):
    scores = torch.tensor([1.0, 2.0])
    check_comparable(get_criterion(name))
    assert comparable(get_criterion(name), scores, -3.0).tolist() == [3.0**power, 2 * 3.0**power]
