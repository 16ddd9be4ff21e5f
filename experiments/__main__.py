"""Run the experiments of a preset: missing runs, tables, figures."""

import math
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Literal

import torch
import tyro

from experiments.folders import ROOT, Places, places
from experiments.reporting import page
from experiments.reporting.table import Table
from experiments.reporting.writing import first_table, write
from experiments.running import dry_run, plan, quick
from experiments.running.runner import Runner
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Preset, Table2, Table8, load_preset, one_shot_runs
from experiments.settings.selection import NAME as QUICK
from experiments.settings.selection import load_selection, reduced_preset
from experiments.tables import one_shot, refined, table2, table8
from experiments.tables.labels import CONT_SQUEEZE
from experiments.tables.studies import studies
from experiments.tables.study import Study
from paper_figures import (
    figure1,
    figure2,
    figure3,
    frontier,
    phase,
    rank_and_loss,
    rank_per_layer,
    verdict,
)

Experiment = Literal[
    "table1",
    "table5",
    "low_rank",
    "table2",
    "one_shot",
    "table3",
    "table4",
    "table6",
    "table7",
    "table8",
    "figure1",
    "figure2",
    "figure3",
    "when_to_prune",
    "language",
    "code",
    "verdict",
    "phase",
    "initial_rank",
    "one_budget",
    "theory",
]
#: Method and criterion of the run of Table 7 whose rank per layer is drawn.
PARA_RUN = ("prune", "para2026")


@dataclass
class Arguments:
    """Regenerate the paper's tables and figures.

    Attributes:
        preset: quick (some runs of cpu, compared with the committed ones), smoke (tiny random models), cpu (real
            packaged models), gpu, or paper.
        only: experiments to run; all that the preset has by default.
        fresh: redo runs whose results exist.
        dry_run: only check the preset and say what it takes.
        workers: runs done at the same time, each on its share of the cores; ``auto`` for one on each core of a CPU, and
            as many as the memory of a GPU allows; times of runs are comparable for 1 only. By default ``auto`` for
            quick, else 1.
        minutes: start no run after so many, and stop; run again to go on.
        processes: among which the training of every run is shared by ``accelerate launch``, one for each GPU; the
            preset's if not given.
        update_reference: write to the committed results and figures; everything else goes to ``experiments/runs``.
    """

    preset: Literal["quick", "smoke", "cpu", "gpu", "paper"] = "quick"
    only: tuple[Experiment, ...] = ()
    fresh: bool = False
    dry_run: bool = False
    workers: int | Literal["auto"] | None = None
    minutes: float = math.inf
    processes: int | None = None
    update_reference: bool = False


def main(arguments: Arguments) -> int:
    """Do what is missing, then print the tables and where the files are; 1 where quick finds a difference, else 0."""
    if arguments.preset == QUICK:
        return do_quick(arguments)
    where = places(arguments.preset, arguments.update_reference)
    preset = _loaded(arguments)
    workers = None if arguments.workers == "auto" else arguments.workers or 1
    runner = Runner(preset, arguments.fresh, workers, arguments.minutes, where)

    # What is asked for is said, and whether it can be done, before anything begins.
    only = _only(arguments, plan.names(preset))
    print(plan.text(preset, only, runner), flush=True)
    if arguments.dry_run:
        print(dry_run.report(preset, only))
        return 0
    if not preset.isolated:
        # Such models are too small for several threads, which cost most where other programs run.
        torch.set_num_threads(1)
    do_preset(preset, only, runner, where)
    return 0


def do_quick(arguments: Arguments) -> int:
    """Some runs once more, beside the committed results; 1 where something differs, else 0."""
    if arguments.update_reference:
        raise SystemExit("preset quick compares with committed results; it is cpu that can update")
    workers = None if arguments.workers == "auto" else arguments.workers
    try:
        selection = load_selection()
        only = _only(arguments, quick.names(selection))
        preset = reduced_preset(selection, load_preset(selection.of))
        runner = quick.runner_of(selection, preset, arguments.fresh, workers, arguments.minutes)
        what = quick.asked(selection, preset, runner, only)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    print(quick.plan(selection, what, runner), flush=True)
    return 0 if arguments.dry_run else quick.run(selection, what, runner)


def do_preset(preset: Preset, only: Sequence[str], runner: Runner, where: Places) -> None:
    """All tables and figures of a preset that are asked for."""
    figures = where.figures
    parts = studies(preset)
    for study in parts.values():
        for table, files in do_tables(study, only, runner):
            announce([*files, *draw(table, runner, figures)])
    if "table2" in only and preset.table2 is not None:
        announce(do_table2(preset.table2, parts["math"], runner))
    for kind in preset.one_shot if "one_shot" in only else ():
        announce(do_one_shot(preset, kind, runner, figures))
    if "table8" in only and preset.table8 is not None:
        announce(do_table8(preset.name, preset.table8, runner))
    if preset.name in page.PRESETS:
        print(f"Everything in one page: {_shown(page.write(where))}")


