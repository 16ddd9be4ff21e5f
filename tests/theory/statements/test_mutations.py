"""A check that cannot fail proves nothing: with a bound claimed tight made 10 % tighter, it must fail."""

import pytest
import torch

from theory import available_statements, get_statement
from theory.checking.numerics import condition_on_range
from theory.checking.runner import verify
from theory.statements import s05_softmax_bound, s07_price_of_ignoring_the_loss

TIGHT = [key for key in available_statements() if get_statement(key).attained]


@pytest.mark.parametrize("key", [key for key in TIGHT if get_statement(key).extremal is not None])
def test_a_tightened_bound_falls_at_the_constructed_instance(key):
    statement = get_statement(key)
    result = statement.check(statement.extremal())
    assert not bool(result.violated.any())
    assert bool(result.tightened(0.9).violated.any())


@pytest.mark.parametrize(
    "key", ["S5.bound", "S5.jacobian", "S6.path", "S7", "S9.estimate", "S11.optimum", "S15"]
)
def test_a_tightened_bound_falls_in_a_run(key):
    assert verify(get_statement(key), count=100, seed=2, tighten=0.9, steps=5).verdict == "violated"


def test_half_is_the_smallest_constant_for_softmax(monkeypatch):
    monkeypatch.setattr(s05_softmax_bound, "JACOBIAN_BOUND", 0.45)
    instance = s05_softmax_bound.opposite_keys()
    assert bool(s05_softmax_bound.check(instance).violated)
    assert bool(s05_softmax_bound.check_jacobian(s05_softmax_bound.fair_coin()).violated)


def test_kappa_is_the_smallest_price(monkeypatch):
    monkeypatch.setattr(
        s07_price_of_ignoring_the_loss,
        "condition_on_range",
        lambda D, W: 0.9 * condition_on_range(D, W),
    )
    assert bool(
        s07_price_of_ignoring_the_loss.check(s07_price_of_ignoring_the_loss.blind_choice()).violated
    )


def test_a_wrong_identity_is_noticed():
    """A perturbed solution is far outside the rounding allowed."""
    statement = get_statement("S2")
    result = statement.check(
        statement.sample(torch.Generator().manual_seed(0), 20, d=3, r=6, count=2)
    )
    assert bool(result.tightened(1e-9).violated.any())
