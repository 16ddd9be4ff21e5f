"""Collected statistics against direct autograd, one sample and one token at a time."""

import peft
import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from prunedlora.adapters.modules import find_lora_modules
from prunedlora.errors import ConfigurationError
from prunedlora.statistics.average import Average
from prunedlora.statistics.bottleneck import MAX_SAMPLES, BottleneckMoments
from prunedlora.statistics.collector import Collector
from prunedlora.statistics.fisher import MicroBatchFisher, SampleFisher
from prunedlora.statistics.gradients import Sensitivity
from tests.layers import generator, relative

BOTTLENECK = ("C_z", "U", "core_gradients")


class Net(nn.Module):
    """Tokens (n, t, 5) -> tanh(linear) -> linear -> one number a token, averaged over tokens."""

    def __init__(self, checkpointed=None):
        super().__init__()
        self.first, self.second, self.checkpointed = nn.Linear(5, 6), nn.Linear(6, 4), checkpointed

    def forward(self, x, attention_mask=None):
        def body(x):
            return self.second(torch.tanh(self.first(x)))

        if self.checkpointed is None:
            return body(x)
        return checkpoint(body, x, use_reentrant=self.checkpointed)


def make(r=3, dtype=torch.float64, **kwargs):
    torch.manual_seed(0)
    model = peft.inject_adapter_in_model(
        peft.LoraConfig(r=r, lora_alpha=6, target_modules=["first", "second"]), Net(**kwargs)
    ).to(dtype)
    modules = find_lora_modules(model)
    for m in modules:
        m.B.data.normal_(generator=generator(7))
    return model, modules


def data(n=4, t=3, seed=0):
    return torch.randn(n, t, 5, generator=generator(seed), dtype=torch.float64)


def sample_losses(model, x, mask=None):
    """One loss per sample: the squared outputs, summed over tokens that count."""
    out = model(x).square().sum(-1)
    return (out if mask is None else out * mask).sum(1)


def reference(model, modules, x, mask=None):
    """z and u of every token, one sample at a time, through torch.autograd.grad; shapes (n, t, r)."""
    found = {m.name: ([], []) for m in modules}
    for sample in range(len(x)):
        kept = {}
        handles = [
            m.layer.lora_A["default"].register_forward_hook(
                lambda _, __, z, name=m.name, kept=kept: kept.update({name: z})
            )
            for m in modules
        ]
        loss = sample_losses(model, x[sample : sample + 1], None if mask is None else mask[sample : sample + 1]).sum()
        for handle in handles:
            handle.remove()
        gradients = torch.autograd.grad(loss, list(kept.values()))
        for (name, z), u in zip(kept.items(), gradients, strict=True):
            found[name][0].append(z.detach()[0])
            found[name][1].append(u[0])
    return {name: (torch.stack(z), torch.stack(u)) for name, (z, u) in found.items()}


def assert_equal_to_reference(moments, modules, expected, keep=None):
    for m in modules:
        z, u = expected[m.name]
        weight = torch.ones(z.shape[:2], dtype=z.dtype) if keep is None else keep.to(z.dtype)
        z, u = z * weight[..., None], u * weight[..., None]
        found = moments.of(m)
        assert relative(found["C_z"], torch.einsum("nti,ntj->ij", z, z) / weight.sum()) < 1e-12
        assert relative(found["U"], torch.einsum("nti,ntj->ij", u, u) / len(z)) < 1e-12
        assert relative(found["core_gradients"], torch.einsum("nti,ntj->nij", u, z)) < 1e-12


def test_moments_are_those_of_autograd():
    model, modules = make()
    x = data()
    with BottleneckMoments(model, modules, BOTTLENECK) as moments:
        sample_losses(model, x).mean().backward()
    assert_equal_to_reference(moments, modules, reference(model, modules, x))


def test_moments_are_those_of_the_layer():
    """C_z = A C Aᵀ, U = s² Bᵀ D B from inputs and output gradients of the adapted layer."""
    model, modules = make()
    x, first = data(), modules[0]
    seen = {}

    def keep_gradient(_, __, output):
        output.register_hook(lambda g: seen.update(g=g))

    handle = first.layer.lora_B["default"].register_forward_hook(keep_gradient)
    with BottleneckMoments(model, modules, ("C_z", "U")) as moments:
        sample_losses(model, x).mean().backward()
    handle.remove()
    C = torch.einsum("nti,ntj->ij", x, x) / 12
    g = 4 * seen["g"] / first.scaling  # of each sample's own loss; lora_B's output is scaled by s afterwards
    D = torch.einsum("nti,ntj->ij", g, g) / 4
    found = moments.of(first)
    assert relative(found["C_z"], first.A @ C @ first.A.mT) < 1e-12
    assert relative(found["U"], first.scaling**2 * first.B.mT @ D @ first.B) < 1e-12


