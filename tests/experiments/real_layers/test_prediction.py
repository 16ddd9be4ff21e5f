"""Predictions of a removal against the measured loss."""

from dataclasses import replace

import pytest
import torch

from experiments.real_layers import prediction
from experiments.real_layers.edits import predictions, without


def test_first_order_prediction_is_the_derivative_of_the_measured_loss(measured):
    place, candidate = measured.layers[0]
    new = without(candidate, torch.tensor([1]), recover=False)
    found = prediction.removal(
        measured, place.depth, candidate, torch.tensor([1]), recover=False, taylor=True
    )
    predicted = predictions(candidate, new, torch.tensor([1]))["first_order"]
    slope = found["taylor"]["calibration"]["first_order"]
    assert slope == pytest.approx(predicted, rel=0.05, abs=3e-6)


class Parabola:
    """A scorer whose loss is exactly quadratic in one layer's B."""

    def __init__(self, candidate):
        self.candidate = candidate
        generator = torch.Generator().manual_seed(3)
        self.slope = torch.randn(candidate.factors.B.shape, generator=generator).double()

    def increase(self, depth):
        delta = (self.candidate.module.B - self.candidate.factors.B).detach().double()
        value = (self.slope * delta).sum() + 0.5 * delta.square().sum()
        return {"calibration": (value + 0.5 * delta.sum() ** 2).item()}


def test_the_taylor_model_of_an_exactly_quadratic_loss_leaves_no_remainder(measured):
    place, candidate = measured.layers[0]
    fake = replace(measured, scorer=Parabola(candidate))
    found = prediction.removal(
        fake, place.depth, candidate, torch.tensor([0, 2]), recover=True, taylor=True
    )
    assert found["taylor"]["calibration"]["second_order"] == pytest.approx(
        found["true"]["calibration"], rel=1e-3
    )
    assert found["taylor"]["calibration"]["first_order"] != pytest.approx(
        found["true"]["calibration"], rel=1e-3
    )


def test_the_even_part_of_an_exactly_quadratic_loss_is_its_quadratic_part(measured):
    place, candidate = measured.layers[0]
    scorer = Parabola(candidate)
    new = without(candidate, torch.tensor([0, 2]), recover=True)
    found = prediction.removal(
        replace(measured, scorer=scorer),
        place.depth,
        candidate,
        torch.tensor([0, 2]),
        recover=True,
        taylor=False,
    )
    # without recovery of A the reflected factors are 2 B - B' with the old A
    delta = (new.B - candidate.factors.B).double()
    quadratic = 0.5 * (delta.square().sum() + delta.sum() ** 2).item()
    assert found["even"]["calibration"] == pytest.approx(quadratic, rel=1e-3)
    assert found["true"]["calibration"] != pytest.approx(quadratic, rel=1e-3)
