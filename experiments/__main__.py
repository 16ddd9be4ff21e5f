"""Run the experiments of a preset: missing runs, tables, figures."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, get_args

import torch
import tyro

from experiments.folders import FIGURES, ROOT
from experiments.reporting import page
from experiments.reporting.table import Table
from experiments.reporting.writing import write
from experiments.running import dry_run
from experiments.running.runner import Runner
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Preset, Table2, Table8, load_preset, one_shot_runs
from experiments.tables import one_shot, table2, table8
from experiments.tables.labels import CONT_SQUEEZE
from experiments.tables.studies import studies
from experiments.tables.study import Study
from experiments.tables.tuning import Tune
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
]
EXPERIMENTS: tuple[Experiment, ...] = get_args(Experiment)


@dataclass
class Arguments:
    """Regenerate the paper's tables and figures.

    Attributes:
        preset: smoke (tiny random model), cpu (real packaged model), gpu, or paper; gpu if there is one, else cpu.
        only: experiments to run; all by default.
        fresh: redo runs whose results exist.
        dry_run: only check the preset and estimate what it takes.
        workers: runs done at the same time, each on its share of the cores; ``auto`` for one on each core of a CPU, and
            as many as the memory of a GPU allows; times of runs are comparable for 1 only.
        minutes: start no run after so many, and stop; run again to go on.
        processes: among which the training of every run is shared by ``accelerate launch``, one for each GPU; the
            preset's if not given.
    """

    preset: Literal["smoke", "cpu", "gpu", "paper"] | None = None
    only: tuple[Experiment, ...] = EXPERIMENTS
    fresh: bool = False
    dry_run: bool = False
    workers: int | Literal["auto"] = 1
    minutes: float = math.inf
    processes: int | None = None


def main(arguments: Arguments) -> None:
    """Do what is missing, then print the tables and where the files are."""
    name = arguments.preset or ("gpu" if torch.cuda.is_available() else "cpu")
    try:
        preset = load_preset(name)
    except ValueError as error:
        raise SystemExit(str(error)) from None
    if arguments.processes is not None:
        preset = replace(preset, processes=arguments.processes)
    if preset.processes > 1 and not preset.isolated:
        raise SystemExit(f"preset {name} does all runs in one process; leave --processes out")
    if arguments.dry_run:
        print(dry_run.report(preset, arguments.only))
        return

    if not preset.isolated:
        # Such models are too small for several threads, which cost most where other programs run.
        torch.set_num_threads(1)
    workers = None if arguments.workers == "auto" else arguments.workers
    runner = Runner(preset, arguments.fresh, workers, arguments.minutes)
    figures = FIGURES / name
    only = arguments.only
    parts = studies(preset)
    for study in parts.values():
        for table, files in do_tables(study, only, runner):
            announce([*files, *draw(table, runner, figures)])
    if "table2" in only and preset.table2 is not None:
        announce(do_table2(preset.table2, parts["math"], runner))
    for kind in preset.one_shot if "one_shot" in only else ():
        announce(do_one_shot(preset, kind, runner, figures))
    if "table8" in only and preset.table8 is not None:
        announce(do_table8(name, preset.table8, runner))
    if name in page.PRESETS:
        print(f"Everything in one page: {page.write().relative_to(ROOT)}")


def do_tables(
    study: Study, only: Sequence[str], runner: Runner
) -> Iterator[tuple[Table, list[Path]]]:
    """The tables of a study that are asked for, each with the files that it is written to."""
    builders = [build for name, build in study.tables.items() if name in only]
    if not builders:
        return
    # Learning rates come first: which runs a table and the gate ask for depends on them.
    tune = chosen_rates(study, builders, runner)
    # Where the unpruned adapter has not learnt the task, nothing else is run.
    if study.gate is not None:
        gate = study.gate(tune)
        gate.check(runner.results([gate.untuned, gate.unpruned]))
    # All runs of all tables are done together: many are shared, and workers need a long list.
    asked = [build(tune) for build in builders]
    results = runner.results(list({run.key: run for table in asked for run in table.runs}.values()))
    for table in asked:
        yield table, write(table, results, runner.folder, study.heading)


def chosen_rates(study: Study, builders: Sequence[Callable[[Tune], Table]], runner: Runner) -> Tune:
    """The choice of learning rates for some tables of a study and for its gate, searched by runs."""
    asking = builders if study.gate is None else [*builders, study.gate]
    results: dict[str, dict[str, Any]] = {}
    while missing := study.tuning.missing(results, *asking):
        results |= runner.results(missing)
    return study.tuning.chooser(results)


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
            return rank_per_layer.draw(runner.folder, folder)
    return []


def _with_a_course(table: Table) -> list[RunConfig]:
    """The runs of Table 1 whose training is drawn: what is pruned and the LoRA rows beside it, first seed."""
    rows = [row for row in table.rows if row.label != CONT_SQUEEZE]
    firsts = [runs[0] for row in rows for runs in row.cells.values()]
    return [run for run in firsts if run.method in ("lora", "prune") and not run.rslora]


def do_table2(settings: Table2, math_study: Study, runner: Runner) -> list[Path]:
    """The cost of every row of a table, whose runs are done if they are missing."""
    build = math_study.tables[settings.of]
    table = build(chosen_rates(math_study, [build], runner))
    measured = {
        label: runner.cost(label, cost) for label, cost in table2.costs(settings, table).items()
    }
    return table2.write(
        math_study.heading, table, runner.results(table.runs), measured, runner.folder
    )


def do_one_shot(preset: Preset, kind: str, runner: Runner, figures: Path) -> list[Path]:
    """The ranking of all criteria on the adapters of an experiment, as tables and as a figure."""
    run = one_shot_runs(preset, kind)[0]
    records = runner.one_shot(kind)
    files = one_shot.write(preset.name, kind, preset.one_shot[kind], run, records, runner.folder)
    return [*files, *frontier.draw(runner.folder, figures, kind)]


def do_table8(preset: str, settings: Table8, runner: Runner) -> list[Path]:
    """The dense model first, which stops everything if it is not a language model; then all rows."""
    (dense,) = runner.compressed([settings.run])
    table8.gate(settings, dense)
    rows = {method: runner.compressed(runs) for method, runs in settings.rows.items()}
    return table8.write(preset, settings, dense, rows, runner.folder)


def announce(files: list[Path]) -> None:
    """Print the first of the files, a table, and where all of them are."""
    print(files[0].read_text())
    print("Files:", *(file.relative_to(ROOT) for file in files), sep="\n  ")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
