"""Fisher matrices of the factors against direct autograd."""

import pytest
import torch
from torch import nn

from prunedlora.statistics.fisher import MicroBatchFisher, SampleFisher
from tests.layers import relative
from tests.prunedlora.statistics.network import data, make, sample_losses


@pytest.mark.parametrize("per", ["micro_batch", "sample"])
def test_fisher_is_that_of_autograd(per):
    model, modules = make()
    x, scale = data(n=6), 8.0
    parts = [x[:2], x[2:4], x[4:]]
    kind = MicroBatchFisher if per == "micro_batch" else SampleFisher
    with kind(modules, lambda: scale) as fisher:
        for part in parts:
            (scale * sample_losses(model, part).mean()).backward()
    units = parts if per == "micro_batch" else [x[i : i + 1] for i in range(6)]
    for m in modules:
        gradients = [
            torch.autograd.grad(sample_losses(model, unit).mean(), (m.B, m.A)) for unit in units
        ]
        of_B, of_A = (average.mean(m.name) for average in fisher.averages[m.name])
        assert relative(of_B, sum(G.mT @ G for G, _ in gradients) / len(units)) < 1e-12
        assert relative(of_A, sum(G @ G.mT for _, G in gradients) / len(units)) < 1e-12


def test_fisher_does_not_see_clipping():
    model, modules = make()
    with MicroBatchFisher(modules) as fisher:
        sample_losses(model, data()).mean().backward()
        expected = modules[0].B.grad.mT @ modules[0].B.grad
        nn.utils.clip_grad_norm_(model.parameters(), 1e-3)
    assert relative(fisher.averages[modules[0].name][0].mean(""), expected) < 1e-12
