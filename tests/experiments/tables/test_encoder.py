"""Tables of runs: which runs they ask for, how learning rates are chosen, and what is written about numbers."""

import pytest

from experiments.settings.preset import PRESETS, load_preset
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged
from prunedlora import Schedule

WITH_ENCODER = [
    name
    for name in sorted(f.stem for f in PRESETS.glob("*.yaml"))
    if load_preset(name).encoder is not None
]
CPU = load_preset("cpu").encoder
STUDY = studies(load_preset("cpu"))["encoder"]


@pytest.mark.parametrize("name", WITH_ENCODER)
@pytest.mark.parametrize("table", STUDY.tables)
def test_every_pruned_run_fits_its_schedule(name, table):
    made = studies(load_preset(name))["encoder"].tables[table](unchanged)
    for run in made.runs:
        if run.method == "prune":
            schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
            schedule.check(run.initial_rank, run.steps)


def test_all_rules_and_baselines_are_there():
    runs = [run for build in STUDY.tables.values() for run in build(unchanged).runs]
    assert {"untuned", "full", "lora", "dora", "adalora", "truncate", "truncate_full", "prune"} == {
        r.method for r in runs
    }
    rules = {r.criterion for r in runs if r.criterion}
    assert {
        "random",
        "magnitude",
        "wanda2024",
        "sparsegpt2023",
        "llmpruner2023",
        "prunedlora2025",
    } < rules
    assert {"svd", "svd_kfac", "svd_fisher", "para2026", "kfac", "adalora2023"} < rules
    assert any(r.rslora for r in runs)
    assert {"keep", "reset", "follow"} == {r.moments for r in runs}


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
