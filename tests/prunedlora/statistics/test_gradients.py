import torch

from prunedlora.statistics.gradients import Sensitivity
from tests.layers import relative
from tests.prunedlora.statistics.network import data, make, sample_losses


def test_sensitivity_follows_its_recursion():
    model, modules = make()
    tracker = Sensitivity(modules, beta=0.85)
    sensitivity = uncertainty = torch.zeros_like(modules[0].B)
    for seed in range(4):
        model.zero_grad()
        sample_losses(model, data(seed=seed)).mean().backward()
        tracker.update()
        now = (modules[0].B * modules[0].B.grad).abs().detach()
        sensitivity = 0.85 * sensitivity + 0.15 * now
        uncertainty = 0.85 * uncertainty + 0.15 * (now - sensitivity).abs()
    assert relative(tracker.of(modules[0])["sensitivity_B"], sensitivity) < 1e-12
    assert relative(tracker.of(modules[0])["uncertainty_B"], uncertainty) < 1e-12
