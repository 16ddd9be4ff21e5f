"""Tables 1 and 5: which rows there are, at which rank and rate, and what is made of their results."""

import json
from dataclasses import replace

import numpy as np

from experiments.reporting.table import Table, cells
from experiments.reporting.writing import compared, difference_frame, sentences, write
from experiments.settings.preset import load_preset
from experiments.tables import math as math_tables
from experiments.tables.labels import LORA, SKYLINE, UNTUNED, pruned_by, truncated_by
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged
from paper_figures import rank_and_loss

SMOKE = load_preset("smoke").math


def result(run, share: float) -> dict:
    return {
        "accuracy": share,
        "interval": [0.1, 0.9],
        "cross_entropy": 1 - share / 2,
        "correct": "1" * round(100 * share) + "0" * (100 - round(100 * share)),
        "losses": (1 - share / 2 + 0.01 * np.random.default_rng(0).standard_normal(100)).tolist(),
        "train_loss": [2.0, 1.0] if run.method in ("lora", "prune") else [],
        "events": [{"step": 2, "ranks": {"q": run.target_rank}}] if run.method == "prune" else [],
    }


def results(table: Table) -> dict[str, dict]:
    shares = {"prunedlora2025": 0.9, "magnitude": 0.3}

    def share(run) -> float:
        if run.method == "untuned":
            return 0.0
        return 0.8 if run.options else shares.get(run.criterion, 0.6)

    return {r.key: result(r, share(r)) for r in table.runs}


def test_table_1_is_from_the_least_initial_rank_and_table_5_from_all():
    one, five = math_tables.table1(SMOKE, unchanged), math_tables.table5(SMOKE, unchanged)
    assert one.columns == ["from rank 6"]
    assert five.columns == ["from rank 6", "from rank 8"]
    assert {r.key for r in one.runs} < {r.key for r in five.runs}
    labels = [row.label for row in five.rows]
    assert labels[:2] == [UNTUNED, LORA]
    assert labels == list(dict.fromkeys(labels))
    assert {
        SKYLINE,
        truncated_by("svd_fisher"),
        pruned_by("random"),
        "full fine-tuning",
        "DoRA",
    } < set(labels)
    for row in five.rows:
        for column, (run, *_) in row.cells.items():
            initial = int(column.removeprefix("from rank "))
            assert run.target_rank == {UNTUNED: 0, "full fine-tuning": 0, SKYLINE: initial}.get(
                row.label, 4
            )
            if run.method in ("prune", "truncate") or row.label == SKYLINE:
                assert run.initial_rank == initial


def test_every_row_is_tried_at_every_rate_of_the_grid_and_baselines_that_are_not_asked_for_are_not():
    settings = replace(SMOKE, baselines=("rslora",), criteria=("svd",), truncations=("svd",))
    study = studies(replace(load_preset("smoke"), math=settings))["math"]
    grid = study.tuning.grid(study.tables["table1"], study.tables["table5"])
    assert {r.method for r in grid} == {"lora", "prune"}
    kinds = {replace(r, learning_rate=0.0).key for r in grid}
    assert (
        len(grid) == 2 * len(kinds) == 2 * (2 + 2 + 2)
    )  # LoRA, rsLoRA; two skylines; svd from two ranks


def test_figure_2_is_a_run_of_table_1():
    (run,) = math_tables.figure2(SMOKE, unchanged).runs
    assert run in math_tables.table1(SMOKE, unchanged).runs
    assert run.criterion == "prunedlora2025"
    note = math_tables.figure2(SMOKE, unchanged).note
    assert f"every {run.interval} steps" in note
    assert f"from rank {run.initial_rank} to {run.target_rank}" in note


def test_the_text_follows_the_numbers(tmp_path):
    table = math_tables.table1(SMOKE, unchanged)
    found = results(table)
    text = sentences(table, found)
    assert "from rank 6: not known from one seed (nothing is judged)" in text[0]
    assert "highest accuracy pruned by prunedlora2025 (90.0 %)" in text[1]
    differences = difference_frame(compared(table, cells(table, found)))
    pair = (pruned_by("prunedlora2025"), truncated_by("svd"))
    line = differences.set_index(["loss of", "less that of"]).loc[pair]
    assert line["from rank 6"].startswith("-0.15")
    markdown, csv, _ = write(table, found, tmp_path, "Somewhere.")
    assert "| pruned by magnitude" in markdown.read_text()
    assert "69.21" in markdown.read_text()
    assert len(csv.read_text().splitlines()) == len(table.rows) + 1


def test_rank_and_loss_are_drawn(tmp_path):
    table = math_tables.table1(SMOKE, unchanged)
    found = results(table)
    for run in table.runs:
        (tmp_path / f"{run.key}.json").write_text(
            json.dumps({"config": vars(run), "result": found[run.key]})
        )
    for file in rank_and_loss.draw(list(tmp_path.glob("*.json")), tmp_path / "figures"):
        assert file.stat().st_size > 5_000
