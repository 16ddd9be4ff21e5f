"""Run the experiments of a preset: missing runs, tables, figures."""

import importlib
import json
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, Literal, get_args

import torch
import tyro
from tqdm import tqdm

from experiments import (
    code_table,
    dry_run,
    isolation,
    language_table,
    math_tables,
    one_shot_table,
    report,
    studies,
    table2_table,
    table8_table,
    tables,
)
from experiments.config import Compression, Cost, Preset, RunConfig, digest, load_preset, one_shot_runs
from experiments.finetuning import CONT_SQUEEZE
from experiments.gate import check_learnt
from experiments.processes import launcher
from paper_figures import figure1, figure2, figure3, frontier, rank_and_loss, rank_per_layer
from theory.files import from_json, to_json, write_atomically

HERE = Path(__file__).parent
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

#: Methods whose adapters are ordinary LoRA, written by `prunedlora.export_adapter`.
EXPORTED = ("lora", "prune", "truncate")
FIGURES = {"figure1": figure1, "figure3": figure3, "table7": rank_per_layer}


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


class Runner:
    """Does runs and keeps their results.

    Args:
        preset: the preset.
        fresh: redo, once, what was done before.
        dry_run: only check the preset and estimate what it takes.
        workers: runs done at the same time.
        minutes: after which no run is started.
    """

    def __init__(self, preset: Preset, fresh: bool, workers: int, minutes: float = math.inf) -> None:
        self.folder, self.artifacts = HERE / "results" / preset.name, HERE / "artifacts" / preset.name
        self._preset, self._fresh = preset, fresh
        self._workers = workers if preset.isolated else 1
        self._threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
        self._done: set[Path] = set()
        self._end = time.monotonic() + 60 * minutes

    def results(self, runs: list[RunConfig]) -> dict[str, dict[str, Any]]:
        """Results of all runs by key; what is missing is done first, sources before what they are truncated to."""
        missing = [run for run in runs if self._wanted(self.file(run))]
        sources = {r.source.key: r.source for r in missing if r.method.startswith("truncate")}
        first = [s for s in sources.values() if self._wanted(self.file(s)) or not (self.artifacts / s.key).exists()]
        later = [run for run in missing if run.key not in {s.key for s in first}]
        bar = tqdm(total=len(first) + len(later), desc=f"{self._preset.name}: runs", disable=not missing)
        for batch in (first, later):
            with ThreadPoolExecutor(self._workers) as pool:
                for _ in pool.map(self._run, batch):
                    bar.update()
        return {run.key: from_json(self.file(run).read_text())["result"] for run in runs}

    def file(self, run: RunConfig) -> Path:
        """Where the result of a run lies; the name tells the run, the hash all its settings."""
        ranks = f"r{run.initial_rank}-{run.target_rank}" if run.initial_rank else "base"
        parts = [run.task, run.method, run.criterion, ranks, f"seed{run.seed}", run.key]
        return self.folder / "runs" / ("_".join(part for part in parts if part) + ".json")

    def one_shot(self, name: str) -> list[dict[str, Any]]:
        """What a one-shot experiment measures of each of its adapters."""
        records = []
        for training in one_shot_runs(self._preset, name):
            config = {"one_shot": asdict(self._preset.one_shot[name]), "run": asdict(training)}
            file = self.folder / "one_shot" / f"{name}_seed{training.seed}_{digest(config)}.json"
            if self._wanted(file):
                if not (self.artifacts / training.key).exists():
                    self._run(training)
                self._measure("experiments.one_shot", config, file, self.artifacts / training.key)
            records.append(json.loads(file.read_text())["result"])
        return records

    def cost(self, label: str, config: Cost) -> dict[str, Any]:
        """What a row of Table 2 costs."""
        file = self.folder / "table2" / f"{re.sub(r'[^a-z0-9]+', '_', label.lower())}_{config.key}.json"
        if self._wanted(file):
            self._measure("experiments.table2", asdict(config), file)
        return json.loads(file.read_text())["result"]

    def compressed(self, configs: list[Compression]) -> list[dict[str, Any]]:
        """What compression of the pretrained model measures in each run."""
        files = [self.folder / "table8" / f"{c.method}_seed{c.seed}_{c.key}.json" for c in configs]
        for config, file in zip(configs, files, strict=True):
            if self._wanted(file):
                self._measure("experiments.table8", asdict(config), file)
        return [json.loads(file.read_text())["result"] for file in files]

    def _wanted(self, file: Path) -> bool:
        return not file.exists() or (self._fresh and file not in self._done)

    def _run(self, run: RunConfig) -> None:
        """Do a run; one that makes an ordinary adapter counts once another process has opened it and got the same."""
        folder, result = self.artifacts / run.key, self.file(run)
        shutil.rmtree(folder, ignore_errors=True)
        source = [self.artifacts / run.source.key] if run.method.startswith("truncate") else []
        record = self.artifacts / f"{result.stem}.unchecked.json" if run.method in EXPORTED else result
        config = self._written(asdict(run), result)
        self._do("experiments.run", config, record, folder, *source)
        if record != result:
            self._do("experiments.reload", config, record, folder, result)
            record.unlink()
        self._done.add(result)

    def _measure(self, module: str, config: dict[str, Any], result: Path, *folders: Path) -> None:
        self._do(module, self._written(config, result), result, *folders)
        self._done.add(result)

    def _written(self, config: dict[str, Any], result: Path) -> Path:
        file = self.artifacts / f"{result.stem}.config.json"
        write_atomically(file, to_json(config))
        tqdm.write(f"→ {result.name}")
        return file

    def _do(self, module: str, *arguments: Path) -> None:
        """``module.main(arguments)`` in its own process, in several, or in this one; a failure stops everything."""
        if module != "experiments.reload" and time.monotonic() > self._end:
            raise SystemExit("the time is up. Finished runs are kept: run again to go on.")
        told = [str(path) for path in arguments]
        if not self._preset.isolated:
            importlib.import_module(module).main(told)
            return
        start = launcher(self._preset.processes) if module == "experiments.run" else []
        if start:
            status = subprocess.run([sys.executable, "-m", *start, module, *told], cwd=HERE.parent).returncode
        else:
            status = isolation.do(module, told, self._threads)
        if status:
            raise SystemExit(
                f"the run of {arguments[0]} failed; see above. Finished runs are kept: run again to go on."
            )


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
    figures_folder = HERE.parent / "paper_figures" / name
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
            figures = FIGURES[table.name].draw(runner.folder, figures_folder) if table.name in FIGURES else []
            announce([*files, *figures])
    if "table8" in only and preset.table8 is not None:
        announce(do_table8(preset, runner))
    if name in report.PRESETS:
        print(f"Everything in one page: {report.write().relative_to(HERE.parent)}")


def do_tables(
    part: ModuleType, preset: Preset, only: Sequence[str], runner: Runner
) -> Iterator[tuple[tables.Table, list[Path]]]:
    """The tables of a module such as `studies`: the choice of learning rates, the gate, all runs, the files."""
    builds = [build for name, build in part.TABLES.items() if name in only]
    if not builds:
        return
    tune = tuned(part, preset, builds, runner)
    gated, least_gain = part.gated(preset, tune)
    check_learnt(*runner.results(gated).values(), least_gain=least_gain)
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
    print("Files:", *(file.relative_to(HERE.parent) for file in files), sep="\n  ")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
