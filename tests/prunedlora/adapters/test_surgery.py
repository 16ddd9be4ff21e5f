import copy

import pytest
import torch

from prunedlora import LoraRankPruner, PruneConfig, find_lora_modules, truncate, truncate_adapter
from prunedlora.adapters.surgery import shrink
from prunedlora.errors import ConfigurationError, UnsupportedOptimizerError
from tests.models import ids, step, trainable

OPTIMIZERS = {
    "adamw": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1),
    "amsgrad": lambda p: torch.optim.AdamW(p, lr=1e-2, weight_decay=0.1, amsgrad=True),
    "sgd": lambda p: torch.optim.SGD(p, lr=1e-2, momentum=0.9, weight_decay=0.1, nesterov=True),
    "rmsprop": lambda p: torch.optim.RMSprop(p, lr=1e-3, momentum=0.9, centered=True),
}


def masked(lora, make_optimizer, criterion="prunedlora2025"):
    """A model in the middle of training, rank 8 masked down to 4, with its pruner still attached."""
    model = lora()
    optimizer = make_optimizer(trainable(model))
    config = PruneConfig(
        target_rank=4, interval=2, per_event=2, warmup_steps=2, criterion=criterion
    )
    pruner = LoraRankPruner(model, optimizer, config, total_steps=100)
    for _ in range(6):
        step(model, optimizer)
    assert set(pruner.ranks.values()) == {4}
    return model, optimizer, pruner


def removed_components(pruner):
    return {
        name: sorted(j for e in pruner.events for j in e.removed[name]) for name in pruner.ranks
    }


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_no_removed_component_moves_in_fifty_further_steps(lora, name):
    model, optimizer, pruner = masked(lora, OPTIMIZERS[name])
    removed = removed_components(pruner)
    assert all(len(set(indices)) == 4 for indices in removed.values())
    before = {m.name: m.B.detach().clone() for m in pruner.modules}
    for _ in range(50):
        step(model, optimizer)
        for module in pruner.modules:
            assert not module.B[:, removed[module.name]].any()
            assert not module.A[removed[module.name]].any()
    assert all(not torch.equal(before[m.name], m.B) for m in pruner.modules)


def test_removed_components_stay_zero_by_themselves_once_their_momentum_is_gone(lora):
    model, optimizer, pruner = masked(lora, OPTIMIZERS["adamw"])
    removed = removed_components(pruner)
    pruner.close()
    for _ in range(50):
        step(model, optimizer)
    assert all(
        not m.B[:, removed[m.name]].any() and not m.A[removed[m.name]].any() for m in pruner.modules
    )


@pytest.mark.parametrize("criterion", ["random", "magnitude", "llmpruner2023", "prunedlora2025"])
def test_a_masked_and_a_shrunk_model_give_the_same_output(lora, criterion):
    model, _, pruner = masked(lora, OPTIMIZERS["adamw"], criterion)
    tokens = ids()
    scalings = {m.name: m.scaling for m in pruner.modules}
    before = model(input_ids=tokens).logits
    assert {m.rank for m in pruner.modules} == {8}
    pruner.finish()
    assert {m.rank for m in pruner.modules} == {4}
    assert {m.name: m.scaling for m in pruner.modules} == scalings
    torch.testing.assert_close(model(input_ids=tokens).logits, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_after_shrinking_training_goes_on_as_if_masked(lora, name):
    model, optimizer, pruner = masked(lora, OPTIMIZERS[name])
    twin, twin_optimizer = copy.deepcopy((model, optimizer))
    pruner.finish()
    assert {id(p) for g in optimizer.param_groups for p in g["params"]} == {
        id(p) for p in trainable(model)
    }
    assert set(optimizer.state) == set(trainable(model))
    for m, o in ((model, optimizer), (twin, twin_optimizer)):
        torch.manual_seed(5)
        for _ in range(5):
            step(m, o)
    tokens = ids()
    torch.testing.assert_close(
        model(input_ids=tokens).logits, twin(input_ids=tokens).logits, rtol=1e-4, atol=1e-5
    )


def test_an_optimiser_with_other_state_is_refused_before_anything_changes(lora):
    model = lora()
    optimizer = torch.optim.Adafactor(trainable(model))
    config = PruneConfig(target_rank=6, criterion="prunedlora2025", interval=1, warmup_steps=1)
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(UnsupportedOptimizerError, match="row_var"):
        LoraRankPruner(model, optimizer, config, total_steps=9)
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert not optimizer.state
    # Nothing of the pruner that could not be made is left behind.
    step(model, optimizer)
    LoraRankPruner(model, torch.optim.SGD(trainable(model), lr=0.1), config, total_steps=9).close()


def test_frozen_or_foreign_parameters_are_refused(lora):
    model = lora()
    config = PruneConfig(target_rank=4, criterion="prunedlora2025")
    with pytest.raises(ConfigurationError, match="does not train B"):
        LoraRankPruner(model, torch.optim.SGD(trainable(lora())), config, total_steps=99)
    optimizer = torch.optim.SGD(trainable(model))
    find_lora_modules(model)[0].A.requires_grad_(False)
    with pytest.raises(ConfigurationError, match="frozen"):
        LoraRankPruner(model, optimizer, config, total_steps=99)


def test_shrink_refuses_to_drop_weights_or_to_leave_nothing(lora):
    module = find_lora_modules(lora())[0]
    removed = torch.zeros(8, dtype=torch.bool)
    removed[3] = True
    with pytest.raises(ConfigurationError, match="not zero"):
        shrink(module, removed)
    with torch.no_grad():
        module.B.zero_()
        module.A.zero_()
    with pytest.raises(ConfigurationError, match="at least one"):
        shrink(module, torch.ones(8, dtype=torch.bool))


@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"alpha_pattern": {"q_proj": 3}}])
def test_truncate_adapter_is_the_best_approximation_at_equal_scaling(lora, settings):
    model = lora(**settings)
    before = {
        m.name: (m.B.detach().clone(), m.A.detach().clone(), m.scaling)
        for m in find_lora_modules(model)
    }
    truncate_adapter(model, 3)
    for module in find_lora_modules(model):
        B, A, scaling = before[module.name]
        left, right = truncate(B, A, 3)
        assert (module.rank, module.scaling) == (3, scaling)
        torch.testing.assert_close(module.B @ module.A, left @ right)


def test_truncate_adapter_changes_nothing_when_one_module_refuses(lora):
    model = lora(rank_pattern={"layers.1.self_attn.v_proj": 2})
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(ConfigurationError, match="between 1 and 2"):
        truncate_adapter(model, 3)
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
