from dataclasses import asdict, replace

import pytest

from experiments.running.runner import Runner
from experiments.settings.jobs import RunConfig, build
from experiments.settings.preset import PRESETS, load_preset
from experiments.tables import math as math_tables
from experiments.tables.tuning import unchanged

NAMES = sorted(file.stem for file in PRESETS.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_loads_and_its_schedules_fit_into_training(name):
    from prunedlora import Schedule

    preset = load_preset(name)
    pruned = [run for run in math_tables.table5(preset.math, unchanged).runs if run.method == "prune"]
    assert pruned
    for run in pruned:
        schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
        schedule.check(run.initial_rank, run.steps)


def test_the_presets_named_in_the_manual_exist():
    assert NAMES == ["cpu", "gpu", "paper", "smoke"]
    with pytest.raises(ValueError, match="there are: cpu, gpu, paper, smoke"):
        load_preset("laptop")


def test_unknown_and_missing_keys_are_refused():
    with pytest.raises(ValueError, match=r"here: unknown key stepps"):
        build(RunConfig, {"model": "tiny", "task": "arithmetic", "stepps": 3}, "here")
    with pytest.raises(ValueError, match="task"):
        build(RunConfig, {"model": "tiny"}, "here")


def test_the_key_depends_on_every_setting_and_survives_json():
    run = RunConfig("tiny", "arithmetic", "prune", 8, 4, "magnitude")
    assert build(RunConfig, {**asdict(run), "target_modules": list(run.target_modules)}, "").key == run.key
    others = [replace(run, seed=1), replace(run, steps=101), replace(run, criterion="random"), run.source]
    assert len({r.key for r in [run, *others]}) == 5
    assert len({Runner(load_preset("smoke"), False, 1).file(r) for r in [run, *others]}) == 5
