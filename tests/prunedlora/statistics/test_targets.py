"""Logits of prompts are not computed where a model can leave them out, and nothing else changes."""

import torch
from torch import nn

from prunedlora.statistics import targets
from prunedlora.statistics.measurement import measure_statistics
from prunedlora.statistics.targets import IGNORED, logits_at_targets, transformers_model
from tests.models import ids, with_lora


def batch_of_prompts(counted=(3, 2, 5, 3)):
    """Four samples of six tokens; the labels from `counted` on count, but for the last token of the second."""
    tokens = ids()
    labels = tokens.clone()
    for row, first in enumerate(counted):
        labels[row, :first] = IGNORED
    labels[1, -1] = IGNORED
    return {"input_ids": tokens, "labels": labels}


def computed(model, monkeypatch):
    """A list to which the shape of all logits that the model computes is added."""
    shapes = []
    head = transformers_model(model).lm_head
    forward = head.forward

    def watched(hidden):
        logits = forward(hidden)
        shapes.append(tuple(logits.shape))
        return logits

    monkeypatch.setattr(head, "forward", watched)
    return shapes


def test_logits_before_the_first_target_are_not_computed(monkeypatch):
    model = with_lora()
    batch = batch_of_prompts()
    inputs = {"input_ids": batch["input_ids"]}
    expected = model(**inputs).logits
    shapes = computed(model, monkeypatch)
    logits, following = logits_at_targets(model, inputs, batch["labels"])
    # The first label that counts is that of token 2, which the logits of token 1 predict.
    assert shapes == [(4, 5, 32)]
    torch.testing.assert_close(logits, expected[:, 1:-1])
    assert torch.equal(following, batch["labels"][:, 2:])


def test_statistics_are_those_of_all_logits(monkeypatch):
    model = with_lora()
    batch = batch_of_prompts()
    needs = ("C_z", "U", "core_gradients", "gradient_B")
    with monkeypatch.context() as patched:
        shapes = computed(model, patched)
        less = measure_statistics(model, needs, [batch], seed=3)
        assert (4, 5, 32) in shapes
    monkeypatch.setattr(targets, "_leaves_out", lambda model: False)
    shapes = computed(model, monkeypatch)
    whole = measure_statistics(model, needs, [batch], seed=3)
    assert set(shapes) == {(4, 6, 32)}
    for name, statistics in whole.items():
        for need in needs:
            torch.testing.assert_close(getattr(less[name], need), getattr(statistics, need))


def test_a_batch_may_name_its_logits_itself():
    model = with_lora()
    batch = batch_of_prompts()
    kept = torch.tensor([1, 2, 3, 4])
    named = batch | {"logits_to_keep": kept, "shift_labels": batch["labels"][:, kept + 1]}
    needs = ("U", "gradient_A")
    expected = measure_statistics(model, needs, [batch], seed=1)
    for name, statistics in measure_statistics(model, needs, [named], seed=1).items():
        torch.testing.assert_close(statistics.U, expected[name].U)
        torch.testing.assert_close(statistics.gradient_A, expected[name].gradient_A)


def test_a_model_that_cannot_leave_logits_out_computes_all():
    class Plain(nn.Module):
        def forward(self, input_ids):
            return type("Output", (), {"logits": torch.ones(*input_ids.shape, 3)})

    batch = batch_of_prompts()
    logits, following = logits_at_targets(
        Plain(), {"input_ids": batch["input_ids"]}, batch["labels"]
    )
    assert transformers_model(Plain()) is None
    assert logits.shape == (4, 5, 3)
    assert torch.equal(following, batch["labels"][:, 1:])
    assert logits_at_targets(nn.Identity(), {"input": torch.ones(1)}, batch["labels"])[0] is None
