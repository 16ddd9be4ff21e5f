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

from tqdm import tqdm

from experiments.folders import ARTIFACTS, RESULTS, ROOT
from experiments.running import isolation
from experiments.running.isolation import launcher
from experiments.settings.jobs import Compression, Cost, RunConfig, digest
from experiments.settings.preset import Preset, one_shot_runs
from theory.records import from_json, to_json, write_atomically

#: Methods whose adapters are ordinary LoRA, written by `prunedlora.export_adapter`.
EXPORTED = ("lora", "prune", "truncate")


class Runner:
    """Does runs and keeps their results.

    Args:
        preset: the preset.
        fresh: redo, once, what was done before.
        workers: runs done at the same time.
        minutes: after which no run is started.
    """

    def __init__(
        self, preset: Preset, fresh: bool, workers: int, minutes: float = math.inf
    ) -> None:
        self.folder, self.artifacts = RESULTS / preset.name, ARTIFACTS / preset.name
        self._preset, self._fresh = preset, fresh
        self._workers = workers if preset.isolated else 1
        self._threads = max(1, (os.cpu_count() or 1) // workers) if workers > 1 else None
        self._done: set[Path] = set()
        self._end = time.monotonic() + 60 * minutes

    def results(self, runs: list[RunConfig]) -> dict[str, dict[str, Any]]:
        """Results of all runs by key; what is missing is done first, sources before what they are truncated to.

        A source that is trained again, because its adapter is not here, is another adapter on another machine: all that
        is asked for and truncated from it is made again too.
        """
        missing = [run for run in runs if self._wanted(self.file(run))]
        truncations = [run for run in runs if run.method.startswith("truncate")]
        sources = {
            r.source.key: r.source
            for r in truncations
            if r in missing or self._wanted(self.file(r.source))
        }
        anew = {key: s for key, s in sources.items() if self._wanted(self.file(s)) or self._lost(s)}
        again = [run for run in truncations if run.source.key in anew]
        cut = {run.key: run for run in (*missing, *again) if run.method.startswith("truncate")}
        trained = anew | {run.key: run for run in missing if run.key not in cut}
        bar = tqdm(
            total=len(trained) + len(cut),
            desc=f"{self._preset.name}: runs",
            disable=not (trained or cut),
        )
        for batch in (trained.values(), cut.values()):
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
                if self._lost(training):
                    self._run(training)
                self._measure(
                    "experiments.jobs.one_shot", config, file, self.artifacts / training.key
                )
            records.append(from_json(file.read_text())["result"])
        return records

    def cost(self, label: str, config: Cost) -> dict[str, Any]:
        """What a row of Table 2 costs: time beside the reference, and memory alone."""
        name = re.sub(r"[^a-z0-9]+", "_", label.lower())
        timed, alone = (
            self.folder / "table2" / f"{name}_{key}.json"
            for key in (config.key, f"memory_{config.memory_key}")
        )
        if self._wanted(timed):
            self._measure("experiments.jobs.step_cost", asdict(config), timed)
        if self._wanted(alone):
            self._measure("experiments.jobs.peak_memory", asdict(config.run), alone)
        return from_json(timed.read_text())["result"] | from_json(alone.read_text())["result"]

    def compressed(self, configs: list[Compression]) -> list[dict[str, Any]]:
        """What compression of the pretrained model measures in each run."""
        files = [self.folder / "table8" / f"{c.method}_seed{c.seed}_{c.key}.json" for c in configs]
        for config, file in zip(configs, files, strict=True):
            if self._wanted(file):
                self._measure("experiments.jobs.pretrained", asdict(config), file)
        return [from_json(file.read_text())["result"] for file in files]

    def _lost(self, run: RunConfig) -> bool:
        """Whether what the run trained is not here: results are committed, adapters are not."""
        return not (self.artifacts / run.key).exists()

    def _wanted(self, file: Path) -> bool:
        return not file.exists() or (self._fresh and file not in self._done)

    def _run(self, run: RunConfig) -> None:
        """Do a run; one that makes an ordinary adapter counts once another process has opened it and got the same."""
        folder, result = self.artifacts / run.key, self.file(run)
        shutil.rmtree(folder, ignore_errors=True)
        source = [self.artifacts / run.source.key] if run.method.startswith("truncate") else []
        record = (
            self.artifacts / f"{result.stem}.unchecked.json" if run.method in EXPORTED else result
        )
        config = self._written(asdict(run), result)
        self._do("experiments.jobs.run", config, record, folder, *source)
        if record != result:
            self._do("experiments.jobs.reload", config, record, folder, result)
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
        if module != "experiments.jobs.reload" and time.monotonic() > self._end:
            raise SystemExit("the time is up. Finished runs are kept: run again to go on.")
        told = [str(path) for path in arguments]
        if not self._preset.isolated:
            importlib.import_module(module).main(told)
            return
        start = launcher(self._preset.processes) if module == "experiments.jobs.run" else []
        if start:
            status = subprocess.run(
                [sys.executable, "-m", *start, module, *told], cwd=ROOT
            ).returncode
        else:
            status = isolation.do(module, told, self._threads)
        if status:
            raise SystemExit(
                f"the run of {arguments[0]} failed; see above. Finished runs are kept: run again to go on."
            )
