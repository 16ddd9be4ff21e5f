"""The preset ``quick``: some runs once more, each number beside the committed one; see `settings.selection`."""

import math
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from experiments.folders import RESULTS, ROOT, places
from experiments.jobs.one_shot import variants
from experiments.reporting import agreement
from experiments.reporting.agreement import Comparison, Number
from experiments.reporting.table import Table
from experiments.reporting.writing import write_csv
from experiments.running.durations import Durations
from experiments.running.progress import in_words
from experiments.running.runner import Runner, file_of
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Preset
from experiments.settings.selection import NAME, Selection
from experiments.tables.studies import studies
from experiments.tables.study import Study
from prunedlora.criteria import get_criterion
from theory.records import from_json, write_atomically

#: Committed results of the statements.
STATEMENTS = ROOT / "theory" / "results" / "statements.json"
#: Stands for the result of a run that is not committed: rows that are not selected may have such.
NOT_DONE = {"validation": {"cross_entropy": math.inf}}
#: What ``--only`` may name besides tables.
ONE_SHOT = "one_shot"
THEORY = "theory"


@dataclass(frozen=True)
class Asked:
    """What of a selection is asked for.

    Attributes:
        tables: with the runs of all committed seeds.
        runs: that are done: of the tables, of the seeds of the selection; and trainings for one-shot experiments.
        one_shot: names of one-shot experiments.
        theory: whether statements are verified.
    """

    tables: tuple[Table, ...]
    runs: tuple[RunConfig, ...]
    one_shot: tuple[str, ...]
    theory: bool


def runner_of(
    selection: Selection,
    preset: Preset,
    fresh: bool = False,
    workers: int | None = None,
    minutes: float = math.inf,
) -> Runner:
    """A runner that takes no result from the committed ones, but knows how long those took; see `Runner`."""
    runner = Runner(preset, fresh, workers, minutes, replace(places(NAME), reference=None))
    runner.durations = Durations(RESULTS / selection.of)
    return runner


def names(selection: Selection) -> list[str]:
    """What ``--only`` may name."""
    return [
        *selection.tables,
        *([ONE_SHOT] if selection.one_shot else []),
        *([THEORY] if selection.theory else []),
    ]


def asked(selection: Selection, preset: Preset, runner: Runner, only: Sequence[str]) -> Asked:
    """What is done, with the learning rates that the committed results choose.

    Args:
        selection: of runs.
        preset: that they are of, with the one-shot experiments of the selection.
        runner: of the selection.
        only: what is asked for, see `names`.

    Raises:
        ValueError: a table, row or column that the preset does not have, or a committed result that is missing.
    """
    tables: list[Table] = []
    for study in studies(preset).values():
        chosen = [name for name in study.tables if name in selection.tables and name in only]
        tables += _tables(selection, study, chosen, RESULTS / selection.of)
    missing = {name for name in selection.tables if name in only} - {t.name for t in tables}
    if missing:
        raise ValueError(f"{selection.of} has no table {', '.join(sorted(missing))}")
    one_shot = tuple(preset.one_shot) if ONE_SHOT in only else ()
    runs = [run for table in tables for run in table.runs if run.seed in selection.seeds]
    runs += [training for name in one_shot for training, _, _ in runner.one_shot_jobs(name)]
    each = {run.key: run for run in runs}
    return Asked(tuple(tables), tuple(each.values()), one_shot, THEORY in only)


def _tables(
    selection: Selection, study: Study, chosen: Sequence[str], committed: Path
) -> Iterator[Table]:
    """The parts of a study's tables that are selected, whose runs must all be committed."""
    if not chosen:
        return

    def results_of(runs: list[RunConfig]) -> dict[str, dict[str, Any]]:
        files = {run.key: committed / file_of(run) for run in runs}
        return {
            key: from_json(file.read_text())["result"] if file.exists() else NOT_DONE
            for key, file in files.items()
        }

    builders = [study.tables[name] for name in chosen]
    tune = study.chosen_rates(builders, results_of)
    for name, build in zip(chosen, builders, strict=True):
        part = selection.tables[name]
        table = build(tune).part(part.rows, part.columns)
        for run in table.runs:
            _committed(committed, run)
        yield table


