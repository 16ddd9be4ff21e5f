"""Tables that vary one thing each: their runs fit their schedules, and what must be there is there."""

import pytest

from experiments.settings.preset import PRESETS, load_preset
from experiments.tables import rules
from experiments.tables.labels import LORA, SKYLINE
from experiments.tables.runs import left_after_events
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged
from prunedlora import Schedule

SETTINGS = load_preset("cpu").ablations
STUDY = studies(load_preset("cpu"))["ablations"]
WITH_ABLATIONS = [
    name
    for name in sorted(f.stem for f in PRESETS.glob("*.yaml"))
    if load_preset(name).ablations is not None
]


def pruned(table):
    return [run for run in table.runs if run.method == "prune"]


@pytest.mark.parametrize("name", WITH_ABLATIONS)
@pytest.mark.parametrize("table", STUDY.tables)
def test_every_pruned_run_fits_its_schedule(name, table):
    made = studies(load_preset(name))["ablations"].tables[table](unchanged)
    for run in pruned(made):
        schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
        schedule.check(run.initial_rank, run.steps)


@pytest.mark.parametrize("table", ["table4", "table7", "figure3"])
def test_after_the_last_event_the_middle_share_of_the_learning_rate_is_left(table):
    for run in pruned(STUDY.tables[table](unchanged)):
        assert left_after_events(run) == pytest.approx(SETTINGS.share_left, abs=0.02)


@pytest.mark.parametrize("table", ["table6", "table7", "figure3", "when_to_prune"])
def test_the_paper_s_rule_is_there_as_printed_and_corrected_and_beside_chance(table):
    made = STUDY.tables[table](unchanged)
    recoveries = {
        run.options.get("recovery", "both")
        for run in pruned(made)
        if run.criterion == "prunedlora2025"
    }
    assert {"both", "half"} <= recoveries
    if table != "table6":
        assert any(run.criterion == "random" for run in pruned(made))
        assert made.gate == (LORA, SKYLINE)


def test_one_event_and_several_leave_as_much_of_the_learning_rate():
    made = STUDY.tables["when_to_prune"](unchanged)
    ending = f", {SETTINGS.share_left:.0%} left"
    cells = [row.cells[str(rules.SVD)] for row in made.rows if row.label.endswith(ending)]
    runs = [run for cell in cells for run in cell]
    assert {run.per_event for run in runs} == {7, 56}
    left = [left_after_events(run) for run in runs]
    assert left == pytest.approx([SETTINGS.share_left] * len(runs), abs=0.02)


def test_runs_that_the_fair_study_has_are_shared():
    """The same run under the same label in Table 7 and in the fair study is done once."""
    verdict = studies(load_preset("cpu"))["verdict"].tables["verdict"](unchanged)
    both = {row.label: row for row in verdict.rows}
    column = f"to {SETTINGS.target_rank}, {SETTINGS.share_left:.0%} left"
    for row in STUDY.tables["table7"](unchanged).rows:
        if row.label in both and "dynamic" in row.cells:
            keys = [run.key for run in row.cells["dynamic"]]
            assert keys == [run.key for run in both[row.label].cells[column]]


def test_all_criteria_are_there():
    runs = [run for build in STUDY.tables.values() for run in build(unchanged).runs]
    assert {"full", "lora", "truncate", "truncate_full", "prune"} == {r.method for r in runs}
    assert {
        "random",
        "magnitude",
        "wanda2024",
        "sparsegpt2023",
        "llmpruner2023",
        "prunedlora2025",
        "adalora2023",
        "kfac",
        "svd",
        "svd_kfac",
        "svd_fisher",
        "para2026",
    } <= {r.criterion for r in runs}
    assert {"keep", "reset", "follow"} == {r.moments for r in runs}
    assert {"global", ""} == {r.scope for r in runs}
