"""The phase diagram shares its runs with the fair study where they are the same."""

from experiments.settings.preset import load_preset
from experiments.tables import phase, verdict
from experiments.tables.tuning import unchanged

SETTINGS = load_preset("cpu").verdict


def test_what_the_fair_study_has_is_not_done_twice():
    both = phase.table(SETTINGS, unchanged)
    fair = verdict.table(SETTINGS, unchanged)
    name = phase.column_name(SETTINGS.run.task, SETTINGS.run.steps, 16)
    rows = {row.label: row.cells for row in fair.rows}
    for row in both.rows:
        assert row.cells[name] == rows[row.label]["to 16, 50% left"]


def test_the_rules_are_compared_with_each_other_and_not_only_with_lora():
    """On one spectrum the one is ahead, on another the other: differences from LoRA alone would not decide that."""
    assert (verdict.HALF, verdict.SVD) in phase.table(SETTINGS, unchanged).compare


def test_every_column_has_its_task_and_steps_and_a_schedule_that_fits():
    table = phase.table(SETTINGS, unchanged)
    assert len(table.columns) == len(SETTINGS.phase_tasks) * len(SETTINGS.phase_steps) * 3
    for row in table.rows:
        for name, runs in row.cells.items():
            for run in runs:
                assert name == phase.column_name(run.task, run.steps, run.target_rank)
