"""Some committed runs once more: which, and what is said of their numbers."""

from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

from experiments.folders import RESULTS
from experiments.reporting import agreement
from experiments.running import quick
from experiments.running.runner import file_of
from experiments.settings.preset import load_preset
from experiments.settings.selection import Part, load_selection, reduced_preset
from experiments.tables import one_budget
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged
from tests.experiments.reporting.test_agreement import NUMBER
from theory.records import from_json, to_json, write_atomically

SELECTION = load_selection()
CPU = load_preset("cpu")
PRESET = reduced_preset(SELECTION, CPU)


@pytest.fixture(scope="module")
def everything():
    """All that is asked for, with the learning rates of the committed results."""
    return quick.asked(
        SELECTION, PRESET, quick.runner_of(SELECTION, PRESET), quick.names(SELECTION)
    )


def test_every_run_is_a_committed_one_with_the_same_settings(everything):
    assert len(everything.runs) > 20
    for run in everything.runs:
        file = RESULTS / "cpu" / file_of(run)
        assert file.exists()
        assert from_json(file.read_text())["config"]["learning_rate"] == run.learning_rate
        assert run.seed == 0


def test_every_number_of_a_table_has_the_committed_ones_of_all_seeds(everything):
    for table in everything.tables:
        for row in table.rows:
            for runs in row.cells.values():
                assert len(runs) >= 3
                assert all((RESULTS / "cpu" / file_of(run)).exists() for run in runs)


def test_what_the_paper_is_about_is_among_the_rows(everything):
    (verdict,) = (table for table in everything.tables if table.name == "verdict")
    methods = {(run.method, run.criterion, str(run.options)) for run in verdict.runs}
    assert ("prune", "prunedlora2025", "{}") in methods
    assert ("prune", "prunedlora2025", "{'recovery': 'half'}") in methods
    assert {criterion for _, criterion, _ in methods} >= {"random", "svd"}
    assert {run.method for run in verdict.runs} >= {"lora", "prune", "truncate"}
    assert {run.initial_rank for run in verdict.runs if run.method == "lora"} == {8, 64}


def test_only_some_of_it_can_be_asked_for():
    runner = quick.runner_of(SELECTION, PRESET)
    some = quick.asked(SELECTION, PRESET, runner, ["table3"])
    assert [table.name for table in some.tables] == ["table3"]
    assert not some.theory
    assert not some.one_shot
    theory = quick.asked(SELECTION, PRESET, runner, ["theory"])
    assert theory.theory
    assert not theory.runs


@pytest.mark.parametrize(
    ("part", "message"),
    [
        (
            Part(rows=("pruned by chance",)),
            "table3 has no row 'pruned by chance'; there are: .*LoRA",
        ),
        (Part(columns=("chess",)), "table3 has no column 'chess'; there are: movie_reviews"),
    ],
)
def test_a_cell_that_is_not_there_is_an_error(part, message):
    selection = replace(SELECTION, tables={"table3": part})
    with pytest.raises(ValueError, match=message):
        quick.asked(selection, PRESET, quick.runner_of(SELECTION, PRESET), ["table3"])


def test_a_table_that_is_not_there_is_an_error():
    selection = replace(SELECTION, tables={"table9": Part()})
    with pytest.raises(ValueError, match="cpu has no table table9"):
        quick.asked(selection, PRESET, quick.runner_of(SELECTION, PRESET), ["table9"])
    with pytest.raises(ValueError, match="one_shot: cpu has no experiment gpt"):
        reduced_preset(replace(SELECTION, one_shot={"gpt": {}}), CPU)


def test_settings_without_committed_results_are_an_error():
    other = replace(PRESET, understanding=replace(PRESET.understanding, learning_rates=(0.5, 0.6)))
    with pytest.raises(ValueError, match=r"no committed result cpu/runs/.*json: the settings"):
        quick.asked(SELECTION, other, quick.runner_of(SELECTION, PRESET), ["table3"])


def test_a_number_made_wrong_on_purpose_is_found_and_said(tmp_path, capsys):
    right = agreement.compare([NUMBER])
    assert quick.report(right, tmp_path) == 0
    assert not (tmp_path / "differences.md").exists()
    assert "1 numbers: 1 agrees" in capsys.readouterr().out

    wrong = agreement.compare([NUMBER, replace(NUMBER, here=0.7, cell="to 8: kfac, seed 0")])
    assert quick.report(wrong, tmp_path) == 1
    said = capsys.readouterr().out
    assert said.rstrip().endswith(f"What differs: {tmp_path / 'differences.md'}")
    listed = (tmp_path / "differences.md").read_text()
    assert "kfac" in listed
    assert "svd" not in listed
    assert pd.read_csv(tmp_path / "comparison.csv")["verdict"].tolist() == ["agrees", "differs"]

    # It is gone once nothing differs.
    assert quick.report(right, tmp_path) == 0
    assert not (tmp_path / "differences.md").exists()


