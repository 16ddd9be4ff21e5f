"""S15 against enumeration, and where the loss-aware choice wins nothing."""

import itertools

import pytest
import torch

from theory.statements.s15_average_gain import (
    Components,
    by_activations,
    check,
    gain,
    loss_aware,
    sample,
)


@pytest.mark.parametrize(("r", "values"), [(2, 3), (3, 4), (4, 2)])
def test_the_expectation_is_that_of_all_combinations(r, values):
    instance = sample(torch.Generator().manual_seed(r), 20, r=r, values=values)
    for costs, d, expected in zip(
        instance.costs, instance.values, loss_aware(instance), strict=True
    ):
        combinations = torch.tensor(list(itertools.product(d.tolist(), repeat=r)), dtype=d.dtype)
        enumerated = (costs * combinations).amin(dim=-1).mean()
        assert expected.item() == pytest.approx(enumerated.item(), rel=1e-12)


def test_nothing_is_won_where_the_costs_differ_by_more_than_the_loss_minds():
    instance = Components(torch.tensor([1.0, 4.0]).double(), torch.tensor([1.0, 3.9]).double())
    assert gain(instance).item() == 0.0
    assert loss_aware(instance).item() == pytest.approx(by_activations(instance).item())
    uneven = Components(instance.costs, torch.tensor([1.0, 4.1]).double())
    assert gain(uneven).item() > 0
    assert loss_aware(uneven).item() < by_activations(uneven).item()


def test_equal_components_win_the_least_of_all_values():
    instance = Components(torch.ones(3).double(), torch.tensor([1.0, 2.0]).double())
    # One of eight combinations has no 1 among its three values.
    assert loss_aware(instance).item() == pytest.approx(1 + 1 / 8)


def test_more_components_win_more_than_the_bound_for_two():
    two = Components(torch.ones(2).double(), torch.tensor([1.0, 2.0]).double())
    three = Components(torch.ones(3).double(), torch.tensor([1.0, 2.0]).double())
    assert check(two).ratio.item() == pytest.approx(1.0)
    assert check(three).ratio.item() < 0.95