def test_core_gradient_is_that_of_a_core_matrix():
    """g_n against autograd with S inserted: ΔW = s B S A at S = I."""
    model, modules = make()
    x, module = data(), modules[1]
    S = torch.eye(3, dtype=torch.float64, requires_grad=True)
    handle = module.layer.lora_A["default"].register_forward_hook(lambda _, __, z: z @ S.mT)
    dense = torch.stack([torch.autograd.grad(loss, S, retain_graph=True)[0] for loss in sample_losses(model, x)])
    handle.remove()
    with BottleneckMoments(model, modules, ("core_gradients",)) as moments:
        sample_losses(model, x).mean().backward()
    assert relative(moments.of(module)["core_gradients"], dense) < 1e-12


def test_objective_predicts_the_loss_along_the_core():
    """For the summed log-loss of a model's own labels, ½ mean <g, X>² is the loss increase for small X."""
    model, modules = make()
    x, module = data(n=400, seed=3), modules[1]
    logits = model(x).mean(1).detach()
    labels = torch.multinomial(logits.softmax(-1), 1, generator=generator(1)).squeeze(1)
    with BottleneckMoments(model, modules, ("core_gradients",)) as moments:
        nn.functional.cross_entropy(model(x).mean(1), labels).backward()
    g = moments.of(module)["core_gradients"]
    X = torch.randn(3, 3, generator=generator(2), dtype=torch.float64)
    X = 0.05 * X / X.norm()
    before = logits.log_softmax(-1)
    handle = module.layer.lora_A["default"].register_forward_hook(lambda _, __, z: z @ (torch.eye(3) + X).mT)
    after = model(x).mean(1).detach().log_softmax(-1)
    handle.remove()
    divergence = (before.exp() * (before - after)).sum(-1).mean()
    predicted = 0.5 * (g * X).sum((1, 2)).square().mean()
    assert float(predicted) == pytest.approx(float(divergence), rel=0.25)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_counts_a_recomputed_forward_once(reentrant):
    model, modules = make(checkpointed=reentrant)
    x = data().requires_grad_()
    with BottleneckMoments(model, modules, BOTTLENECK) as moments, MicroBatchFisher(modules) as fisher:
        sample_losses(model, x).mean().backward()
    plain, plain_modules = make()
    assert_equal_to_reference(moments, modules, reference(plain, plain_modules, x.detach()))
    sample_losses(plain, x.detach()).mean().backward()
    for m, p in zip(modules, plain_modules, strict=True):
        assert relative(fisher.averages[m.name][0].mean(m.name), p.B.grad.mT @ p.B.grad) < 1e-12


def test_accumulation_evaluation_and_loss_scale():
    """Two micro-batches with a scaled loss, evaluation in between: the moments of all samples, unscaled."""
    model, modules = make()
    x = data(n=6)
    scale = 2.0**10
    with BottleneckMoments(model, modules, BOTTLENECK, loss_scale=lambda: scale) as moments:
        (scale * sample_losses(model, x[:3]).mean()).backward()
        with torch.no_grad():
            model(100 * x)
        model(100 * x)  # a forward pass without a backward one
        (scale * sample_losses(model, x[3:]).mean()).backward()
    assert_equal_to_reference(moments, modules, reference(model, modules, x))


def test_micro_batches_of_unequal_size_count_by_their_samples():
    model, modules = make()
    x = data(n=6)
    with BottleneckMoments(model, modules, BOTTLENECK) as moments:
        for part in (x[:1], x[1:]):
            sample_losses(model, part).mean().backward()
    assert_equal_to_reference(moments, modules, reference(model, modules, x))


def test_padding_is_left_out_on_request():
    model, modules = make()
    x, mask = data(), torch.tensor([[1, 1, 0], [1, 0, 0], [1, 1, 1], [0, 1, 1]])

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = model

        def forward(self, x, attention_mask):
            return self.inner(x)

    outer = Outer()
    with BottleneckMoments(outer, modules, BOTTLENECK, ignore_padding=True) as moments:
        (outer(x, attention_mask=mask).square().sum(-1) * mask).sum(1).mean().backward()
    assert_equal_to_reference(moments, modules, reference(model, modules, x, mask), keep=mask)
    spoilt = x.masked_fill((mask == 0)[..., None], 1e3)
    with BottleneckMoments(outer, modules, ("C_z",), ignore_padding=True) as again:
        (outer(spoilt, attention_mask=mask).square().sum(-1) * mask).sum(1).mean().backward()
    for m in modules:
        assert relative(again.of(m)["C_z"], moments.of(m)["C_z"]) < 1e-12
    with (
        BottleneckMoments(outer, modules, ("C_z",), ignore_padding=True),
        pytest.raises(ConfigurationError, match="attention mask has shape"),
    ):
        outer(x, attention_mask=mask[:, :2]).sum().backward()


