"""Does the runs of a preset that are missing, and keeps their results."""

import importlib
import math
import os
import re
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch

from experiments.folders import ARTIFACTS, ROOT, Places, places
from experiments.running import isolation
from experiments.running.admission import Admission
from experiments.running.durations import Durations
from experiments.running.isolation import launcher
from experiments.running.progress import Progress
from experiments.running.workers import Outcome, Workers
from experiments.settings.jobs import Compression, Cost, RunConfig, digest
from experiments.settings.preset import Preset, one_shot_runs
from theory.records import from_json, to_json, write_atomically

#: Workers on a GPU, at most: more were not tried, and each keeps a core busy.
MOST_ON_GPU = 8
#: Share of a GPU's free memory that runs may take together.
GPU_SHARE = 0.95
#: Methods whose adapters are ordinary LoRA, written by `prunedlora.export_adapter`.
EXPORTED = ("lora", "prune", "lora_at_ranks", "truncate")


class Runner:
    """Does runs and keeps their results.

    A result that is not in the folder is taken from the reference, if that has it; nothing is ever written there.

    Args:
        preset: the preset.
        fresh: redo, once, what was done before.
        workers: runs done at the same time; none for as many as the cores, or the memory of the GPU, allow.
        minutes: after which no run is started.
        where: folders of results; those of a user's runs if not given.
    """

    def __init__(
        self,
        preset: Preset,
        fresh: bool,
        workers: int | None,
        minutes: float = math.inf,
        where: Places | None = None,
    ) -> None:
        where = where or places(preset.name)
        self.folder = where.results
        self.reference = where.reference
        self.artifacts = ARTIFACTS / preset.name
        self.log = self.artifacts / "log.txt"
        self._preset = preset
        self._fresh = fresh
        cores = os.cpu_count() or 1
        by_memory = workers is None and torch.cuda.is_available()
        self._admission = Admission(GPU_SHARE * free_memory() if by_memory else math.inf)
        workers = workers or (min(cores, MOST_ON_GPU) if by_memory else cores)
        self._workers = workers if preset.isolated else 1
        threads = max(1, cores // workers) if workers > 1 else None
        # Another process than that of the run opens what it has written.
        self._processes = Workers(threads, self.log)
        self._checkers = Workers(threads, self.log)
        self._threads = threads
        self.durations = Durations(self.folder if where.reference is None else where.reference)
        self._progress = Progress(self._workers)
        self._done: set[Path] = set()
        self._end = time.monotonic() + 60 * minutes

    @property
    def workers(self) -> int:
        """Runs that are done at the same time, at most."""
        return self._workers

    def results(self, runs: list[RunConfig]) -> dict[str, dict[str, Any]]:
        """Results of all runs by key; what is missing is done first, see `to_do`."""
        batches = self.to_do(runs)
        for batch in batches:
            self.expect(batch)
        for batch in batches:
            with ThreadPoolExecutor(self._workers) as pool:
                list(pool.map(self._run, batch))
        return {run.key: record["result"] for run, record in self.records(runs)}

    def records(self, runs: list[RunConfig]) -> Iterator[tuple[RunConfig, dict[str, Any]]]:
        """Each run that has been done, with its record: settings, result and environment."""
        for run in runs:
            yield run, from_json(self.file(run).read_text())

    def known(self, run: RunConfig) -> dict[str, Any] | None:
        """The result of a run that need not be done; none of one that must."""
        file = self.file(run)
        return None if self.is_missing(file) else from_json(file.read_text())["result"]

    def expect(self, runs: list[RunConfig]) -> None:
        """Count runs among those that will be done, before the first of them begins."""
        self._progress.expect({self.file(run).stem: self.durations.of(run) for run in runs})

    def to_do(self, runs: list[RunConfig]) -> tuple[list[RunConfig], list[RunConfig]]:
        """What is trained and then what starts from it, for these runs to have results.

        A source whose adapter is not here is trained again, which on another machine gives another adapter: then all
        runs that start from it and are asked for are done again too.
        """
        missing = [run for run in runs if self.is_missing(self.file(run))]
        starting = [(run, run.source) for run in runs if run.source is not None]
        # The adapter of a source must be there, whether its run was asked for or not.
        sources = {
            source.key: source
            for run, source in starting
            if run in missing or self.is_missing(self.file(source))
        }
        retrain = {
            key: source
            for key, source in sources.items()
            if self.is_missing(self.file(source)) or self._is_lost(source)
        }
        # What starts from another adapter than before would stand beside results of the old one.
        outdated = [run for run, source in starting if source.key in retrain]
        start = {run.key: run for run in (*missing, *outdated) if run.source is not None}
        train = retrain | {run.key: run for run in missing if run.source is None}
        return list(train.values()), list(start.values())

    def file(self, run: RunConfig) -> Path:
        """Where the result of a run lies, or will."""
        return self._found(file_of(run))

    def one_shot_jobs(self, name: str) -> Iterator[tuple[RunConfig, dict[str, Any], Path]]:
        """For each adapter of a one-shot experiment its training, all settings, and where the result lies or will."""
        settings = self._preset.one_shot[name]
        for training in one_shot_runs(self._preset, name):
            config = {"one_shot": asdict(settings), "run": asdict(training)}
            file = f"one_shot/{name}_seed{training.seed}_{digest(config)}.json"
            yield training, config, self._found(file)

    def refined_jobs(self, name: str) -> Iterator[tuple[RunConfig, dict[str, Any], Path]]:
        """The same of what is refined of these adapters, for each criterion; nothing where the preset has none."""
        settings = self._preset.refined.get(name)
        for training in one_shot_runs(self._preset, name) if settings else ():
            if settings is None or training.seed not in settings.seeds:
                continue
            for criterion in settings.criteria:
                one = replace(settings, criteria=(criterion,), seeds=(training.seed,))
                config = {"refined": asdict(one), "run": asdict(training)}
                file = f"refined/{name}_{criterion}_seed{training.seed}_{digest(config)}.json"
                yield training, config, self._found(file)

    def one_shot(self, name: str) -> list[dict[str, Any]]:
        """The record of what a one-shot experiment measures of each of its adapters."""
        return self._of_adapters("experiments.jobs.one_shot", self.one_shot_jobs(name))

    def refined(self, name: str) -> list[dict[str, Any]]:
        """The record of what is refined of each of these adapters."""
        return self._of_adapters("experiments.jobs.refined", self.refined_jobs(name))

    def _of_adapters(
        self, module: str, jobs: Iterator[tuple[RunConfig, dict[str, Any], Path]]
    ) -> list[dict[str, Any]]:
        """The records of jobs, each on an adapter that is trained where it is needed and not here."""
        records = []
        for training, config, file in jobs:
            if self.is_missing(file):
                if self._is_lost(training):
                    self._run(training)
                self._measure(module, config, file, self.artifacts / training.key)
            records.append(from_json(file.read_text()))
        return records

    def cost(self, label: str, config: Cost) -> dict[str, Any]:
        """What a row of Table 2 costs: time beside the reference, and memory alone."""
        timed, alone = self.cost_files(label, config)
        if self.is_missing(timed):
            self._measure("experiments.jobs.step_cost", asdict(config), timed)
        if self.is_missing(alone):
            self._measure("experiments.jobs.peak_memory", asdict(config.run), alone)
        return from_json(timed.read_text())["result"] | from_json(alone.read_text())["result"]

    def cost_files(self, label: str, config: Cost) -> tuple[Path, Path]:
        """Where the time and the memory of a row of Table 2 lie, or will."""
        name = re.sub(r"[^a-z0-9]+", "_", label.lower())
        timed = self._found(f"table2/{name}_{config.key}.json")
        return timed, self._found(f"table2/{name}_memory_{config.memory_key}.json")

    def compressed(self, configs: list[Compression]) -> list[dict[str, Any]]:
        """What compression of the pretrained model measures in each run."""
        files = self.compressed_files(configs)
        for config, file in zip(configs, files, strict=True):
            if self.is_missing(file):
                self._measure("experiments.jobs.pretrained", asdict(config), file)
        return [from_json(file.read_text())["result"] for file in files]

    def compressed_files(self, configs: list[Compression]) -> list[Path]:
        """Where the results of compressing the pretrained model lie, or will."""
        return [self._found(f"table8/{c.method}_seed{c.seed}_{c.key}.json") for c in configs]

    def _is_lost(self, run: RunConfig) -> bool:
        """Whether what the run trained is not here: results are committed, adapters are not."""
        return not (self.artifacts / run.key).exists()

    def _found(self, name: str) -> Path:
        """The own result of that name; the one of the reference where only that has it and nothing is redone."""
        own = self.folder / name
        if self.reference is None or self._fresh or own.exists():
            return own
        committed = self.reference / name
        return committed if committed.exists() else own

    def is_missing(self, file: Path) -> bool:
        """Whether a result is to be made; with `fresh`, one of before counts as missing until it has been made."""
        return not file.exists() or (self._fresh and file not in self._done)

    def _run(self, run: RunConfig) -> None:
        """Do a run; one that makes an ordinary adapter counts once another process has opened it and got the same."""
        folder = self.artifacts / run.key
        result = self.folder / file_of(run)
        source = [] if run.source is None else [self.artifacts / run.source.key]
        exported = run.method in EXPORTED
        record = self.artifacts / f"{result.stem}.unchecked.json" if exported else result
        with self._admission.beside_others(_memory_kind(run)):
            config = self._begin(asdict(run), result)
            shutil.rmtree(folder, ignore_errors=True)
            outcome = self._do("experiments.jobs.run", config, record, folder, *source)
        if outcome.out_of_memory:
            outcome = self._again_alone("experiments.jobs.run", config, record, folder, *source)
        _stop_at_failure(outcome, config)
        self._admission.learn(_memory_kind(run), outcome.peak_bytes)
        # The check of a finished run is never left for another time.
        if exported:
            outcome = self._do("experiments.jobs.reload", config, record, folder, result)
            _stop_at_failure(outcome, config)
            record.unlink()
        self._finish(result)

    def _again_alone(self, module: str, *arguments: Path) -> Outcome:
        """A run that found too little memory once more, with all of it: nothing else runs, no worker waits."""
        folder = arguments[2]
        with self._admission.alone():
            self._processes.close()
            self._checkers.close()
            print(f"{arguments[0].name}: too little memory beside others, again alone", flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            return self._do(module, *arguments)

    def _measure(self, module: str, settings: dict[str, Any], result: Path, *folders: Path) -> None:
        with self._admission.alone():
            config = self._begin(settings, result)
            _stop_at_failure(self._do(module, config, result, *folders), config)
        self._finish(result)

    def _finish(self, result: Path) -> None:
        self._done.add(result)
        self._progress.end(result.stem)

    def _begin(self, config: dict[str, Any], result: Path) -> Path:
        """Write the configuration of a job that is about to begin.

        Raises:
            SystemExit: the time is up.
        """
        if time.monotonic() > self._end:
            raise SystemExit("time limit reached. Finished runs are kept: run again to go on.")
        file = self.artifacts / f"{result.stem}.config.json"
        write_atomically(file, to_json(config))
        self._progress.begin(result.stem)
        return file

    def _do(self, module: str, *arguments: Path) -> Outcome:
        """``module.main(arguments)`` in a worker, in a process of its own, in several, or in this one."""
        argv = [str(path) for path in arguments]
        if not self._preset.isolated:
            with isolation.printing_to(self.log):
                importlib.import_module(module).main(argv)
            return Outcome()
        if module == "experiments.jobs.run" and self._preset.processes > 1:
            command = [sys.executable, "-m", *launcher(self._preset.processes), module, *argv]
            with self.log.open("ab") as log:
                status = subprocess.run(command, cwd=ROOT, stdout=log, stderr=log).returncode
            return self._of_status(status)
        # On a CPU the most memory that a process had is that of a job only where it did nothing else.
        if module == "experiments.jobs.peak_memory" and not torch.cuda.is_available():
            return self._of_status(isolation.do(module, argv, self._threads, self.log))
        workers = self._checkers if module == "experiments.jobs.reload" else self._processes
        return workers.do(module, argv)

    def _of_status(self, status: int) -> Outcome:
        said = f"its process ended with status {status}, see the end of {self.log}"
        return Outcome(said if status else "")


def file_of(run: RunConfig) -> str:
    """The file of a run's result below the folder of results: a name for people, and the hash of all settings."""
    ranks = f"r{run.initial_rank}-{run.target_rank}" if run.initial_rank else "base"
    parts = [run.task, run.method, run.criterion, ranks, f"seed{run.seed}", run.key]
    return f"runs/{'_'.join(part for part in parts if part)}.json"


def free_memory() -> int:
    """Bytes of the GPU that nobody uses."""
    return torch.cuda.mem_get_info()[0]


def _memory_kind(run: RunConfig) -> str:
    """What the memory of a run depends on most: runs for which it is the same are expected to take as much."""
    work = run.method == "full" if run.trains else run.criterion
    sizes = (run.batch_size, run.eval_batch_size, run.max_length, run.dtype)
    return " ".join(map(str, (run.model, run.task, run.trains, work, *sizes)))


def _stop_at_failure(outcome: Outcome, config: Path) -> None:
    """A failure stops everything.

    Raises:
        SystemExit: there is one.
    """
    if outcome.error:
        raise SystemExit(
            f"{outcome.error.rstrip()}\nthe run of {config} failed; see above. Finished runs are kept: run again to "
            "go on."
        )