def test_runs_that_are_there_are_compared_without_being_done(tmp_path, monkeypatch, capsys):
    runner = quick.runner_of(SELECTION, PRESET)
    runner.folder = tmp_path
    monkeypatch.setattr(runner, "_run", lambda run: pytest.fail(f"did {run}"))
    what = quick.asked(SELECTION, PRESET, runner, ["table3"])
    damaged = what.runs[0]
    for run in what.runs:
        record = from_json((RESULTS / "cpu" / file_of(run)).read_text())
        if run is damaged:
            record["result"]["cross_entropy"] += 1.0
        write_atomically(tmp_path / file_of(run), to_json(record))
    assert "nothing is computed" in quick.plan(SELECTION, what, runner)
    assert quick.run(SELECTION, what, runner) == 1
    assert "1 differs" in capsys.readouterr().out


def test_one_shot_numbers_stand_beside_those_of_the_same_rule_and_seed():
    row = {
        "criterion": "svd",
        "recovery": "own",
        "options": {},
        "rank": 4,
        "test_increase": 0.03,
        "test_standard_error": 0.01,
    }
    environment = from_json(next((RESULTS / "cpu" / "one_shot").glob("minilm*")).read_text())

    def record(seed, increase):
        rows = [row | {"test_increase": increase}, row | {"rank": 2, "options": {"damping": 1.0}}]
        config = {"run": {"seed": seed}}
        return {**environment, "config": config, "result": {"rows": rows}}

    committed = {0: record(0, 0.02), 1: record(1, 0.04)}
    first, second = quick.one_shot_numbers("minilm", [record(0, 0.03)], committed)
    assert first.cell == "rank 4: svd, recovery own, seed 0"
    assert (first.here, first.committed, first.over_seeds) == (0.03, 0.02, (0.02, 0.04))
    assert first.error == 0.01
    assert second.cell == "rank 2: svd, damping 1.0, recovery own, seed 0"


def test_the_adapter_of_the_one_shot_experiment_is_the_committed_one():
    (training,) = (run for run, _, _ in quick.runner_of(SELECTION, PRESET).one_shot_jobs("minilm"))
    assert (RESULTS / "cpu" / file_of(training)).exists()
    whole = CPU.one_shot["minilm"]
    part = PRESET.one_shot["minilm"]
    assert part.calibration_examples == whole.calibration_examples
    assert set(part.ranks) <= set(whole.ranks)
    assert set(part.truncation_ranks) <= set(whole.truncation_ranks)


def test_the_runs_of_a_part_are_those_of_the_whole_table():
    whole = one_budget.table(CPU.verdict, unchanged)
    part = whole.part(["LoRA at the target rank"], [])
    assert [row.label for row in part.rows] == ["LoRA at the target rank"]
    (row,) = (row for row in whole.rows if row.label == "LoRA at the target rank")
    assert part.rows[0].cells == row.cells


def test_rows_that_are_not_selected_need_no_committed_result(monkeypatch):
    """A new row of a table does not stop what is compared of the old ones."""
    study = studies(CPU)["understanding"]
    rows = ["LoRA at the target rank"]
    selection = replace(SELECTION, tables={"table3": Part(rows=tuple(rows))})
    (table,) = quick._tables(selection, study, ["table3"], RESULTS / "cpu")
    expected = {run.key: run.learning_rate for run in table.runs}
    # All other rows vanish from what is committed.
    kept = {file_of(run) for run in study.tuning.grid(lambda tune: tune(table.runs[0]))}
    kept |= {
        file_of(replace(run, learning_rate=r.learning_rate))
        for run in table.runs
        for r in table.runs
    }
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda file: f"runs/{file.name}" in kept and exists(file))
    (again,) = quick._tables(selection, study, ["table3"], RESULTS / "cpu")
    assert {run.key: run.learning_rate for run in again.runs} == expected


def test_a_committed_statement_that_was_not_verified_here_differs():
    here = quick._verdicts(quick.STATEMENTS)
    assert {c.verdict for c in quick._of_statements(here)} == {"agrees"}
    lost = next(iter(here))
    del here[lost]
    (differing,) = (c for c in quick._of_statements(here) if c.verdict != "agrees")
    assert (differing.cell, differing.verdict) == (lost, "differs")
    assert quick._of_statements({}) == []
