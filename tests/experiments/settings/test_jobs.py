from dataclasses import asdict, replace

import pytest

from experiments.running.runner import Runner
from experiments.settings.jobs import RunConfig, build
from experiments.settings.preset import load_preset
from tests.experiments.finetuning.runs import BASE


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


def test_settings_that_came_later_leave_the_names_of_older_results_as_they_are():
    assert BASE.key == replace(BASE, length_groups=1).key != replace(BASE, length_groups=2).key