def _committed(folder: Path, run: RunConfig) -> dict[str, Any]:
    file = folder / file_of(run)
    if not file.exists():
        raise ValueError(
            f"no committed result {file.relative_to(folder.parent)}: the settings of the preset are not those of its "
            "results"
        )
    return from_json(file.read_text())


def plan(selection: Selection, what: Asked, runner: Runner) -> str:
    """What will be done and for how long, in a few lines."""
    train, start = runner.to_do(list(what.runs))
    todo = [*train, *start]
    waiting = list(_one_shot_to_do(RESULTS / selection.of, what, runner))
    verifies = what.theory and runner.is_missing(_statements(runner))
    seconds = sum(runner.durations.of(run) or 0.0 for run in todo) / runner.workers
    # Statements are verified beside the measurement of one-shot pruning.
    proving = from_json(STATEMENTS.read_text())["seconds"] if verifies else 0.0
    seconds += max(sum(waiting), proving)
    parts = [f"{len(todo)} runs of preset {selection.of}"] if todo else []
    parts += ["one-shot pruning of a trained adapter by every rule"] if waiting else []
    parts += ["the statements of theory/"] if verifies else []
    if not parts:
        return "Everything is there, nothing is computed; --fresh does it again."
    kept = len(what.runs) - len(todo)
    there = f" {kept} runs are there from before; --fresh does them again." if kept > 0 else ""
    return (
        f"To do: {', '.join(parts)}.{there}\n"
        f"About {in_words(seconds)}, {runner.workers} at a time, by what committed runs took."
    )


def _statements(runner: Runner) -> Path:
    """Where the verdicts on the statements lie, or will."""
    return runner.folder / "theory" / "statements.json"


def _one_shot_to_do(committed: Path, what: Asked, runner: Runner) -> Iterator[float]:
    """Seconds of each measurement that is to be made: an evaluation for every rule and rank."""
    for name in what.one_shot:
        for training, config, file in runner.one_shot_jobs(name):
            if not runner.is_missing(file):
                continue
            settings = config["one_shot"]
            rotates = [get_criterion(variant.criterion).rotates for variant in variants()]
            count = sum(
                len(settings["truncation_ranks"] if rotating else settings["ranks"])
                for rotating in rotates
            )
            # The statistics are collected by a pass forward and back over the calibration sentences.
            share = (settings["calibration_scored"] + training.test_examples) * count
            share += 3 * settings["calibration_examples"]
            record = _committed(committed, training)
            yield record["result"]["evaluation_seconds"] * share / training.test_examples


def run(selection: Selection, what: Asked, runner: Runner) -> int:
    """Do what is asked for and compare it; 1 where something differs, else 0."""
    committed = RESULTS / selection.of
    runner.results(list(what.runs))
    here = {run.key: record for run, record in runner.records(list(what.runs))}
    numbers: list[Number] = []
    for table in what.tables:
        known = {r.key: _committed(committed, r) for r in table.runs}
        numbers += agreement.numbers_of(table, here, known)
    with _verified(runner, what.theory) as statements:
        for name in what.one_shot:
            records = runner.one_shot(name)
            numbers += one_shot_numbers(name, records, _one_shot_records(committed, name))
    comparisons = [*agreement.compare(numbers), *_of_statements(statements)]
    return report(comparisons, runner.folder)


