"""Refining a smaller adapter towards the larger one: what is kept, and what stays as it is."""

import copy
import math

import pytest
import torch
import transformers
from peft import LoraConfig, get_peft_model
from transformers import BertConfig

from prunedlora import find_lora_modules, reduce_adapter, refine_adapter
from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.ranks import refinement
from prunedlora.ranks.refinement import counted_tokens, mean_divergence, refine
from tests.models import llama


def settings():
    """A configuration of its own for each adapter: cutting one changes its rank there."""
    return LoraConfig(
        r=6, lora_alpha=6, target_modules=["q_proj", "v_proj"], init_lora_weights=False
    )


@pytest.fixture
def both():
    """A model whose adapter was cut to rank 1, and the adapter as it was, under another name."""
    torch.manual_seed(0)
    model = get_peft_model(llama(), settings())
    model.add_adapter("large", settings())
    for own, large in zip(find_lora_modules(model), find_lora_modules(model, "large"), strict=True):
        with torch.no_grad():
            large.B.copy_(own.B)
            large.A.copy_(own.A)
    reduce_adapter(model, 1)
    vocabulary = model.config.vocab_size
    batches = [{"input_ids": torch.randint(vocabulary, (4, 8))} for _ in range(6)]
    return model, batches[:4], batches[4:]


def weights(model, adapter):
    return [t.clone() for m in find_lora_modules(model, adapter) for t in (m.B, m.A)]


def test_it_comes_nearer_and_nothing_else_moves(both):
    model, batches, held_out = both
    others = {n: p.clone() for n, p in model.named_parameters() if ".default." not in n}
    flags = {n: p.requires_grad for n, p in model.named_parameters()}
    model.train()
    found = refine_adapter(model, "large", batches, held_out, steps=30)
    assert found.after < 0.9 * found.before
    assert found.learning_rate in refinement.RATES
    assert model.training
    assert model.active_adapter == "default"
    assert {n: p.requires_grad for n, p in model.named_parameters()} == flags
    assert all(torch.equal(p, others[n]) for n, p in model.named_parameters() if n in others)
    assert {m.rank for m in find_lora_modules(model)} == {1}


def test_what_is_kept_has_the_loss_that_is_said(both):
    model, batches, held_out = both
    found = refine_adapter(model, "large", batches, held_out, steps=20, learning_rate=1e-3)
    again = refine_adapter(model, "large", batches, held_out, steps=1, learning_rate=1e-12)
    assert again.before == pytest.approx(found.after, rel=1e-6)
    assert 0 < found.after < found.before


def test_what_does_not_help_is_dropped(both):
    model, batches, held_out = both
    before = weights(model, "default")
    found = refine_adapter(model, "large", batches, held_out, steps=10, learning_rate=1e3)
    assert found.step == 0
    assert found.after == found.before > 0
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model, "default"), strict=True))


def test_labels_and_padding_say_which_tokens_count():
    logits = torch.zeros(1, 4, 3)
    labels = torch.tensor([[-100, -100, 2, -100]])
    assert counted_tokens({"labels": labels}, logits).tolist() == [[False, True, False, False]]
    mask = torch.tensor([[1, 1, 0, 0]])
    assert counted_tokens({"attention_mask": mask}, logits).tolist() == [[True, True, False, False]]
    assert counted_tokens({}, logits[:, 0]).tolist() == [True]


def test_the_divergence_is_that_of_the_distributions():
    student, teacher = torch.tensor([[0.0, 1.0]]), torch.tensor([[2.0, 0.0]])
    p, q = teacher.softmax(-1)[0], student.softmax(-1)[0]
    expected = sum(float(a) * math.log(float(a) / float(b)) for a, b in zip(p, q, strict=True))
    found = mean_divergence(student, teacher, torch.tensor([True]))
    assert float(found) == pytest.approx(expected, rel=1e-5)


def test_the_best_of_several_rates_is_taken():
    """A quadratic: from 1 to 0 in steps of about the rate."""
    parameter = torch.nn.Parameter(torch.ones(1))
    found = refine([parameter], lambda _: parameter.square().sum(), [0], [0], 80)
    assert found.learning_rate == max(refinement.RATES)
    steps = [step for step, _ in found.losses]
    assert steps == sorted(steps)
    assert steps[0] == 0
    assert steps[-1] == 80
    assert float(parameter.detach().square()) == pytest.approx(found.after)


