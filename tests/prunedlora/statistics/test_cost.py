"""What collecting costs, in operations and waits per module, and in digits."""

import peft
import pytest
import torch
from torch import nn

from prunedlora.adapters.modules import find_lora_modules
from prunedlora.statistics.average import Average, Pool, gram_of_columns
from prunedlora.statistics.collector import Collector
from tests.dispatch import Operations
from tests.layers import generator, relative

#: Operations that a module may add to a step, by what is collected: one product for each moment, and bookkeeping.
PER_MODULE = {
    ("gram_B", "gram_A"): 2,
    ("fisher_B", "fisher_A"): 2,
    ("C_z",): 1,
    ("U",): 1,
    ("C_z", "U"): 2,
}


def operations(needs, modules, monkeypatch):
    """Operations and waits of the second step of so many layers; hooks do not wait for each other."""
    torch.manual_seed(0)
    layers = nn.Sequential(*(nn.Linear(6, 6) for _ in range(modules)))
    model = peft.get_peft_model(
        layers, peft.LoraConfig(r=3, target_modules=[str(i) for i in range(modules)])
    )
    with Collector(model, find_lora_modules(model), needs) as collector:
        for _ in range(2):
            loss = model(torch.randn(5, 6)).square().mean()
            with monkeypatch.context() as patched, Operations(patched) as mode:
                loss.backward()
                collector.update()
    return mode.count, mode.waits


@pytest.mark.parametrize("needs", PER_MODULE, ids=" ".join)
def test_a_module_costs_a_product_for_each_moment_and_never_a_wait(needs, monkeypatch):
    few, waits = operations(needs, 2, monkeypatch)
    many, more_waits = operations(needs, 8, monkeypatch)
    plain = [operations((), n, monkeypatch)[0] for n in (2, 8)]
    assert waits == more_waits == 0
    assert (many - plain[1]) - (few - plain[0]) == 6 * PER_MODULE[needs]


@pytest.mark.parametrize("tokens", [64, 4096])
def test_float32_products_summed_in_float64_are_exact_to_seven_digits(tokens):
    """Against float64 throughout, over 50 steps whose scales differ by 1e6; a sum in float32 would keep fewer."""
    average, exact, weight = Average(), torch.zeros(16, 16, dtype=torch.float64), 0.0
    for step in range(50):
        z = torch.randn(tokens, 16, generator=generator(step)) * 10.0 ** (step % 4)
        average.add(gram_of_columns(z), tokens)
        exact += z.double().mT @ z.double()
        weight += tokens
    assert relative(average.mean(""), exact / weight) < 2e-7


def test_contributions_wait_until_they_are_read_or_the_next_comes():
    pool = Pool()
    one, two = Average(pool), Average(pool)
    one.add(torch.tensor([[2.0]]), 1)
    two.add(torch.tensor([[4.0]]), 2, 0.5)
    assert one.total is None
    one.add(torch.tensor([[6.0]]), 1)
    assert (one.total.item(), two.total.item()) == (2.0, 2.0)
    assert (one.mean("").item(), two.mean("").item()) == (4.0, 1.0)


def test_matrices_of_different_shapes_and_devices_of_weights_share_a_pool():
    pool = Pool()
    averages = [Average(pool) for _ in range(3)]
    values = torch.full((2, 2), 3.0), torch.full((1, 1), float("inf")), torch.eye(2).double()
    for average, value in zip(averages, values, strict=True):
        average.add(value, torch.tensor(2))
    assert torch.equal(averages[0].mean(""), 1.5 * torch.ones(2, 2).double())
    assert averages[1].parts()[1] == 0
    assert torch.equal(averages[2].mean(""), 0.5 * torch.eye(2).double())


def test_the_loss_scale_is_read_once_a_backward_pass():
    """It may change from pass to pass; what is collected is that of the loss itself."""
    layers = nn.Sequential(*(nn.Linear(6, 6) for _ in range(4)))
    model = peft.get_peft_model(
        layers, peft.LoraConfig(r=3, target_modules=["0", "1", "2", "3"])
    ).double()
    modules = find_lora_modules(model)
    for module in modules:
        nn.init.normal_(module.B)
    x = torch.randn(3, 5, 6, dtype=torch.float64)
    scales = iter((2.0, 64.0, 8.0))
    reads = []

    def scale():
        reads.append(next(scales))
        return reads[-1]

    needs = ("U", "fisher_A")
    with (
        Collector(model, modules, ("U",), loss_scale=scale) as scaled,
        Collector(model, modules, needs) as plain,
    ):
        for factor, part in zip((2.0, 64.0, 8.0), x, strict=True):
            plain.activate(False)
            scaled.activate(True)
            (factor * model(part).square().mean()).backward()
            scaled.confirm()  # or a lower scale would tell of a step that was skipped
            plain.activate(True)
            scaled.activate(False)
            model(part).square().mean().backward()
        for module in modules:
            assert relative(scaled.measure(module).U, plain.measure(module).U) < 1e-12
    assert reads == [2.0, 64.0, 8.0]
