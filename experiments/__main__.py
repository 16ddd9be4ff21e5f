"""Run the experiments of a preset: missing runs, tables, figures."""

import json
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tqdm import tqdm

from experiments import one_shot_table, table1
from experiments.config import Preset, RunConfig, digest, load_preset, one_shot_runs
from paper_figures import rank_and_loss
from theory.files import to_json, write_atomically

HERE = Path(__file__).parent
EXPERIMENTS = ("table1", "one_shot")


@dataclass
class Arguments:
    """Regenerate the paper's tables and figures.

    Attributes:
        preset: smoke (tiny random model), cpu (real packaged model), gpu, or paper; gpu if there is one, else cpu.
        only: experiments to run; all by default.
        fresh: redo runs whose results exist.
    """

    preset: Literal["smoke", "cpu", "gpu", "paper"] | None = None
    only: tuple[Literal["table1", "one_shot"], ...] = EXPERIMENTS
    fresh: bool = False


def main(arguments: Arguments) -> None:
    """Do what is missing, then print the tables and where the files are."""
    name = arguments.preset or ("gpu" if torch.cuda.is_available() else "cpu")
    preset = load_preset(name)
    results_folder = HERE / "results" / name
    if "table1" in arguments.only:
        runs = [run for row in table1.rows(preset) for run in row.runs]
        results = do_runs(name, runs, results_folder / "runs", arguments.fresh)
        files = write_table(preset, results, results_folder)
        figures = rank_and_loss.draw(results_folder / "runs", HERE.parent / "paper_figures" / name)
        announce([*files, *figures])
    if "one_shot" in arguments.only and preset.one_shot is not None:
        announce(do_one_shot(preset, results_folder, arguments.fresh))


def announce(files: list[Path]) -> None:
    """Print the first of the files, a table, and where all of them are."""
    print(files[0].read_text())
    print("Files:", *(file.relative_to(HERE.parent) for file in files), sep="\n  ")


def do_one_shot(preset: Preset, folder: Path, fresh: bool) -> list[Path]:
    """Measure every adapter of the one-shot experiment that is not measured yet, and write its table."""
    artifacts, records = HERE / "artifacts" / preset.name, []
    for run in tqdm(one_shot_runs(preset), desc=f"{preset.name}: one-shot"):
        config = {"one_shot": asdict(preset.one_shot), "run": asdict(run)}
        file = folder / "one_shot" / f"seed{run.seed}_{digest(config)}.json"
        if fresh or not file.exists():
            if not (artifacts / run.key).exists():
                do_run(run, folder / "runs", artifacts)
            config_file = artifacts / f"{file.stem}.config.json"
            write_atomically(config_file, to_json(config))
            do("experiments.one_shot", config_file, file, artifacts / run.key)
        records.append(json.loads(file.read_text())["result"])
    return one_shot_table.write(preset, records, folder)


def do_runs(preset: str, runs: list[RunConfig], folder: Path, fresh: bool) -> dict[str, dict[str, Any]]:
    """Results of all runs by key; each missing one is done in a process of its own."""
    missing = [run for run in runs if fresh or not result_file(folder, run).exists()]
    artifacts = HERE / "artifacts" / preset
    for run in tqdm(missing, desc=f"{preset}: runs", disable=not missing):
        if run.method == "truncate" and not (artifacts / run.source.key).exists():
            do_run(run.source, folder, artifacts)
        do_run(run, folder, artifacts)
    return {run.key: json.loads(result_file(folder, run).read_text())["result"] for run in runs}


def do_run(run: RunConfig, folder: Path, artifacts: Path) -> None:
    """One run in a process of its own, so that peak memory is its own; stops everything if it fails."""
    file = result_file(folder, run)
    config = artifacts / f"{run.key}.config.json"
    write_atomically(config, to_json(asdict(run)))
    shutil.rmtree(artifacts / run.key, ignore_errors=True)
    source = [artifacts / run.source.key] if run.method == "truncate" else []
    do("experiments.run", config, file, artifacts / run.key, *source)


def do(module: str, config: Path, result: Path, *folders: Path) -> None:
    """Run ``python -m module CONFIG RESULT FOLDER...``; stops everything if it fails."""
    tqdm.write(f"→ {result.name}")
    command = [sys.executable, "-m", module, *map(str, (config, result, *folders))]
    if subprocess.run(command, cwd=HERE.parent).returncode:
        raise SystemExit(f"the run of {config} failed; see above. Finished runs are kept: run again to go on.")


def result_file(folder: Path, run: RunConfig) -> Path:
    """Where the result of a run lies; the name tells the run, the hash all its settings."""
    ranks = f"r{run.initial_rank}-{run.target_rank}" if run.initial_rank else "base"
    parts = [run.task, run.method, run.criterion, ranks, f"seed{run.seed}", run.key]
    return folder / ("_".join(part for part in parts if part) + ".json")


def write_table(preset: Preset, results: dict[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Table 1 as Markdown, with what it says in words, and as CSV."""
    frame = table1.table(preset, results)
    run = preset.run
    title = (
        f"Table 1, preset {preset.name}: {run.model} on {run.task}, {run.steps} steps of {run.batch_size} examples, "
        f"learning rate {run.learning_rate:g}, s = {run.scaling:g}, {run.test_examples} test examples"
    )
    markdown = frame.astype(object).where(frame.notna(), "").to_markdown(index=False)
    files = [folder / "table1.md", folder / "table1.csv"]
    write_atomically(files[0], f"# {title}\n\n{markdown}\n\n{table1.findings(preset, results)}")
    write_atomically(files[1], frame.to_csv(index=False))
    return files


if __name__ == "__main__":
    main(tyro.cli(Arguments))