def test_held_out_batches_are_looked_at_once_a_try_and_ten_times_on_the_way():
    parameter = torch.nn.Parameter(torch.ones(1))
    seen = []

    def loss(batch):
        seen.append(batch)
        return parameter.square().sum()

    refine([parameter], loss, ["trained"], ["held out"], 80)
    assert seen.count("held out") == 1 + len(refinement.RATES) + refinement.LOOKS
    assert seen.count("trained") == 80 + 10 * len(refinement.RATES)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"steps": 0}, "steps must be at least 1"),
        ({"held_out": []}, "held out"),
        ({"teacher": "default"}, "the same"),
    ],
)
def test_what_cannot_be_refined_is_refused_and_nothing_changes(both, change, says):
    model, batches, held_out = both
    before = weights(model, "default")
    given = {"teacher": "large", "batches": batches, "held_out": held_out, "steps": 5} | change
    with pytest.raises(ConfigurationError, match=says):
        refine_adapter(model, **given)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model, "default"), strict=True))


def test_a_copy_is_refined_alike(both):
    model, batches, held_out = both
    other = copy.deepcopy(model)
    one, two = (
        refine_adapter(m, "large", batches, held_out, steps=6, learning_rate=1e-3)
        for m in (model, other)
    )
    assert one == two
    assert one.after < one.before


@pytest.mark.parametrize("bad", ["batches", "held_out"])
def test_after_an_error_in_the_middle_everything_is_as_it_was(both, bad):
    model, batches, held_out = both
    before = weights(model, "default")
    flags = [p.requires_grad for p in model.parameters()]
    modes = [m.training for m in model.modules()]
    given = {"batches": list(batches), "held_out": list(held_out)}
    given[bad][-1] = {"input_ids": torch.full((1, 4), 10_000)}
    with pytest.raises(IndexError):
        refine_adapter(model, "large", **given, steps=8)
    assert all(torch.equal(a, b) for a, b in zip(before, weights(model, "default"), strict=True))
    assert [p.requires_grad for p in model.parameters()] == flags
    assert [m.training for m in model.modules()] == modes
    assert model.active_adapter == "default"


def test_a_loss_that_is_not_finite_is_an_error(both):
    model, batches, held_out = both
    none = [{**b, "labels": torch.full_like(b["input_ids"], -100)} for b in held_out]
    with pytest.raises(NonFiniteError, match="before anything is refined"):
        refine_adapter(model, "large", batches, none, steps=2)
    # One batch of which no token counts is passed over.
    mixed = [*batches, {**batches[0], "labels": torch.full_like(batches[0]["input_ids"], -100)}]
    assert refine_adapter(model, "large", mixed, held_out, steps=20).after > 0


def test_iterators_gradients_and_surroundings_without_gradients_do_no_harm(both):
    model, batches, held_out = both
    module = find_lora_modules(model)[0]
    module.B.grad = torch.ones_like(module.B)
    model.base_model.set_adapter(["default", "large"])
    with torch.inference_mode():
        found = refine_adapter(model, "large", iter(batches), iter(held_out), steps=30)
    assert found.after < 0.9 * found.before
    assert torch.equal(module.B.grad, torch.ones_like(module.B))
    assert model.base_model.active_adapters == ["default", "large"]


@pytest.mark.parametrize("kind", ["BertForMaskedLM", "BertForTokenClassification"])
def test_models_that_predict_something_else_are_refused(kind):
    small = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    plain = LoraConfig(r=2, target_modules=["query"], init_lora_weights=False)
    model = get_peft_model(getattr(transformers, kind)(small), plain)
    model.add_adapter("large", copy.deepcopy(plain))
    with pytest.raises(ConfigurationError, match=kind):
        refine_adapter(model, "large", [{}], [{}])
    with pytest.raises(ConfigurationError, match="the PeftModel itself"):
        refine_adapter(torch.nn.ModuleDict({"inner": model}), "large", [{}], [{}])
