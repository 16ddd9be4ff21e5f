"""Criteria of one's own, and scores in general."""

import pytest
import torch

from prunedlora.criteria import (
    check_options,
    get_criterion,
    register,
    register_reduction,
    unregister,
)
from prunedlora.criteria.registry import Reduction
from prunedlora.errors import ConfigurationError
from prunedlora.factors import Factors
from prunedlora.statistics.data import Statistics


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
    with pytest.raises(
        ConfigurationError, match="no criterion 'smallest_index'; there are: adalora2023"
    ):
        get_criterion("smallest_index")


def test_an_option_of_another_kind_than_its_default_is_refused():
    svd_fisher = get_criterion("svd_fisher")
    check_options(svd_fisher, {"damping": 1, "max_iter": 5, "mu": 0.5, "lam": None})
    with pytest.raises(
        ConfigurationError, match=r"svd_fisher has no option dampling; it has: damping=0\.01"
    ):
        check_options(svd_fisher, {"dampling": 1})
    for value in ("strong", True, None):
        with pytest.raises(
            ConfigurationError,
            match=f"damping must be a number, not {value!r}; its default is 0.01",
        ):
            check_options(svd_fisher, {"damping": value})
    with pytest.raises(
        ConfigurationError, match="newton must be a word, not 1; its default is 'off'"
    ):
        check_options(get_criterion("prunedlora2025"), {"newton": 1})


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
