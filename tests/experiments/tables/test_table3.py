"""Table 3: which runs it asks for, and on what their learning rates are chosen."""

import pytest

from experiments.settings.preset import load_preset
from experiments.tables.runs import left_after_events
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged

CPU = load_preset("cpu").understanding
STUDY = studies(load_preset("cpu"))["understanding"]


def test_all_baselines_are_there_and_the_corrected_rule_beside_the_printed_one():
    runs = STUDY.tables["table3"](unchanged).runs
    assert {"untuned", "full", "lora", "dora", "adalora", "truncate", "prune"} == {
        r.method for r in runs
    }
    assert any(r.rslora for r in runs)
    pruned = [r for r in runs if r.method == "prune" and r.criterion == "prunedlora2025"]
    assert {r.initial_rank for r in pruned} == set(CPU.initial_ranks)
    assert {r.options.get("recovery", "both") for r in pruned} == {"both", "half"}
    assert any(r.criterion == "random" for r in runs)


def test_every_rule_has_as_many_events_and_as_much_of_the_learning_rate_left():
    runs = STUDY.tables["table3"](unchanged).runs
    gradual = [r for r in runs if r.method == "prune" and r.warmup_steps > 0]
    assert all(left_after_events(r) == pytest.approx(CPU.share_left, abs=0.02) for r in gradual)
    events = {-(-(r.initial_rank - r.target_rank) // r.per_event) for r in gradual}
    assert events == {CPU.events}


def test_the_learning_rate_of_least_validation_loss_is_chosen_on_the_first_task_and_seed():
    rates = CPU.learning_rates
    grid = STUDY.tuning.grid(STUDY.tables["table3"])
    assert {r.task for r in grid} == {CPU.tasks[0]}
    assert {r.seed for r in grid} == {CPU.seeds[0]}
    best = {r.key: (rates[-1] if r.method == "lora" else rates[0]) for r in grid}
    results = {
        r.key: {"validation": {"cross_entropy": 1e4 * abs(r.learning_rate - best[r.key])}}
        for r in grid
    }
    tune = STUDY.tuning.chooser(results)
    for run in STUDY.tables["table3"](tune).runs:
        trained = run.source if run.method.startswith("truncate") else run
        expected = {"lora": rates[-1], "untuned": CPU.run.learning_rate}.get(
            trained.method, rates[0]
        )
        assert run.learning_rate == expected
