"""Tables of runs: which runs they ask for, how learning rates are chosen, and what is written about numbers."""

from functools import partial

import pytest

from experiments.settings.preset import PRESETS, load_preset
from experiments.tables import encoder
from experiments.tables.tuning import unchanged
from prunedlora import Schedule

WITH_STUDY = [n for n in sorted(f.stem for f in PRESETS.glob("*.yaml")) if load_preset(n).study is not None]


@pytest.mark.parametrize("name", WITH_STUDY)
@pytest.mark.parametrize("table", encoder.TABLES)
def test_every_pruned_run_fits_its_schedule_and_labels_are_unique(name, table):
    made = encoder.TABLES[table](load_preset(name), unchanged)
    assert len({row.label for row in made.rows}) == len(made.rows)
    assert {label for pair in made.compare for label in pair} <= {row.label for row in made.rows}
    assert all(row.cells for row in made.rows)
    for run in made.runs:
        if run.method == "prune":
            schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
            schedule.check(run.initial_rank, run.steps)


def test_all_rules_and_baselines_are_there():
    preset = load_preset("cpu")
    made = [build(preset, unchanged) for build in encoder.TABLES.values()]
    runs = [run for table in made for run in table.runs]
    assert {"untuned", "full", "lora", "dora", "adalora", "truncate", "truncate_full", "prune"} == {
        r.method for r in runs
    }
    rules = {r.criterion for r in runs if r.criterion}
    assert {"random", "magnitude", "wanda2024", "sparsegpt2023", "llmpruner2023", "prunedlora2025"} < rules
    assert {"svd", "svd_kfac", "svd_fisher", "para2026", "kfac", "adalora2023"} < rules
    assert any(r.rslora for r in runs)
    assert {"keep", "reset", "follow"} == {r.moments for r in runs}


def test_the_learning_rate_of_least_validation_loss_is_chosen_on_the_first_task_and_seed():
    preset = load_preset("cpu")
    rates = preset.study.learning_rates
    grid = encoder.tuning(preset).grid(partial(encoder.table3, preset))
    assert {r.task for r in grid} == {preset.study.tasks[0]}
    assert {r.seed for r in grid} == {preset.study.seeds[0]}
    best = {r.key: (rates[-1] if r.method == "lora" else rates[0]) for r in grid}
    results = {r.key: {"validation": {"cross_entropy": 1e4 * abs(r.learning_rate - best[r.key])}} for r in grid}
    tune = encoder.tuning(preset).chooser(results)
    for run in encoder.table3(preset, tune).runs:
        trained = run.source if run.method.startswith("truncate") else run
        expected = {"lora": rates[-1], "untuned": preset.study.run["learning_rate"]}.get(trained.method, rates[0])
        assert run.learning_rate == expected
