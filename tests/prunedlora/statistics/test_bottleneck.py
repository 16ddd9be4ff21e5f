"""Collected statistics against direct autograd, one sample and one token at a time."""

import pytest
import torch
from torch import nn

from prunedlora.errors import ConfigurationError
from prunedlora.statistics.bottleneck import BottleneckMoments
from prunedlora.statistics.core_gradients import MAX_SAMPLES
from prunedlora.statistics.fisher import MicroBatchFisher
from tests.layers import generator, normal, relative
from tests.prunedlora.statistics.network import (
    BOTTLENECK,
    assert_equal_to_reference,
    data,
    make,
    reference,
    sample_losses,
)


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
    g = (
        4 * seen["g"] / first.scaling
    )  # of each sample's own loss; lora_B's output is scaled by s afterwards
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
    dense = torch.stack(
        [torch.autograd.grad(loss, S, retain_graph=True)[0] for loss in sample_losses(model, x)]
    )
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
    handle = module.layer.lora_A["default"].register_forward_hook(
        lambda _, __, z: z @ (torch.eye(3) + X).mT
    )
    after = model(x).mean(1).detach().log_softmax(-1)
    handle.remove()
    divergence = (before.exp() * (before - after)).sum(-1).mean()
    predicted = 0.5 * (g * X).sum((1, 2)).square().mean()
    assert float(predicted) == pytest.approx(float(divergence), rel=0.25)


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointing_counts_a_recomputed_forward_once(reentrant):
    model, modules = make(checkpointed=reentrant)
    x = data().requires_grad_()
    with (
        BottleneckMoments(model, modules, BOTTLENECK) as moments,
        MicroBatchFisher(modules) as fisher,
    ):
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
        model(data()[:, 0], attention_mask=torch.tensor([[1, 0]] * 4)).square().sum(
            -1
        ).mean().backward()
    assert moments.of(modules[0])["C_z"].shape == (3, 3)


def test_overflowed_micro_batches_are_dropped():
    model, modules = make()
    x = data()
    with (
        BottleneckMoments(model, modules, BOTTLENECK) as moments,
        MicroBatchFisher(modules) as fisher,
    ):
        (sample_losses(model, x).mean() * torch.tensor(float("inf"))).backward()
        sample_losses(model, x).mean().backward()
    expected = reference(model, modules, x)
    for m in modules:
        _, u = expected[m.name]
        assert relative(moments.of(m)["U"], torch.einsum("nti,ntj->ij", u, u) / 4) < 1e-12
        assert moments.of(m)["core_gradients"].shape[0] == 4
        assert torch.isfinite(fisher.averages[m.name][0].mean(m.name)).all()


def test_nothing_larger_than_the_bottleneck_is_kept():
    model, modules = make()
    with BottleneckMoments(model, modules, BOTTLENECK) as moments:
        sample_losses(model, data()).mean().backward()
    kept = [
        part
        for averages in moments.averages.values()
        for a in averages.values()
        for part in a.parts()
    ]
    assert {tuple(t.shape) for t in kept} == {(3, 3), ()}


def test_core_gradients_are_the_latest():
    model, modules = make()
    with BottleneckMoments(model, modules, ("core_gradients",)) as moments:
        for seed in range(3):
            sample_losses(model, data(n=MAX_SAMPLES // 2, seed=seed)).mean().backward()
    assert moments.of(modules[0])["core_gradients"].shape[0] == MAX_SAMPLES


def test_core_gradients_take_no_more_bytes_than_allowed(monkeypatch):
    monkeypatch.setattr("prunedlora.statistics.core_gradients.MAX_BYTES", 5 * 9 * 8)
    model, modules = make()
    with BottleneckMoments(model, modules, ("core_gradients",)) as moments:
        for seed in range(3):
            sample_losses(model, data(n=4, seed=seed)).mean().backward()
    with BottleneckMoments(model, modules, ("core_gradients",)) as last:
        sample_losses(model, data(n=4, seed=2)).mean().backward()
    g = moments.of(modules[0])["core_gradients"]
    assert g.shape[0] == 5
    assert torch.equal(g[1:], last.of(modules[0])["core_gradients"])


def test_within_a_space_core_gradients_are_projected_and_keep_their_trace():
    model, modules = make()
    spaces = {modules[0].name: (normal(1, 3, 2), normal(2, 2, 3))}
    fields = {}
    for name, chosen in (("whole", {}), ("within", spaces)):
        with BottleneckMoments(model, modules, ("core_gradients",), spaces=chosen) as moments:
            for factor in (1.0, float("inf"), 2.0):
                (sample_losses(model, data()).mean() * torch.tensor(factor)).backward()
        fields[name] = [moments.of(m) for m in modules]
    (whole, other), (within, same) = fields["whole"], fields["within"]
    P, Q = spaces[modules[0].name]
    g = whole["core_gradients"]
    assert relative(within["core_gradients"].double(), P.mT @ g @ Q.mT) < 2**-7
    assert relative(within["core_traces"], g.diagonal(dim1=1, dim2=2).sum(-1)) < 1e-12
    assert torch.equal(within["core_columns"], P)
    assert torch.equal(same["core_gradients"], other["core_gradients"])


def test_empty_micro_batch_counts_nothing():
    model, modules = make()
    with BottleneckMoments(model, modules, BOTTLENECK) as moments:
        sample_losses(model, data(n=4)[:0]).sum().backward()
        sample_losses(model, data()).mean().backward()
    assert_equal_to_reference(moments, modules, reference(model, modules, data()))
