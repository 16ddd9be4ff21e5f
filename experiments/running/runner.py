"""Does the runs of a preset that are missing, and keeps their results."""

import importlib
import math
import os
import re
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

from experiments.folders import ARTIFACTS, RESULTS, ROOT
from experiments.running import isolation
from experiments.running.admission import Admission
from experiments.running.isolation import launcher
from experiments.running.workers import Outcome, Workers
from experiments.settings.jobs import Compression, Cost, RunConfig, digest
from experiments.settings.preset import Preset, one_shot_runs
from theory.records import from_json, to_json, write_atomically

#: Workers on a GPU, at most: more were not tried, and each keeps a core busy.
MOST_ON_GPU = 8
#: Share of a GPU's free memory that runs may take together.
GPU_SHARE = 0.95
#: Methods whose adapters are ordinary LoRA, written by `prunedlora.export_adapter`.
EXPORTED = ("lora", "prune", "truncate")


class Runner:
    """Does runs and keeps their results.

    Args:
        preset: the preset.
        fresh: redo, once, what was done before.
        workers: runs done at the same time; none for as many as the cores, or the memory of the GPU, allow.
        minutes: after which no run is started.
    """

    def __init__(
        self, preset: Preset, fresh: bool, workers: int | None, minutes: float = math.inf
    ) -> None:
        self.folder = RESULTS / preset.name
        self.artifacts = ARTIFACTS / preset.name
        self._preset = preset
        self._fresh = fresh
        cores = os.cpu_count() or 1
        by_memory = workers is None and torch.cuda.is_available()
        self._admission = Admission(GPU_SHARE * free_memory() if by_memory else math.inf)
        workers = workers or (min(cores, MOST_ON_GPU) if by_memory else cores)
        self._workers = workers if preset.isolated else 1
        threads = max(1, cores // workers) if workers > 1 else None
        # Another process than that of the run opens what it has written.
        self._processes = Workers(threads)
        self._checkers = Workers(threads)
        self._threads = threads
        self._done: set[Path] = set()
        self._end = time.monotonic() + 60 * minutes

    def results(self, runs: list[RunConfig]) -> dict[str, dict[str, Any]]:
        """Results of all runs by key; what is missing is done first, sources before what they are truncated to.

        A source whose adapter is not here is trained again, which on another machine gives another adapter: then all
        truncations of it that are asked for are done again too.
        """
        missing = [run for run in runs if self._is_missing(self.file(run))]
        truncations = [run for run in runs if _truncates(run)]
        # A truncation starts from a trained adapter: from that of its source, asked for or not.
        sources = {
            run.source.key: run.source
            for run in truncations
            if run in missing or self._is_missing(self.file(run.source))
        }
        retrain = {
            key: source
            for key, source in sources.items()
            if self._is_missing(self.file(source)) or self._is_lost(source)
        }
        # Truncations of another adapter than before would stand beside results of the old one.
        outdated = [run for run in truncations if run.source.key in retrain]
        truncate = {run.key: run for run in (*missing, *outdated) if _truncates(run)}
        train = retrain | {run.key: run for run in missing if not _truncates(run)}

        total = len(train) + len(truncate)
        bar = tqdm(total=total, desc=f"{self._preset.name}: runs", disable=not total)
        for batch in (train.values(), truncate.values()):
            with ThreadPoolExecutor(self._workers) as pool:
                for _ in pool.map(self._run, batch):
                    bar.update()
        return {run.key: from_json(self.file(run).read_text())["result"] for run in runs}

    def file(self, run: RunConfig) -> Path:
        """Where the result of a run lies: a name for people, and the hash of all settings."""
        ranks = f"r{run.initial_rank}-{run.target_rank}" if run.initial_rank else "base"
        parts = [run.task, run.method, run.criterion, ranks, f"seed{run.seed}", run.key]
        return self.folder / "runs" / ("_".join(part for part in parts if part) + ".json")

    def one_shot(self, name: str) -> list[dict[str, Any]]:
        """What a one-shot experiment measures of each of its adapters."""
        records = []
        for training in one_shot_runs(self._preset, name):
            config = {"one_shot": asdict(self._preset.one_shot[name]), "run": asdict(training)}
            file = self.folder / "one_shot" / f"{name}_seed{training.seed}_{digest(config)}.json"
            if self._is_missing(file):
                if self._is_lost(training):
                    self._run(training)
                self._measure(
                    "experiments.jobs.one_shot", config, file, self.artifacts / training.key
                )
            records.append(from_json(file.read_text())["result"])
        return records

    def cost(self, label: str, config: Cost) -> dict[str, Any]:
        """What a row of Table 2 costs: time beside the reference, and memory alone."""
        name = re.sub(r"[^a-z0-9]+", "_", label.lower())
        timed = self.folder / "table2" / f"{name}_{config.key}.json"
        alone = self.folder / "table2" / f"{name}_memory_{config.memory_key}.json"
        if self._is_missing(timed):
            self._measure("experiments.jobs.step_cost", asdict(config), timed)
        if self._is_missing(alone):
            self._measure("experiments.jobs.peak_memory", asdict(config.run), alone)
        return from_json(timed.read_text())["result"] | from_json(alone.read_text())["result"]

    def compressed(self, configs: list[Compression]) -> list[dict[str, Any]]:
        """What compression of the pretrained model measures in each run."""
        files = [self.folder / "table8" / f"{c.method}_seed{c.seed}_{c.key}.json" for c in configs]
        for config, file in zip(configs, files, strict=True):
            if self._is_missing(file):
                self._measure("experiments.jobs.pretrained", asdict(config), file)
        return [from_json(file.read_text())["result"] for file in files]

    def _is_lost(self, run: RunConfig) -> bool:
        """Whether what the run trained is not here: results are committed, adapters are not."""
        return not (self.artifacts / run.key).exists()

    def _is_missing(self, file: Path) -> bool:
        """Whether a result is to be made; with `fresh`, one of before counts as missing until it has been made."""
        return not file.exists() or (self._fresh and file not in self._done)

    def _run(self, run: RunConfig) -> None:
        """Do a run; one that makes an ordinary adapter counts once another process has opened it and got the same."""
        folder = self.artifacts / run.key
        result = self.file(run)
        source = [self.artifacts / run.source.key] if _truncates(run) else []
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
        self._done.add(result)

    def _again_alone(self, module: str, *arguments: Path) -> Outcome:
        """A run that found too little memory once more, with all of it: nothing else runs, no worker waits."""
        folder = arguments[2]
        with self._admission.alone():
            self._processes.close()
            self._checkers.close()
            tqdm.write(f"→ {arguments[0].name}: too little memory beside others, again alone")
            shutil.rmtree(folder, ignore_errors=True)
            return self._do(module, *arguments)

    def _measure(self, module: str, settings: dict[str, Any], result: Path, *folders: Path) -> None:
        with self._admission.alone():
            config = self._begin(settings, result)
            _stop_at_failure(self._do(module, config, result, *folders), config)
        self._done.add(result)

    def _begin(self, config: dict[str, Any], result: Path) -> Path:
        """Write the configuration of a job that is about to begin.

        Raises:
            SystemExit: the time is up.
        """
        if time.monotonic() > self._end:
            raise SystemExit("time limit reached. Finished runs are kept: run again to go on.")
        file = self.artifacts / f"{result.stem}.config.json"
        write_atomically(file, to_json(config))
        tqdm.write(f"→ {result.name}")
        return file

    def _do(self, module: str, *arguments: Path) -> Outcome:
        """``module.main(arguments)`` in a worker, in a process of its own, in several, or in this one."""
        argv = [str(path) for path in arguments]
        if not self._preset.isolated:
            importlib.import_module(module).main(argv)
            return Outcome()
        if module == "experiments.jobs.run" and self._preset.processes > 1:
            command = [sys.executable, "-m", *launcher(self._preset.processes), module, *argv]
            return _of_status(subprocess.run(command, cwd=ROOT).returncode)
        # On a CPU the most memory that a process had is that of a job only where it did nothing else.
        if module == "experiments.jobs.peak_memory" and not torch.cuda.is_available():
            return _of_status(isolation.do(module, argv, self._threads))
        workers = self._checkers if module == "experiments.jobs.reload" else self._processes
        return workers.do(module, argv)


def free_memory() -> int:
    """Bytes of the GPU that nobody uses."""
    return torch.cuda.mem_get_info()[0]


def _memory_kind(run: RunConfig) -> str:
    """What the memory of a run depends on most: runs for which it is the same are expected to take as much."""
    work = run.criterion if _truncates(run) else run.method == "full"
    sizes = (run.batch_size, run.eval_batch_size, run.max_length, run.dtype)
    return " ".join(map(str, (run.model, run.task, run.trains, work, *sizes)))


def _of_status(status: int) -> Outcome:
    return Outcome(f"its process ended with status {status}, see above" if status else "")


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


def _truncates(run: RunConfig) -> bool:
    return run.method in ("truncate", "truncate_full")
