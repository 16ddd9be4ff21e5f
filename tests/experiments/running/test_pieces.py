"""Pieces of a preset: every experiment is in one, what comes first pays for what is shared, and none is too long."""

import re
from dataclasses import replace
from typing import get_args

import pytest

from experiments.__main__ import Experiment
from experiments.running import dry_run, pieces, plan
from experiments.settings.preset import load_preset
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged

GPU = load_preset("gpu")
PIECE = re.compile(r"(\d+) x python -m experiments (.+) --only ([^:]+): (\d+) min, (\d+) runs")


def asked(lines):
    """Count, experiments, minutes and runs of every line that names pieces."""
    matches = [PIECE.fullmatch(line) for line in lines]
    return [(int(m[1]), m[3].split(), int(m[4]), int(m[5])) for m in matches if m]


def test_every_experiment_of_the_preset_is_in_one_piece():
    named = [name for names in GPU.pieces for name in names]
    tables = [name for study in studies(GPU).values() for name in study.tables]
    assert sorted(named) == sorted([*tables, "one_shot", "table2", "table8"])
    assert set(named) <= set(get_args(Experiment))


def test_the_headline_takes_four_pieces_and_the_rest_twelve_at_most():
    counts = [count for count, *_ in asked(pieces.lines(GPU))]
    assert len(counts) == len(GPU.pieces)
    assert sum(counts[:3]) <= 4
    assert sum(counts[3:]) <= 12


def test_the_benchmarks_are_the_first_piece_of_a_preset_that_has_pieces():
    first, *others = pieces.lines(GPU)
    assert first.startswith("1 x python -m experiments.benchmarks --minutes 8")
    # What the command line asks for by default.
    assert first == next(pieces.lines(GPU, plan.names(GPU)))
    assert not any("experiments.benchmarks" in line for line in others)
    assert not any("benchmarks" in line for line in pieces.lines(GPU, ["table1"]))
    assert not list(pieces.lines(load_preset("cpu")))


def test_only_what_is_asked_for_is_counted():
    report = dry_run.report(GPU, ["table1"])
    ((_, names, minutes, runs),) = asked(report.splitlines())
    assert names == ["table1"]
    assert runs == len(pieces.expected_runs(GPU, "table1"))
    assert minutes > 1
    assert len(dry_run.check(GPU, ["table1"])) < len(dry_run.check(GPU))
    assert "minilm" not in report.partition("Estimated")[0]


def test_the_runs_of_one_experiment_are_not_counted_for_the_next():
    alone = {tuple(n): runs for _, n, _, runs in asked(pieces.lines(GPU, ["table5"]))}
    after = {tuple(n): runs for _, n, _, runs in asked(pieces.lines(GPU, ["table1", "table5"]))}
    shared = {run.key for run in pieces.expected_runs(GPU, "table1")} & {
        run.key for run in pieces.expected_runs(GPU, "table5")
    }
    assert shared
    assert after[("table5",)] == alone[("table5",)] - len(shared)


def test_a_search_that_finds_its_first_rate_best_tries_its_neighbours_and_then_all_seeds():
    runs = pieces.expected_runs(GPU, "figure1")
    tried = [(r.learning_rate, r.seed) for r in runs if r.initial_rank == 8]
    assert sorted(tried) == [(2e-3, 0), (4e-3, 0), (4e-3, 1), (4e-3, 2), (8e-3, 0)]


def test_pieces_without_measured_times_are_refused():
    with pytest.raises(ValueError, match="measured times of smollm2"):
        list(pieces.lines(replace(GPU, estimates=load_preset("paper").estimates)))


def test_events_leave_a_quarter_of_the_learning_rate():
    runs = [
        run
        for study in studies(GPU).values()
        for name, build in study.tables.items()
        if name != "when_to_prune"  # whose subject are events that come late
        for run in build(unchanged).runs
        # What is pruned once has a tail of a given length.
        if run.method == "prune" and run.per_event < run.initial_rank - run.target_rank
    ]
    left = {run.key: dry_run.share_left_by(run) for run in runs}
    assert len(left) > 30
    assert min(left.values()) >= 0.25
    cpu = load_preset("cpu").understanding.run
    late = replace(cpu, method="prune", criterion="svd", initial_rank=64, target_rank=8)
    assert dry_run.share_left_by(late) < 0.05