def report(comparisons: Sequence[Comparison], out: Path) -> int:
    """Print and write the comparisons; 1 where something differs, else 0.

    Args:
        comparisons: of everything that was done.
        out: folder that they are written to.
    """
    differing = [c for c in comparisons if c.verdict == "differs"]
    text = agreement.markdown(comparisons)
    heading = f"# Numbers of this machine beside the committed ones\n\n{agreement.summary(comparisons)}.\n\n"
    note = agreement.__doc__ or ""
    write_atomically(out / "comparison.md", f"{heading}{text}\n{note.partition(chr(10) * 2)[2]}")
    write_csv(out / "comparison.csv", agreement.frame(comparisons))
    differences = out / "differences.md"
    differences.unlink(missing_ok=True)
    print(f"\n{text}\n{agreement.summary(comparisons)}.")
    print(f"All of them: {_shown(out / 'comparison.md')}")
    if not any(c.verdict == "agrees" for c in comparisons):
        print("Nothing could be compared: the committed results are missing, or of other settings.")
        return 1
    if not differing:
        return 0
    write_atomically(differences, f"# What differs\n\n{agreement.markdown(differing)}")
    print(f"What differs: {_shown(differences)}")
    return 1


def _shown(file: Path) -> Path:
    return file.relative_to(ROOT) if file.is_relative_to(ROOT) else file


def one_shot_numbers(
    name: str, records: Sequence[Mapping[str, Any]], committed: Mapping[int, Mapping[str, Any]]
) -> list[Number]:
    """The increase of the test loss by every rule, rank and kind of recovery.

    Args:
        name: of the experiment.
        records: of the adapters that were measured here.
        committed: records of the experiment, by the seed of their adapters.
    """
    rows_of = {seed: _by_rule(record) for seed, record in committed.items()}
    numbers = []
    for record in records:
        seed = record["config"]["run"]["seed"]
        alike = seed in committed and agreement.same_machine(record, committed[seed])
        for cell, row in _by_rule(record).items():
            other = rows_of.get(seed, {}).get(cell)
            numbers.append(
                Number(
                    f"one_shot_{name}",
                    f"{cell}, seed {seed}",
                    row["test_increase"],
                    None if other is None else other["test_increase"],
                    tuple(rows[cell]["test_increase"] for rows in rows_of.values() if cell in rows),
                    error=row["test_standard_error"],
                    same_machine=alike,
                )
            )
    return numbers


def _by_rule(record: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """The rows of a record by what they are called."""
    rows = {}
    for row in record["result"]["rows"]:
        options = "".join(f", {key} {value}" for key, value in row["options"].items())
        rows[f"rank {row['rank']}: {row['criterion']}{options}, recovery {row['recovery']}"] = row
    return rows


def _one_shot_records(committed: Path, name: str) -> dict[int, dict[str, Any]]:
    files = sorted((committed / "one_shot").glob(f"{name}_seed*.json"))
    records = [from_json(file.read_text()) for file in files]
    return {record["config"]["run"]["seed"]: record for record in records}


@contextmanager
def _verified(runner: Runner, wanted: bool) -> Iterator[dict[str, str]]:
    """Verify the statements in a process beside what is done meanwhile; their verdicts are there afterwards."""
    file = _statements(runner)
    verdicts: dict[str, str] = {}
    if not wanted or not runner.is_missing(file):
        yield verdicts
        verdicts |= _verdicts(file) if wanted else {}
        return
    print("theory: its statements are verified meanwhile", flush=True)
    runner.log.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "theory", "--out", str(file.parent)]
    # The committed results were made on one thread; what is measured meanwhile has its own.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    # What an earlier call has left would pass for the results of this one.
    file.unlink(missing_ok=True)
    with runner.log.open("ab") as log:
        process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environment)
    try:
        yield verdicts
        status = process.wait()
    finally:
        process.terminate()
    # 1 is that of a statement that is not what it claims to be, which the comparison says.
    if status not in (0, 1) or not file.exists():
        raise SystemExit(
            f"python -m theory ended with status {status}, see the end of {runner.log}"
        )
    verdicts |= _verdicts(file)


def _verdicts(file: Path) -> dict[str, str]:
    return {one["key"]: one["verdict"] for one in from_json(file.read_text())["statements"]}


def _of_statements(here: Mapping[str, str]) -> list[Comparison]:
    if not here:
        return []
    committed = _verdicts(STATEMENTS)
    # One that is committed and was not verified here differs, too.
    return [
        agreement.of_words("theory", key, here.get(key, "not there"), committed.get(key))
        for key in {**committed, **here}
    ]
