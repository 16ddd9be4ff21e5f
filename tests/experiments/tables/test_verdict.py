"""The fair study: its schedules, and which runs it asks for."""

import pytest

from experiments.finetuning.learning_rate import cosine_with_warmup
from experiments.settings.preset import load_preset
from experiments.tables import verdict
from experiments.tables.labels import LORA, SKYLINE
from experiments.tables.tuning import unchanged
from prunedlora import Schedule
from prunedlora.training.learning_rate import share_left

SETTINGS = load_preset("cpu").verdict
TABLE = verdict.table(SETTINGS, unchanged)


def last_event(run):
    schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
    return schedule.events(run.initial_rank)[-1]


@pytest.mark.parametrize("share", SETTINGS.shares)
def test_the_last_event_leaves_the_share_that_the_column_says(share):
    run = next(
        run
        for row in TABLE.rows
        for name, cell in row.cells.items()
        for run in cell
        if name == f"to 8, {share:.0%} left" and run.method == "prune"
    )
    factor = cosine_with_warmup(run.steps)
    step, rank = last_event(run)
    assert rank == 8
    assert share_left([factor(i) for i in range(run.steps)], step) == pytest.approx(share, abs=0.01)


def test_all_rows_of_a_column_have_one_schedule_and_as_many_events():
    for column in TABLE.columns:
        cells = [row.cells[column] for row in TABLE.rows if column in row.cells]
        runs = [run for cell in cells for run in cell if run.method == "prune"]
        assert len({(r.interval, r.per_event, r.warmup_steps, r.target_rank) for r in runs}) == 1
        events = Schedule(
            runs[0].target_rank, runs[0].interval, runs[0].per_event, runs[0].warmup_steps
        ).events(runs[0].initial_rank)
        assert len(events) == SETTINGS.events
        assert {r.seed for r in runs} == set(SETTINGS.seeds)


def test_what_is_not_pruned_is_trained_once_for_all_schedules():
    rows = {row.label: row for row in TABLE.rows}
    for label in (LORA, SKYLINE):
        early, late = (rows[label].cells[f"to 8, {share:.0%} left"] for share in (0.8, 0.2))
        assert early == late


def test_random_choice_is_a_row_with_and_without_recovery():
    assert {verdict.RANDOM, verdict.RANDOM_HALF} <= {row.label for row in TABLE.rows}
