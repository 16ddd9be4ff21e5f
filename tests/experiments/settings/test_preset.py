import pytest

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
