"""What is said of a preset before it begins."""

from dataclasses import replace

import pytest

from experiments.running import plan
from experiments.running.pieces import expected_runs
from experiments.running.progress import in_words
from experiments.running.runner import Runner
from experiments.settings.preset import load_preset
from theory.records import write_atomically

SMOKE = load_preset("smoke")


@pytest.fixture
def runner(tmp_path):
    made = Runner(SMOKE, False, 1)
    made.folder, made.artifacts, made.reference = tmp_path / "results", tmp_path / "artifacts", None
    return made


def test_all_experiments_of_a_preset_are_named_and_no_others():
    assert {"table1", "table2", "table8", "one_shot", "verdict"} <= set(plan.names(SMOKE))
    assert "low_rank" not in plan.names(SMOKE)
    assert "table8" not in plan.names(replace(SMOKE, table8=None))


def test_what_is_missing_is_counted_and_nothing_is_said_of_unknown_time(runner):
    said = plan.text(SMOKE, ["figure3"], runner)
    assert said.startswith("Preset smoke: ")
    assert "runs are to be done, 1 at a time." in said
    assert "about" not in said


def test_a_measurement_brings_the_training_that_it_needs(runner):
    assert plan.text(SMOKE, ["one_shot"], runner).startswith(
        "Preset smoke: 1 of 1 runs are to be done and 1 measurements are to be made"
    )
    ((_, _, file),) = runner.one_shot_jobs("tiny_bert")
    write_atomically(file, "{}")
    assert "all 0 runs are there, nothing is computed" in plan.text(SMOKE, ["one_shot"], runner)


def test_the_committed_preset_has_nothing_to_do():
    cpu = load_preset("cpu")
    said = plan.text(cpu, ["table3", "table8"], Runner(cpu, False, 1))
    assert "runs are there, nothing is computed" in said


def test_time_is_estimated_by_committed_runs_and_shared_among_workers():
    cpu = load_preset("cpu")
    one, two = (Runner(cpu, True, workers) for workers in (1, 2))
    seconds = sum(one.durations.of(run) for run in expected_runs(cpu, "table3"))
    assert seconds > 3600
    assert f"about {in_words(seconds)} in all" in plan.text(cpu, ["table3"], one)
    said = plan.text(cpu, ["table3"], two)
    assert f"about {in_words(seconds / 2)} in all" in said
    assert "2 at a time" in said
