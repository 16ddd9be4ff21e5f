import pytest

from theory import get_statement
from theory.checking.adversary import attack


@pytest.mark.parametrize("key", ["S5.bound", "S7"])
def test_the_adversary_reaches_the_tight_bounds(key):
    statement = get_statement(key)
    found = attack(statement, dict(statement.adversary_shapes[0]), seed=3, steps=40)
    assert 0.99 <= found.best_ratio <= 1 + 1e-9
    assert found.violations == 0


def test_the_adversary_finds_more_than_root_two_for_overlapping_masks():
    """The constant of S10 for masks that overlap lies above √2 and below 2; for disjoint ones it is √2."""
    statement = get_statement("S10.general")
    overlapping = attack(statement, {"d": 1, "r": 3, "count": 2}, seed=0, steps=100)
    disjoint = attack(statement, {"d": 1, "r": 2, "count": 1}, seed=0, steps=60)
    assert 2**0.5 < 2 * overlapping.best_ratio <= 2
    assert 1.3 < 2 * disjoint.best_ratio <= 2**0.5 * (1 + 1e-6)


@pytest.mark.parametrize("key", ["S4", "S6.printed"])
def test_the_adversary_breaks_the_printed_bounds_within_sixty_steps(key):
    statement = get_statement(key)
    found = attack(statement, dict(statement.adversary_shapes[0]), seed=1, steps=60)
    assert found.seconds_to_fall is not None
    assert found.best_ratio > 1.1
    assert bool(statement.check(found.instance).violated)
