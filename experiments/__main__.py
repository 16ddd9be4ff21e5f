"""Run the experiments of a preset: missing runs, tables, figures."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
import tyro

from experiments.folders import FIGURES, ROOT
from experiments.reporting import page as report
from experiments.reporting import table as tables
from experiments.running import dry_run
from experiments.running.runner import Runner
from experiments.settings.preset import Preset, load_preset
from experiments.tables import code as code_table
from experiments.tables import encoder as studies
from experiments.tables import language as language_table
from experiments.tables import math as math_tables
from experiments.tables import one_shot as one_shot_table
from experiments.tables import table2 as table2_table
from experiments.tables import table8 as table8_table
from experiments.tables.rows import CONT_SQUEEZE
from experiments.tables.study import check_learnt
from paper_figures import figure1, figure2, figure3, frontier, rank_and_loss, rank_per_layer

Experiment = Literal[
    "table1",
    "table5",
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
]
EXPERIMENTS: tuple[Experiment, ...] = get_args(Experiment)

DRAWN = {"figure1": figure1, "figure3": figure3, "table7": rank_per_layer}


@dataclass
class Arguments:
    """Regenerate the paper's tables and figures.

    Attributes:
        preset: smoke (tiny random model), cpu (real packaged model), gpu, or paper; gpu if there is one, else cpu.
        only: experiments to run; all by default.
        fresh: redo runs whose results exist.
        dry_run: only check the preset and estimate what it takes.
        workers: runs done at the same time, each on its share of the cores; times of runs are comparable for 1 only.
        minutes: start no run after so many, and stop; run again to go on.
        processes: among which the training of every run is shared by ``accelerate launch``, one for each GPU; the
            preset's if not given.
    """

    preset: Literal["smoke", "cpu", "gpu", "paper"] | None = None
    only: tuple[Experiment, ...] = EXPERIMENTS
    fresh: bool = False
    dry_run: bool = False
    workers: int = 1
    minutes: float = math.inf
    processes: int | None = None


def main(arguments: Arguments) -> None:
    """Do what is missing, then print the tables and where the files are."""
    name = arguments.preset or ("gpu" if torch.cuda.is_available() else "cpu")
    preset, only = load_preset(name), arguments.only
    if arguments.processes is not None:
        preset = replace(preset, processes=arguments.processes)
    if preset.processes > 1 and not preset.isolated:
        raise SystemExit(f"preset {name} does all runs in one process; leave --processes out")
    if arguments.dry_run:
        print(dry_run.report(preset))
        return
    runner = Runner(preset, arguments.fresh, arguments.workers, arguments.minutes)
    figures_folder = FIGURES / name
    for table, files in do_tables(math_tables, preset, only, runner):
        announce([*files, *math_figures(table, runner, figures_folder)])
    if "table2" in only and preset.table2 is not None:
        announce(do_table2(preset, runner))
    for kind in preset.one_shot if "one_shot" in only else ():
        files = one_shot_table.write(preset, kind, runner.one_shot(kind), runner.folder)
        announce([*files, *frontier.draw(runner.folder, figures_folder, kind)])
    parts = ((studies, preset.study), (language_table, preset.language), (code_table, preset.code))
    for part, settings in parts:
        for table, files in do_tables(part, preset, only, runner) if settings is not None else ():
            figures = DRAWN[table.name].draw(runner.folder, figures_folder) if table.name in DRAWN else []
            announce([*files, *figures])
    if "table8" in only and preset.table8 is not None:
        announce(do_table8(preset, runner))
    if name in report.PRESETS:
        print(f"Everything in one page: {report.write().relative_to(ROOT)}")


def do_tables(
    part: ModuleType, preset: Preset, only: Sequence[str], runner: Runner
) -> Iterator[tuple[tables.Table, list[Path]]]:
    """The tables of a module such as `studies`: the choice of learning rates, the gate, all runs, the files."""
    builds = [build for name, build in part.TABLES.items() if name in only]
    if not builds:
        return
    tune = tuned(part, preset, builds, runner)
    gated, least_gain = part.gated(preset, tune)
    untuned, unpruned = runner.results(gated).values()
    check_learnt(untuned, unpruned, least_gain)
    made = [build(preset, tune) for build in builds]
    results = runner.results(list({run.key: run for table in made for run in table.runs}.values()))
    for table in made:
        yield table, tables.write(table, results, runner.folder, part.heading(preset))


def tuned(
    part: ModuleType, preset: Preset, builds: Sequence[Callable[..., tables.Table]], runner: Runner
) -> tables.Tune:
    """The choice of learning rates for some tables of a module, and for its gate."""
    tuning, asking = part.tuning(preset), [partial(build, preset) for build in (*builds, part.gated)]
    results: dict[str, dict[str, Any]] = {}
    while wanted := tuning.wanted(results, *asking):
        results |= runner.results(wanted)
    return tuning.chooser(results)


def do_table2(preset: Preset, runner: Runner) -> list[Path]:
    """The cost of every row of Table 5, whose runs are done if they are missing."""
    table = math_tables.table5(preset, tuned(math_tables, preset, [math_tables.table5], runner))
    measured = {label: runner.cost(label, cost) for label, cost in table2_table.costs(preset, table).items()}
    return table2_table.write(preset, table, runner.results(table.runs), measured, runner.folder)


def math_figures(table: tables.Table, runner: Runner, folder: Path) -> list[Path]:
    """Figure 2; and for Table 1 the course of training of what is pruned and of the LoRA rows beside it, first seed."""
    runs = [runs[0] for row in table.rows if row.label != CONT_SQUEEZE for runs in row.cells.values()]
    if table.name == "figure2":
        return figure2.draw(runner.file(runs[0]), folder)
    if table.name == "table1":
        lines = [r for r in runs if r.method in ("lora", "prune") and not r.rslora]
        return rank_and_loss.draw([runner.file(r) for r in lines], folder)
    return []


def do_table8(preset: Preset, runner: Runner) -> list[Path]:
    """The dense model first, which stops everything if it is no language model; then all rows."""
    assert preset.table8 is not None
    (dense,) = runner.compressed([preset.table8.dense])
    table8_table.gate(preset.table8, dense)
    rows = {method: runner.compressed(runs) for method, runs in preset.table8.rows.items()}
    return table8_table.write(preset, dense, rows, runner.folder)


def announce(files: list[Path]) -> None:
    """Print the first of the files, a table, and where all of them are."""
    print(files[0].read_text())
    print("Files:", *(file.relative_to(ROOT) for file in files), sep="\n  ")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
