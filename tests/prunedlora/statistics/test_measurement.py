"""Statistics of a trained adapter over a user's batches."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from transformers import BertConfig, BertForSequenceClassification, BertForTokenClassification

from prunedlora import find_lora_modules, get_criterion, reduce_adapter
from prunedlora.errors import ConfigurationError
from prunedlora.statistics.fisher_loss import fisher_loss
from prunedlora.statistics.measurement import measure_statistics
from tests.models import ids


def tokens(*, ignored: int = 0) -> dict[str, torch.Tensor]:
    batch = ids()
    labels = batch.clone()
    labels[:, :ignored] = -100
    return {"input_ids": batch, "labels": labels}


def bert(kind):
    config = BertConfig(
        vocab_size=32,
        hidden_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=16,
    )
    settings = LoraConfig(r=4, target_modules=["query"], init_lora_weights=False)
    return get_peft_model(kind(config), settings)


def test_the_gradient_is_the_mean_over_the_batches_of_the_models_own_loss(lora):
    model, batches = lora(), [tokens(), tokens()]
    found = measure_statistics(model, ("gradient_B",), batches)
    module = find_lora_modules(model)[0]
    model.eval()
    sum(model(**batch).loss / 2 for batch in batches).backward()
    torch.testing.assert_close(found[module.name].gradient_B, module.B.grad)


def test_the_default_fisher_counts_what_the_models_own_loss_counts(lora):
    model, batch = lora(), tokens(ignored=3)

    def by_hand(given, generator):
        logits = model(input_ids=given["input_ids"]).logits
        return fisher_loss(logits[:, :-1], given["labels"][:, 1:] != -100, generator)

    default = measure_statistics(model, ("U", "core_gradients"), [batch], seed=3)
    own = measure_statistics(model, ("U", "core_gradients"), [batch], fisher=by_hand, seed=3)
    everything = measure_statistics(model, ("U",), [batch | {"labels": batch["input_ids"]}], seed=3)
    for name, statistics in default.items():
        assert torch.equal(statistics.U, own[name].U)
        assert torch.equal(statistics.core_gradients, own[name].core_gradients)
        assert not torch.allclose(statistics.U, everything[name].U)


def test_a_classifier_needs_no_labels_for_its_fisher_matrix():
    model = bert(BertForSequenceClassification)
    found = measure_statistics(model, ("C_z", "U"), [{"input_ids": ids()}])
    assert all(statistics.U.any() for statistics in found.values())


def test_another_kind_of_head_is_refused_with_the_way_out():
    model = bert(BertForTokenClassification)
    with pytest.raises(ConfigurationError, match="pass fisher="):
        measure_statistics(
            model, ("U",), [{"input_ids": ids(), "labels": torch.zeros(4, 6, dtype=torch.long)}]
        )


@pytest.mark.parametrize("training", [True, False])
def test_the_model_is_left_in_the_mode_it_was_in_without_hooks_or_gradients(lora, training):
    model = lora(lora_dropout=0.5).train(training)
    hooks = sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())
    once, again = (
        measure_statistics(model, ("C_z", "gram_A"), [batch])
        for batch in [tokens()]
        for _ in range(2)
    )
    assert model.training is training
    assert sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules()) == hooks
    assert all(p.grad is None for p in model.parameters())
    assert all(torch.equal(once[name].C_z, again[name].C_z) for name in once)  # no dropout


def test_the_mode_and_the_hooks_come_back_after_an_error_too(lora):
    model = lora().train()
    with pytest.raises(RuntimeError, match="stop"):
        measure_statistics(
            model,
            ("C_z",),
            [tokens()],
            fisher=lambda *_: (_ for _ in ()).throw(RuntimeError("stop")),
        )
    assert model.training
    assert not any(m._forward_hooks for m in model.modules())


def test_a_generator_that_the_first_pass_has_used_up_is_noticed(lora):
    with pytest.raises(ConfigurationError, match="used up by the first pass"):
        measure_statistics(lora(), ("gram_B", "C_z"), (tokens() for _ in range(2)))


def test_a_module_that_the_loss_does_not_reach_is_named():
    model = nn.ModuleDict({"used": nn.Linear(4, 4), "unused": nn.Linear(4, 4)})
    model = get_peft_model(model, LoraConfig(r=2, target_modules=["used", "unused"]))
    layers = model.base_model.model
    with pytest.raises(ConfigurationError, match=r"does not reach .*unused"):
        measure_statistics(
            model, ("gram_B",), [torch.randn(3, 4)], loss=lambda x: layers["used"](x).sum()
        )


def test_an_adapter_loaded_for_inference_is_measured_and_stays_frozen(lora):
    model, batch = lora(), tokens()
    expected = measure_statistics(model, ("gram_B", "C_z"), [batch])
    for p in model.parameters():
        p.requires_grad_(False)
    found = measure_statistics(model, ("gram_B", "C_z"), [batch])
    assert not any(p.requires_grad for p in model.parameters())
    for name, statistics in found.items():
        torch.testing.assert_close(statistics.gram_B, expected[name].gram_B)
        torch.testing.assert_close(statistics.C_z, expected[name].C_z)


@pytest.mark.parametrize("needs", [("C_z", "everything"), ("gradient",)])
def test_needs_that_are_not_statistics_are_refused(lora, needs):
    with pytest.raises(ConfigurationError, match=f"not .*{needs[-1]}.*there are: gradient_B"):
        measure_statistics(lora(), needs, [tokens()])


@pytest.mark.parametrize("needs", [("gram_B",), ("C_z",)])
def test_a_batch_that_is_not_a_mapping_needs_functions_of_its_own(lora, needs):
    with pytest.raises(ConfigurationError, match="a batch is a Tensor, not a mapping"):
        measure_statistics(lora(), needs, [ids()])


def test_an_adapter_that_is_not_active_is_named_with_the_way_to_make_it_so(lora):
    model = lora()
    model.add_adapter("other", LoraConfig(r=2, target_modules=["q_proj"]))
    with pytest.raises(ConfigurationError, match="set_adapter"):
        measure_statistics(model, ("gram_B",), [tokens()], adapter="other")


def test_core_gradients_of_a_high_rank_are_measured_within_its_best_components(lora, monkeypatch):
    """With the same random numbers, moments and traces are those of a measurement of everything."""
    model, batches = lora(), [tokens(), tokens(ignored=2)]
    needs = ("C_z", "core_gradients")
    whole = measure_statistics(model, needs, batches, seed=3)
    monkeypatch.setattr("prunedlora.statistics.measurement.MAX_CORE", 2)
    reduced = measure_statistics(model, needs, batches, seed=3)
    for name, statistics in reduced.items():
        g = whole[name].core_gradients
        P, Q = statistics.core_columns.float(), statistics.core_rows.float()
        assert statistics.U is None
        torch.testing.assert_close(statistics.C_z, whole[name].C_z)
        torch.testing.assert_close(statistics.core_traces, g.diagonal(dim1=1, dim2=2).sum(-1))
        difference = statistics.core_gradients.float() - P.mT @ g @ Q.mT
        assert difference.norm() < 2**-7 * statistics.core_gradients.float().norm()


def test_svd_fisher_reduces_an_adapter_of_high_rank(lora, monkeypatch):
    """To a rank within the measured components by the fit, and above them by the Kronecker solution."""
    monkeypatch.setattr("prunedlora.statistics.measurement.MAX_CORE", 2)
    batches = [tokens() for _ in range(4)]
    for rank in (1, 3):
        model = lora()
        statistics = measure_statistics(model, get_criterion("svd_fisher").needs, batches)
        for options in ({}, {"mu": 0.1, "lam": 0.1}):
            reduced = copy.deepcopy(model)
            reduce_adapter(reduced, rank, "svd_fisher", statistics, options=options)
            assert {m.rank for m in find_lora_modules(reduced)} == {rank}
