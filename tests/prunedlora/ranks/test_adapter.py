"""An adapter in memory, reduced by every criterion: as the criterion says, at the scaling it had, or not at all."""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn

from prunedlora import available_criteria, find_lora_modules, truncate_adapter
from prunedlora.criteria import get_criterion
from prunedlora.errors import ConfigurationError, NonFiniteError, UnsupportedAdapterError
from prunedlora.factors import Factors
from prunedlora.ranks.adapter import reduce_adapter
from prunedlora.statistics.measurement import measure_statistics
from tests.models import ids, step, trainable
from tests.paths import ROOT


def batches(n: int = 3) -> list[dict[str, torch.Tensor]]:
    return [{"input_ids": tokens, "labels": tokens} for tokens in (ids() for _ in range(n))]


def weights(model: nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach().clone() for name, p in model.named_parameters()}


def change(module) -> torch.Tensor:
    return (module.scaling * module.B.double() @ module.A.double()).detach()


@pytest.mark.parametrize("name", available_criteria())
def test_every_criterion_leaves_what_it_reduces_to_and_nothing_else(lora, name):
    model, data = lora(), batches()
    criterion = get_criterion(name)
    statistics = measure_statistics(model, criterion.needs, data)
    before = {
        m.name: Factors(m.B.detach().clone(), m.A.detach().clone())
        for m in find_lora_modules(model)
    }
    scaling = {m.name: m.scaling for m in find_lora_modules(model)}
    ranks = reduce_adapter(model, 3, name, statistics)
    assert sum(ranks.values()) == 3 * len(ranks)
    for module in find_lora_modules(model):
        old = before[module.name]
        new = criterion.reduce(old, statistics[module.name], old.rank - ranks[module.name]).factors
        expected = scaling[module.name] * new.B.double() @ new.A.double()
        torch.testing.assert_close(change(module), expected, rtol=1e-4, atol=1e-7)
        assert module.rank == ranks[module.name]
        assert module.scaling == scaling[module.name]


def test_svd_is_what_truncate_adapter_does(lora):
    reduced = lora()
    truncated = copy.deepcopy(reduced)
    reduce_adapter(reduced, 2)
    truncate_adapter(truncated, 2)
    for a, b in zip(find_lora_modules(reduced), find_lora_modules(truncated), strict=True):
        torch.testing.assert_close(change(a), change(b), rtol=1e-5, atol=1e-8)
    assert reduced.peft_config["default"].r == truncated.peft_config["default"].r == 2


def test_data_is_measured_where_the_criterion_needs_it_and_gives_the_same_as_measuring_first(lora):
    measured, direct = lora(), lora()
    direct.load_state_dict(measured.state_dict())
    data = batches()
    statistics = measure_statistics(measured, get_criterion("svd_kfac").needs, data, seed=7)
    reduce_adapter(measured, 2, "svd_kfac", statistics)
    reduce_adapter(direct, 2, "svd_kfac", batches=data, seed=7)
    for a, b in zip(find_lora_modules(measured), find_lora_modules(direct), strict=True):
        assert torch.equal(a.B, b.B)
        assert torch.equal(a.A, b.A)


def test_one_budget_gives_unequal_ranks_that_the_configuration_names(lora):
    model = lora()
    first = find_lora_modules(model)[0]
    with torch.no_grad():
        first.B.mul_(100)
    ranks = reduce_adapter(model, 3, scope="global")
    assert ranks[first.name] == 8
    assert sum(ranks.values()) == 3 * len(ranks)
    config = model.peft_config["default"]
    assert {config.r, *config.rank_pattern.values()} == set(ranks.values())


def test_a_module_below_the_rank_keeps_its_components(lora):
    model = lora(rank_pattern={"q_proj": 2})
    small = [m for m in find_lora_modules(model) if m.rank == 2]
    before = {m.name: change(m) for m in small}
    ranks = reduce_adapter(model, 4)
    assert {ranks[m.name] for m in small} == {2}
    for module in small:
        torch.testing.assert_close(change(module), before[module.name])


def test_a_module_that_adds_nothing_is_shrunk_like_the_others(lora):
    model = lora()
    module = find_lora_modules(model)[0]
    with torch.no_grad():
        module.B.zero_()
    assert set(reduce_adapter(model, 3).values()) == {3}
    assert not module.B.any()