def test_layers_on_pooled_outputs_are_not_masked():
    """A layer that sees (samples, features) beside an attention mask counts every sample."""
    model, modules = make()
    with BottleneckMoments(model, modules, ("C_z",), ignore_padding=True) as moments:
        model(data()[:, 0], attention_mask=torch.tensor([[1, 0]] * 4)).square().sum(-1).mean().backward()
    assert moments.of(modules[0])["C_z"].shape == (3, 3)


def test_overflowed_micro_batches_are_dropped():
    model, modules = make()
    x = data()
    with BottleneckMoments(model, modules, BOTTLENECK) as moments, MicroBatchFisher(modules) as fisher:
        (sample_losses(model, x).mean() * torch.tensor(float("inf"))).backward()
        sample_losses(model, x).mean().backward()
    expected = reference(model, modules, x)
    for m in modules:
        _, u = expected[m.name]
        assert relative(moments.of(m)["U"], torch.einsum("nti,ntj->ij", u, u) / 4) < 1e-12
        assert moments.of(m)["core_gradients"].shape[0] == 4
        assert torch.isfinite(fisher.averages[m.name][0].mean(m.name)).all()


def test_hooks_are_removed_also_by_an_error():
    model, modules = make()
    with (
        pytest.raises(KeyError),
        BottleneckMoments(model, modules, BOTTLENECK, ignore_padding=True),
        SampleFisher(modules),
        MicroBatchFisher(modules),
    ):
        raise KeyError
    assert not model._forward_pre_hooks
    for m in modules:
        assert not m.layer.lora_A["default"]._forward_hooks
        assert not m.layer.lora_B["default"]._forward_hooks
        assert not m.A._backward_hooks
        assert not m.B._backward_hooks


def test_only_what_is_needed_is_collected():
    model, modules = make()
    with BottleneckMoments(model, modules, ("U",)) as moments:
        sample_losses(model, data()).mean().backward()
    assert set(moments.of(modules[0])) == {"U"}
    with Collector(model, modules, ()) as collector:
        assert not any(m.layer.lora_A["default"]._forward_hooks for m in modules)
        measured = collector.measure(modules[0], torch.arange(3))
    assert all(value is None for value in vars(measured).values())


def test_nothing_larger_than_the_bottleneck_is_kept():
    model, modules = make()
    with BottleneckMoments(model, modules, BOTTLENECK) as moments:
        sample_losses(model, data()).mean().backward()
    kept = [a._total for averages in moments.averages.values() for a in averages.values()]
    assert {tuple(t.shape) for t in kept} == {(3, 3)}


def test_core_gradients_are_the_latest():
    model, modules = make()
    with BottleneckMoments(model, modules, ("core_gradients",)) as moments:
        for seed in range(3):
            sample_losses(model, data(n=MAX_SAMPLES // 2, seed=seed)).mean().backward()
    assert moments.of(modules[0])["core_gradients"].shape[0] == MAX_SAMPLES


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
        gradients = [torch.autograd.grad(sample_losses(model, unit).mean(), (m.B, m.A)) for unit in units]
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


def test_half_precision_gradients_are_averaged_in_more():
    model, modules = make(dtype=torch.bfloat16)
    with Collector(model, modules, ("fisher_B", "fisher_A", *BOTTLENECK, "gram_B", "gram_A")) as collector:
        sample_losses(model, data().bfloat16()).mean().backward()
        collector.update()
        statistics = collector.measure(modules[0], torch.arange(3))
    for name in ("fisher_B", "C_z", "U", "gram_A", "core_gradients"):
        assert getattr(statistics, name).dtype in (torch.float32, torch.float64)


def test_average_discounts_and_names_what_is_missing():
    average = Average()
    with pytest.raises(ConfigurationError, match="no backward pass has reached layer 3"):
        average.mean("layer 3")
    average.add(torch.tensor([[4.0]]), 1)
    average.discount(0.5)
    average.add(torch.tensor([[1.0]]), 1)
    assert average.mean("").item() == pytest.approx(2.0)
    empty = Average()
    empty.add(torch.tensor([[float("nan")]]), 1)
    with pytest.raises(ConfigurationError, match="NaN, infinite or masked"):
        empty.mean("layer 3")


def test_live_components_only():
    model, modules = make()
    needs = ("gradient_B", "gradient_A", "fisher_A", "C_z", "core_gradients", "sensitivity_A", "noise")
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


def test_empty_micro_batch_counts_nothing():
    model, modules = make()
    with BottleneckMoments(model, modules, BOTTLENECK) as moments:
        sample_losses(model, data(n=4)[:0]).sum().backward()
        sample_losses(model, data()).mean().backward()
    assert_equal_to_reference(moments, modules, reference(model, modules, data()))