def _loaded(arguments: Arguments) -> Preset:
    """The preset that is asked for, with what the command changes of it.

    Raises:
        SystemExit: there is something wrong with it, or it cannot be changed so.
    """
    try:
        preset = load_preset(arguments.preset)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if arguments.processes is not None:
        preset = replace(preset, processes=arguments.processes)
    if preset.processes > 1 and not preset.isolated:
        raise SystemExit(
            f"preset {preset.name} does all runs in one process; leave --processes out"
        )
    return preset


def _only(arguments: Arguments, known: Sequence[str]) -> Sequence[str]:
    """The experiments that are asked for, of those that the preset has.

    Raises:
        SystemExit: it does not have one.
    """
    lacking = [name for name in arguments.only if name not in known]
    if lacking:
        raise SystemExit(
            f"preset {arguments.preset} has no {', '.join(lacking)}; it has: {', '.join(known)}"
        )
    return arguments.only or known


def do_tables(
    study: Study, only: Sequence[str], runner: Runner
) -> Iterator[tuple[Table, list[Path]]]:
    """The tables of a study that are asked for, each with the files that it is written to."""
    builders = [build for name, build in study.tables.items() if name in only]
    if not builders:
        return
    # Learning rates come first: which runs a table and the gate ask for depends on them.
    tune = study.chosen_rates(builders, runner.results)
    # Where the unpruned adapter has not learnt the task, nothing else is run.
    if study.gate is not None:
        gate = study.gate(tune)
        gate.check(runner.results([gate.untuned, gate.unpruned]))
    # All runs of all tables are done together: many are shared, and workers need a long list.
    asked = [build(tune) for build in builders]
    results = runner.results(list({run.key: run for table in asked for run in table.runs}.values()))
    for table in asked:
        yield table, write(table, results, runner.folder, study.heading)


def draw(table: Table, runner: Runner, folder: Path) -> list[Path]:
    """The figure that goes with a table, where there is one; returns its files."""
    match table.name:
        case "figure1":
            return figure1.draw(runner.folder, folder)
        case "figure2":
            ((run,),) = (runs for row in table.rows for runs in row.cells.values())
            return figure2.draw(runner.file(run), folder)
        case "verdict":
            return verdict.draw(runner.folder, folder)
        case "phase":
            return phase.draw(runner.folder, folder)
        case "figure3":
            return figure3.draw(runner.folder, folder)
        case "table1":
            return rank_and_loss.draw([runner.file(run) for run in _with_a_course(table)], folder)
        case "table7":
            runs = (run for run in table.runs if (run.method, run.criterion) == PARA_RUN)
            return [
                file
                for run in islice(runs, 1)
                for file in rank_per_layer.draw(runner.file(run), folder)
            ]
    return []


def _with_a_course(table: Table) -> list[RunConfig]:
    """The runs of Table 1 whose training is drawn, all seeds: what is pruned from the last rank, and LoRA beside it."""
    rows = [row for row in table.rows if row.label != CONT_SQUEEZE]
    runs = [run for row in rows for run in row.cells.get(table.columns[-1], ())]
    return [run for run in runs if run.method in ("lora", "prune") and not run.rslora]


def do_table2(settings: Table2, math_study: Study, runner: Runner) -> list[Path]:
    """The cost of every row of a table, whose runs are done if they are missing."""
    build = math_study.tables[settings.of]
    table = build(math_study.chosen_rates([build], runner.results))
    measured = {
        label: runner.cost(label, cost) for label, cost in table2.costs(settings, table).items()
    }
    return table2.write(
        math_study.heading, table, runner.results(table.runs), measured, runner.folder
    )


def do_one_shot(preset: Preset, kind: str, runner: Runner, figures: Path) -> list[Path]:
    """The ranking of all criteria on the adapters of an experiment, as tables and as a figure."""
    run = one_shot_runs(preset, kind)[0]
    records = [record["result"] for record in runner.one_shot(kind)]
    files = one_shot.write(preset.name, kind, preset.one_shot[kind], run, records, runner.folder)
    files += frontier.draw(runner.folder, figures, kind)
    if kind in preset.refined:
        of_refined = [record["result"] for record in runner.refined(kind)]
        files += refined.write(
            preset.name, kind, preset.refined[kind], run, of_refined, runner.folder
        )
    return files


def do_table8(preset: str, settings: Table8, runner: Runner) -> list[Path]:
    """The dense model first, which stops everything if it is not a language model; then all rows."""
    (dense,) = runner.compressed([settings.run])
    table8.gate(settings, dense)
    rows = {method: runner.compressed(runs) for method, runs in settings.rows.items()}
    return table8.write(preset, settings, dense, rows, runner.folder)


def announce(files: list[Path]) -> None:
    """Print the table of the first of the files, and where all of them are."""
    title = files[0].read_text(encoding="utf-8").partition("\n")[0]
    print(f"\n{title}\n\n{first_table(files[0])}")
    print("Files:", *map(_shown, files), sep="\n  ", flush=True)


def _shown(file: Path) -> Path:
    return file.relative_to(ROOT) if file.is_relative_to(ROOT) else file


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
