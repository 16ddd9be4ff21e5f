import copy

import pytest
import torch
from torch import nn

from prunedlora import LoraRankPruner, PruneConfig, find_lora_modules
from prunedlora.errors import (
    ConfigurationError,
    NonFiniteError,
    PruningIncompleteError,
    UnsupportedAdapterError,
)
from tests.models import ids, llama, step, trainable

CONFIG = PruneConfig(
    target_rank=2, criterion="prunedlora2025", interval=3, per_event=2, warmup_steps=2
)


def adamw(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(trainable(model), lr=1e-3)


def hooks(optimizer: torch.optim.Optimizer) -> int:
    return len(optimizer._optimizer_step_pre_hooks) + len(optimizer._optimizer_step_post_hooks)


@pytest.mark.supports("AdamW", "none", "own loop", "float32")
def test_events_happen_when_and_as_planned(lora):
    model = lora(zero_B=True)
    optimizer = adamw(model)
    with LoraRankPruner(model, optimizer, CONFIG, total_steps=12) as pruner:
        for _ in range(12):
            step(model, optimizer)
    assert [(e.step, set(e.ranks.values())) for e in pruner.events] == [
        (5, {6}),
        (8, {4}),
        (11, {2}),
    ]
    assert {m.rank for m in find_lora_modules(model)} == {2}
    assert hooks(optimizer) == 0


def test_modules_of_different_ranks_all_reach_the_target(lora):
    model = lora(rank_pattern={"layers.1.self_attn.v_proj": 5})
    optimizer = adamw(model)
    with LoraRankPruner(model, optimizer, CONFIG, total_steps=12) as pruner:
        for _ in range(12):
            step(model, optimizer)
    odd = "base_model.model.model.layers.1.self_attn.v_proj"
    assert [e.ranks[odd] for e in pruner.events] == [3, 2, 2]
    assert {m.rank for m in find_lora_modules(model)} == {2}


def test_the_rank_is_lowered_before_the_step_by_the_gradients_of_that_step(lora):
    model = lora()
    optimizer = torch.optim.SGD(trainable(model), lr=0.0)
    config = PruneConfig(target_rank=6, criterion="llmpruner2023", interval=1, warmup_steps=1)
    before = {
        m.name: (m.B.detach().clone(), m.A.detach().clone()) for m in find_lora_modules(model)
    }
    with LoraRankPruner(model, optimizer, config, total_steps=2) as pruner:
        step(model, optimizer)
        optimizer.zero_grad()
        tokens = ids()
        model(input_ids=tokens, labels=tokens).loss.backward()
        expected = {}
        for m in pruner.modules:
            B, A = before[m.name]
            scores = (B * m.B.grad).abs().sum(0) + (A * m.A.grad).abs().sum(1)
            expected[m.name] = scores.argsort()[:2].tolist()
        optimizer.step()
    assert pruner.events[0].removed == expected


def test_accumulated_micro_batches_count_once_and_choose_alike(lora):
    chosen = []
    for parts in (1, 2):
        torch.manual_seed(3)
        model = lora()
        optimizer = adamw(model)
        with LoraRankPruner(model, optimizer, CONFIG, total_steps=11) as pruner:
            for _ in range(11):
                optimizer.zero_grad()
                for chunk in ids(4).chunk(parts):
                    (model(input_ids=chunk, labels=chunk).loss / parts).backward()
                optimizer.step()
        chosen.append([event.removed for event in pruner.events])
    assert chosen[0] == chosen[1]


def test_decay_averages_the_gram_matrices_over_steps(lora):
    model = lora()
    optimizer = adamw(model)
    config = PruneConfig(
        target_rank=6, criterion="prunedlora2025", interval=4, warmup_steps=0, decay=0.5
    )
    pruner = LoraRankPruner(model, optimizer, config, total_steps=4)
    module, grams = pruner.modules[0], []
    for _ in range(3):
        step(model, optimizer)
        grams.append(module.B.grad.mT @ module.B.grad)
    expected = (grams[0] / 8 + grams[1] / 4 + grams[2] / 2) / (1 / 8 + 1 / 4 + 1 / 2)
    measured = pruner.statistics(module).gram_B
    torch.testing.assert_close(measured.float(), expected)


def test_the_random_criterion_depends_on_the_seed_only(lora):
    def removed(seed: int) -> list:
        model = lora()
        optimizer = adamw(model)
        config = PruneConfig(
            target_rank=4, criterion="random", interval=2, warmup_steps=1, seed=seed
        )
        with LoraRankPruner(model, optimizer, config, total_steps=8) as pruner:
            for _ in range(8):
                step(model, optimizer)
        return [event.removed for event in pruner.events]

    assert removed(1) == removed(1) != removed(2)


@pytest.mark.parametrize(
    ("config", "steps", "match"),
    [
        (PruneConfig(target_rank=8), 999, "below the initial rank"),
        (PruneConfig(target_rank=9), 999, "below the initial rank"),
        (CONFIG, 10, "the last at step 11, but training has 10 steps"),
    ],
)
def test_impossible_plans_are_refused_and_leave_no_hooks(lora, config, steps, match):
    model = lora()
    optimizer = adamw(model)
    with pytest.raises(ConfigurationError, match=match):
        LoraRankPruner(model, optimizer, config, total_steps=steps)
    assert hooks(optimizer) == 0


def test_a_model_without_lora_is_refused():
    model = llama()
    with pytest.raises(UnsupportedAdapterError):
        LoraRankPruner(model, torch.optim.SGD(model.parameters()), CONFIG, total_steps=99)


def test_training_that_ends_early_is_an_error_with_the_reason(lora):
    model = lora()
    optimizer = adamw(model)
    pruner = LoraRankPruner(model, optimizer, CONFIG, total_steps=12)
    for _ in range(9):
        step(model, optimizer)
    with pytest.raises(PruningIncompleteError, match=r"2 of 3 .* after 9 of 12 .* due at step 11"):
        pruner.finish()
    assert hooks(optimizer) == 0
    assert {m.rank for m in pruner.modules} == {8}


def test_finishing_at_the_last_event_frees_memory_and_training_goes_on_as_if_it_had_not(lora):
    def trained(early: bool) -> tuple[nn.Module, list[int]]:
        torch.manual_seed(0)
        model = lora()
        optimizer = adamw(model)
        held = []
        with LoraRankPruner(model, optimizer, CONFIG, total_steps=16) as pruner:
            for _ in range(16):
                step(model, optimizer)
                if early and pruner.complete:
                    pruner.finish()
                held.append(sum(t.numel() for s in optimizer.state.values() for t in s.values()))
        return model, held

    (late_model, late), (early_model, early) = trained(False), trained(True)
    assert late[-1] == late[0] == early[9]
    # After the last of three events, at step 11, a quarter of both moments; and the numbers of steps.
    assert early[10] < 0.3 * late[10]
    for a, b in zip(find_lora_modules(late_model), find_lora_modules(early_model), strict=True):
        torch.testing.assert_close(a.B @ a.A, b.B @ b.A)


def test_an_exception_in_the_loop_passes_and_removes_the_hooks(lora):
    model = lora()
    optimizer = adamw(model)

    def diverge() -> None:
        with LoraRankPruner(model, optimizer, CONFIG, total_steps=12):
            for _ in range(12):
                step(model, optimizer, factor=float("nan"))

    with pytest.raises(NonFiniteError):
        diverge()
    assert hooks(optimizer) == 0


@pytest.mark.parametrize("criterion", ["magnitude", "prunedlora2025"])
@pytest.mark.parametrize("factor", [float("nan"), float("inf")])
def test_gradients_that_are_not_finite_are_an_error_before_anything_changes(
    lora, criterion, factor
):
    model = lora()
    optimizer = adamw(model)
    config = PruneConfig(target_rank=6, criterion=criterion, interval=1, warmup_steps=1)
    pruner = LoraRankPruner(model, optimizer, config, total_steps=9)
    step(model, optimizer)
    weights = copy.deepcopy(model.state_dict())
    with pytest.raises(NonFiniteError, match="step 2"):
        step(model, optimizer, factor)
    assert all(torch.equal(weights[k], v) for k, v in model.state_dict().items())
    assert pruner.events == []


def test_gradients_that_were_not_finite_before_an_event_are_an_error_at_it(lora):
    model = lora()
    optimizer = adamw(model)
    config = PruneConfig(
        target_rank=6, criterion="adalora2023", interval=2, warmup_steps=2, per_event=2, window=2
    )
    pruner = LoraRankPruner(model, optimizer, config, total_steps=9)
    for factor in (1.0, 1.0, float("inf")):
        step(model, optimizer, factor)
    with pytest.raises(NonFiniteError, match="at optimiser step 3 "):
        step(model, optimizer)
    assert pruner.events == []


def test_gradients_whose_squares_overflow_are_finite(lora):
    model = lora()
    optimizer = adamw(model)
    config = PruneConfig(
        target_rank=6, criterion="magnitude", interval=1, warmup_steps=1, per_event=2
    )
    pruner = LoraRankPruner(model, optimizer, config, total_steps=9)
    step(model, optimizer)
    step(model, optimizer, 1e30)
    assert len(pruner.events) == 1


def test_missing_gradients_and_a_zero_B_are_errors(lora):
    model = lora(zero_B=True)
    optimizer = torch.optim.SGD(trainable(model), lr=0.0)
    config = PruneConfig(target_rank=6, criterion="magnitude", interval=1, warmup_steps=1)
    LoraRankPruner(model, optimizer, config, total_steps=9)
    step(model, optimizer)
    with pytest.raises(ConfigurationError, match="still zero"):
        step(model, optimizer)
    optimizer.zero_grad()
    with pytest.raises(ConfigurationError, match="no gradient"):
        optimizer.step()


def test_weights_written_from_outside_are_noticed(lora):
    model = lora()
    optimizer = adamw(model)
    early = copy.deepcopy(model.state_dict())
    pruner = LoraRankPruner(model, optimizer, CONFIG, total_steps=12)
    for _ in range(12):
        step(model, optimizer)
    last = pruner.modules[-1]
    with torch.no_grad():
        last.B.copy_(early[f"{last.name}.lora_B.default.weight"])
    with pytest.raises(ConfigurationError, match="load_best_model_at_end"):
        pruner.finish()
    assert {m.rank for m in pruner.modules} == {8}


@pytest.mark.supports("AdamW", "none", "own loop", "gradient scaler")
def test_a_step_that_the_gradient_scaler_skips_does_not_count(lora):
    model = lora()
    optimizer = adamw(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    pruner = LoraRankPruner(model, optimizer, CONFIG, total_steps=12)
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        tokens = ids()
        scaler.scale(factor * model(input_ids=tokens, labels=tokens).loss).backward()
        scaler.step(optimizer)
        scaler.update()
    assert pruner.step == 2


def test_fused_unscaling_is_refused_and_fused_skipping_is_not_counted(lora):
    model = lora()
    optimizer = torch.optim.AdamW(trainable(model), fused=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0)
    pruner = LoraRankPruner(model, optimizer, CONFIG, total_steps=12)
    for factor in (1.0, float("inf"), 1.0):
        optimizer.zero_grad()
        tokens = ids()
        scaler.scale(factor * model(input_ids=tokens, labels=tokens).loss).backward()
        scaler.unscale_(optimizer)
        scaler.step(optimizer)
        scaler.update()
    assert pruner.step == 2
    scaler.scale(model(input_ids=tokens, labels=tokens).loss).backward()
    with pytest.raises(ConfigurationError, match="unscale_"):
        scaler.step(optimizer)


@pytest.mark.parametrize("moments", ["follow", "keep", "reset"])
def test_the_optimisers_state_follows_stays_or_starts_anew(lora, moments):
    model = lora()
    optimizer = adamw(model)
    config = PruneConfig(
        target_rank=6, criterion="svd", interval=1, warmup_steps=1, moments=moments
    )
    with LoraRankPruner(model, optimizer, config, total_steps=2) as pruner:
        step(model, optimizer)
        module = pruner.modules[0]
        before, A = optimizer.state[module.A]["exp_avg"].clone(), module.A
        step(model, optimizer)
        state, removed = optimizer.state[A], ~A.any(dim=1)
        old = (state["exp_avg"] - 0.1 * A.grad) / 0.9
        assert removed.sum() == 2
        assert not state["exp_avg"][removed].any()
        assert state["step"] == (1 if moments == "reset" else 2)
        unmoved = before.masked_fill(removed.unsqueeze(1), 0.0)
        if moments == "reset":
            torch.testing.assert_close(old, torch.zeros_like(old), atol=1e-8, rtol=0)
        else:
            assert torch.allclose(old, unmoved, atol=1e-7) == (moments == "keep")
            assert old[~removed].any()
