"""What is collected for a criterion, and for which components."""

import torch

from prunedlora.statistics.bottleneck import BottleneckMoments
from prunedlora.statistics.collector import Collector
from tests.prunedlora.statistics.network import BOTTLENECK, data, make, sample_losses


def test_only_what_is_needed_is_collected():
    model, modules = make()
    with BottleneckMoments(model, modules, ("U",)) as moments:
        sample_losses(model, data()).mean().backward()
    assert set(moments.of(modules[0])) == {"U"}
    with Collector(model, modules, ()) as collector:
        assert not any(m.layer.lora_A["default"]._forward_hooks for m in modules)
        measured = collector.measure(modules[0], torch.arange(3))
    assert all(value is None for value in vars(measured).values())


def test_half_precision_gradients_are_averaged_in_more():
    model, modules = make(dtype=torch.bfloat16)
    with Collector(
        model, modules, ("fisher_B", "fisher_A", *BOTTLENECK, "gram_B", "gram_A")
    ) as collector:
        sample_losses(model, data().bfloat16()).mean().backward()
        collector.update()
        statistics = collector.measure(modules[0], torch.arange(3))
    for name in ("fisher_B", "C_z", "U", "gram_A", "core_gradients"):
        assert getattr(statistics, name).dtype in (torch.float32, torch.float64)


def test_live_components_only():
    model, modules = make()
    needs = (
        "gradient_B",
        "gradient_A",
        "fisher_A",
        "C_z",
        "core_gradients",
        "sensitivity_A",
        "noise",
    )
    with Collector(model, modules, needs) as collector:
        sample_losses(model, data()).mean().backward()
        collector.update()
        everything = collector.measure(modules[0], torch.arange(3))
        part = collector.measure(modules[0], torch.tensor([0, 2]))
    assert torch.equal(part.gradient_B, everything.gradient_B[:, [0, 2]])
    assert torch.equal(part.sensitivity_A, everything.sensitivity_A[[0, 2]])
    assert torch.equal(part.C_z, everything.C_z[[0, 2]][:, [0, 2]])
    assert torch.equal(part.core_gradients, everything.core_gradients[:, [0, 2]][:, :, [0, 2]])
    assert part.noise.shape == (2,)
    assert part.U is None
