"""What a step and a whole run are compared with is what they say."""

from dataclasses import replace

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from experiments.benchmarks import step, whole_run
from experiments.benchmarks.statistics import needs_of
from experiments.benchmarks.training import (
    Shape,
    attention_flops,
    model_and_optimizer,
    step_bytes,
    step_flops,
    stepper,
)
from prunedlora.adapters.modules import find_lora_modules

TINY = Shape(16, 24, 2, 4, 2, 32, batch=2, length=6)
ABLE = {"bytes_per_second": 1.0, "flops_per_second": 1.0}


def test_the_shape_is_that_of_the_model():
    model, _ = model_and_optimizer(TINY, 3, "cpu")
    modules = find_lora_modules(model)
    assert len(modules) == TINY.modules
    assert 3 * TINY.adapted_width == sum(m.B.numel() + m.A.numel() for m in modules)
    assert TINY.linear == [tuple(m.layer.weight.shape) for m in modules[:7]]


@pytest.mark.parametrize("rank", [2, 5])
def test_the_operations_of_a_step_are_those_that_torch_counts(rank):
    model, optimizer = model_and_optimizer(TINY, rank, "cpu")
    with FlopCounterMode(display=False) as counter:
        stepper(model, optimizer, TINY, "cpu")()
    # Attention is one operation on a CPU, which the counter does not know.
    assert counter.get_total_flops() == step_flops(TINY, rank) - attention_flops(TINY)


def test_the_floor_grows_with_the_rank_and_with_statistics():
    assert step_bytes(TINY, 4, "cpu") - step_bytes(TINY, 2, "cpu") == 2 * 40 * TINY.adapted_width
    assert step.statistics_flops((), TINY, 4) == step.statistics_bytes((), TINY, 4) == 0
    gram = needs_of("prunedlora2025")
    assert step.statistics_flops(gram, TINY, 4) == 2 * 16 * TINY.adapted_width
    assert step.statistics_bytes(gram, TINY, 4) > 4 * 4 * TINY.adapted_width
    assert step.statistics_flops(("C_z",), TINY, 4) == 2 * TINY.tokens * 16 * TINY.modules


def test_a_step_with_every_pruner_is_timed():
    times = step.measure(TINY, 4, 2, "cpu")
    assert all(len(pairs) == 2 for pairs in times.values())
    rows = step.report(times, TINY, 4, ABLE, "cpu")
    assert rows["LoRA"]["floor_seconds"] == step_flops(TINY, 4)
    assert rows["kfac"]["collects"] == ["C_z", "U"]
    assert rows["kfac"]["floor_ratio"] > 1 == rows["svd"]["floor_ratio"]
    for name, row in rows.items():
        if name != "LoRA":
            assert row["reached"] == (row["ratio"] <= row["goal"])


def test_a_pruner_of_the_benchmark_collects_at_the_step_that_is_timed(monkeypatch):
    collected = []
    update = step.LoraRankPruner.__dict__["_before_step"]

    def watched(self, *args):
        update(self, *args)
        collected.append(self.statistics(self.modules[0]).gram_B)

    monkeypatch.setattr(step.LoraRankPruner, "_before_step", watched)
    monkeypatch.setattr(step, "available_criteria", lambda: ["prunedlora2025"])
    step.measure(TINY, 4, 1, "cpu")
    assert [gram.shape for gram in collected] == [(4, 4)]


@pytest.fixture(scope="module")
def setting():
    return whole_run.Setting(TINY, 16, 2, interval=1, tail=1)


def test_whole_runs_end_at_the_low_rank_beside_lora(setting):
    found = whole_run.runs(setting, ["magnitude"], "cpu")
    rows = whole_run.report(setting, found, ABLE, "cpu")
    assert list(rows) == ["LoRA, rank 2", "LoRA, rank 16", "magnitude"]
    pruned = found["magnitude"]
    assert pruned.pruner.events[-1].step == setting.steps - setting.tail
    assert all(module.rank == 2 for module in find_lora_modules(pruned.model))
    assert rows["LoRA, rank 2"]["floor_times_low"] == 1
    assert 1 < rows["magnitude"]["floor_times_low"] < rows["LoRA, rank 16"]["floor_times_low"]
    # Weights, gradients and two moments; and one number for the steps of each factor.
    trained = 16 * TINY.adapted_width
    counters = 4 * 2 * TINY.modules
    assert rows["LoRA, rank 2"]["held"][-1] == 2 * trained + counters
    assert rows["LoRA, rank 16"]["held"][-1] == 16 * trained + counters
    assert rows["magnitude"]["held"][0] == 16 * trained + counters
    # At the end the gradients are gone, until the next step.
    assert rows["magnitude"]["held_at_the_end"] == 2 * trained * 3 // 4 + counters


def test_memory_falls_only_where_less_is_held_after_the_last_event(setting):
    found = whole_run.runs(setting, ["magnitude"], "cpu")
    for last, falls in ((found["LoRA, rank 2"].held[-1], True), (10**9, False)):
        found["magnitude"].held[-1] = last
        rows = whole_run.report(setting, found, ABLE, "cpu")
        assert rows["magnitude"]["falls"] is falls


def test_what_a_pruner_collects_is_counted(setting):
    found = whole_run.runs(replace(setting, tail=0), ["adalora2023"], "cpu")
    averages = 2 * 4 * 16 * TINY.adapted_width
    assert found["adalora2023"].held[0] == found["LoRA, rank 16"].held[0] + averages


def test_the_ranks_of_steps_follow_the_schedule(setting):
    ranks = setting.ranks()
    assert len(ranks) == setting.steps
    assert ranks[:3] == [16, 16, 15]  # the first event is at step 2, after its forward pass
    assert ranks[-1] == 2
    assert torch.tensor(ranks).diff().max() <= 0