def test_random_components_need_no_data_and_depend_on_the_seed_only(lora):
    models = [lora() for _ in range(3)]
    for model in models[1:]:
        model.load_state_dict(models[0].state_dict())
    for model, seed in zip(models, (1, 1, 2), strict=True):
        reduce_adapter(model, 4, "random", seed=seed)
    kept = [torch.cat([m.B.flatten() for m in find_lora_modules(model)]) for model in models]
    assert torch.equal(kept[0], kept[1])
    assert not torch.equal(kept[0], kept[2])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"rank": 0}, "between 1 and 8"),
        ({"rank": 9}, "between 1 and 8"),
        ({"rank": 2, "criterion": "nothing"}, "no criterion 'nothing'"),
        ({"rank": 2, "options": {"dampin": 1}}, "no option dampin"),
        ({"rank": 2, "criterion": "kfac"}, "pass batches="),
        ({"rank": 2, "criterion": "kfac", "statistics": {}}, "there are no statistics of"),
        ({"rank": 2, "criterion": "kfac", "batches": []}, "no batch to measure"),
        (
            {"rank": 2, "criterion": "kfac", "batches": [{"input_ids": torch.tensor([[1, 2]])}]},
            "fisher=",
        ),
        (
            {
                "rank": 2,
                "criterion": "llmpruner2023",
                "batches": [{"input_ids": torch.tensor([[1, 2]])}],
            },
            "labels",
        ),
        ({"rank": 2, "criterion": "para2026", "scope": "module"}, "means scope='global'"),
        ({"rank": 2, "criterion": "random", "scope": "global"}, "cannot be compared"),
        ({"rank": 2, "adapter": "other"}, "no adapter 'other'"),
        ({"rank": 2, "min_rank": 0}, "at least 1"),
        ({"rank": 2, "scope": "global", "min_rank": 0}, "at least 1"),
        ({"rank": 2, "round_to": 0}, "at least 1"),
        ({"rank": 2, "scope": "global", "min_rank": 3}, "raise the rank or lower min_rank"),
    ],
)
def test_what_is_refused_changes_nothing(lora, arguments, message):
    model = lora()
    before = weights(model)
    with pytest.raises(ConfigurationError, match=message):
        reduce_adapter(model, **arguments)
    assert model.peft_config["default"].r == 8
    assert all(torch.equal(p, before[name]) for name, p in model.named_parameters())


@pytest.mark.parametrize("name", [n for n in available_criteria() if get_criterion(n).needs])
def test_statistics_of_another_rank_are_refused(lora, name):
    model, other = lora(), lora(r=6)
    statistics = measure_statistics(other, get_criterion(name).needs, batches(1))
    before = weights(model)
    with pytest.raises(ConfigurationError, match="does not fit rank 8; measure it"):
        reduce_adapter(model, 2, name, statistics)
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


def test_words_and_numbers_of_another_kind_are_refused():
    """In a process of its own: in this one the types themselves are checked."""
    code = """
import numpy
from prunedlora import reduce_adapter
from prunedlora.errors import ConfigurationError
from tests.models import with_lora
model = with_lora()
for wrong in ({"rank": 2.0}, {"rank": "2"}, {"rank": True}, {"scope": "globl"}, {"budget": "bytes"}):
    try:
        reduce_adapter(model, **{"rank": 2, **wrong})
    except ConfigurationError as error:
        assert str(error).startswith(f"{list(wrong)[0]} must be "), error
    else:
        raise AssertionError(wrong)
assert set(reduce_adapter(model, numpy.int64(2)).values()) == {2}
assert type(model.peft_config["default"].r) is int"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


@pytest.mark.parametrize("reduce", [truncate_adapter, reduce_adapter])
@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_an_adapter_that_was_reduced_without_gradients_can_still_be_trained(lora, reduce, mode):
    model = lora()
    with mode():
        reduce(model, 2)
    step(model, torch.optim.SGD(trainable(model), lr=0.1))
    assert all(m.A.grad is not None and m.A.grad.any() for m in find_lora_modules(model))


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_batches_are_measured_where_gradients_are_off(lora, mode):
    model, data = lora(), batches()
    with mode():
        assert set(reduce_adapter(model, 2, "kfac", batches=data).values()) == {2}


def test_one_bad_module_leaves_all_of_them_as_they_were(lora):
    model = lora()
    last = find_lora_modules(model)[-1]
    with torch.no_grad():
        last.A[0, 0] = float("nan")
    before = weights(model)
    with pytest.raises(NonFiniteError, match=r"layers\.1"):
        reduce_adapter(model, 2)
    for name, p in model.named_parameters():
        torch.testing.assert_close(p.detach(), before[name], rtol=0, atol=0, equal_nan=True)


def test_a_model_without_an_adapter_is_refused():
    with pytest.raises(UnsupportedAdapterError, match="no LoRA layer"):
        reduce_adapter(nn.Linear(2, 2), 1)
