"""Several trainings at once on one device: ``python -m experiments.benchmarks.together [--device cuda]``.

Each is a training of LoRA in a worker of its own, as the runner does them (see `experiments.running.workers`): on a
GPU SmolLM2 at rank 512 on word problems, on a CPU the tiny model on sums.  Counted are the tokens of all steps that
ended while all trainings were under way, padding left out.  The ceiling is the number of tokens a second at which
the device does the operations of a step at what it reaches in a large product.  Writes
``experiments/results/benchmark_together.json``, of a GPU ``benchmark_together_gpu.json``.
"""

import argparse
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from torch import nn

from experiments.benchmarks.machine import capability, on_gpu, wait, write
from experiments.benchmarks.training import weight_dtype
from experiments.finetuning.data import training_batches
from experiments.finetuning.methods import prepare
from experiments.finetuning.models import load_base
from experiments.finetuning.processes import processes
from experiments.jobs.step_cost import training
from experiments.running.workers import Workers
from experiments.settings.jobs import RunConfig
from experiments.settings.validation import read_settings
from theory.records import to_json, write_atomically

NAME = "together"
#: Steps that are not counted.
WARM_UP = 5
#: Seconds for which one training waits for the others.
PATIENCE = 120.0


@dataclass(frozen=True)
class Setting:
    """What is trained, how often at once, and for how long.

    Attributes:
        run: its steps are the most that are taken.
        counts: of trainings at once.
        seconds: of each training, besides its warm-up.
    """

    run: RunConfig
    counts: tuple[int, ...]
    seconds: float


ON_CPU = Setting(
    RunConfig("tiny", "arithmetic", initial_rank=8, target_rank=8, batch_size=4, steps=1_000),
    (1, 2),
    3.0,
)
ON_GPU = Setting(
    RunConfig(
        "smollm2",
        "gsm_symbolic",
        initial_rank=512,
        target_rank=512,
        steps=300,
        length_groups=16,
        learning_rate=3e-4,
        precision="bf16_autocast",
    ),
    (1, 4, 6),
    15.0,
)


def train(config: RunConfig, seconds: float, count: int, result: Path) -> None:
    """Train for some seconds, when all are ready; write when steps were over, by a clock that all processes share."""
    alone = processes()
    _, tokenizer = load_base(config)
    tokens = [
        int(batch["attention_mask"].sum()) for batch in training_batches(config, tokenizer, alone)
    ]
    steps = training(config, alone, [])
    for _ in range(WARM_UP):
        next(steps)
    wait(alone.device.type)
    meet(result, count)
    times = [time.monotonic()]
    for _ in tokens[WARM_UP:]:
        next(steps)
        times.append(time.monotonic())
        if times[-1] - times[0] > seconds:
            break
    wait(alone.device.type)
    # Steps are given to a GPU before it has done them; the last time is that of all.
    times[-1] = time.monotonic()
    write_atomically(
        result, to_json({"times": times, "tokens": tokens[WARM_UP:][: len(times) - 1]})
    )


def meet(result: Path, count: int, seconds: float = PATIENCE) -> None:
    """Wait until as many processes have come here, each with a result file of its own in the same folder.

    Raises:
        TimeoutError: some do not come.
    """
    result.with_suffix(".ready").touch()
    end = time.monotonic() + seconds
    while len(list(result.parent.glob("*.ready"))) < count:
        if time.monotonic() > end:
            raise TimeoutError(f"another training was not ready within {seconds:.0f} s")
        time.sleep(0.01)


def tokens_per_second(trainings: list[dict[str, list[float]]]) -> float:
    """Of all trainings, while all of them were under way.

    Raises:
        RuntimeError: they were not at any time.

    >>> one = {"times": [0.0, 1.0, 2.0, 3.0], "tokens": [10, 10, 10]}
    >>> two = {"times": [1.0, 2.0, 3.0, 4.0], "tokens": [5, 5, 5]}
    >>> tokens_per_second([one, two])
    15.0
    """
    start = max(t["times"][0] for t in trainings)
    end = min(t["times"][-1] for t in trainings)
    if end <= start:
        raise RuntimeError(
            "the trainings were not under way at the same time; let them take longer"
        )
    done = sum(
        tokens
        for t in trainings
        for over, tokens in zip(t["times"][1:], t["tokens"], strict=True)
        if start < over <= end
    )
    return done / (end - start)


def at_once(setting: Setting, count: int, workers: Workers) -> float:
    """Tokens a second of so many trainings."""
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(count) as pool:
        folder = Path(scratch)
        config = folder / "config.json"
        write_atomically(config, to_json(asdict(setting.run)))
        results = [folder / f"{i}.json" for i in range(count)]

        def do(result: Path) -> str:
            arguments = ["--job", config, setting.seconds, count, result]
            return workers.do("experiments.benchmarks.together", [*map(str, arguments)]).error

        failed = next((error for error in pool.map(do, results) if error), "")
        if failed:
            raise RuntimeError(failed)
        return tokens_per_second([json.loads(result.read_text()) for result in results])


def step_flops_per_token(model: nn.Module, config: RunConfig) -> float:
    """Operations of a step for each token: with frozen weights in two products, with trained ones in three."""
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    frozen = sum(p.numel() for p in model.parameters()) - trained
    return float(4 * frozen + 6 * trained)


def measure(setting: Setting, device: str) -> dict[str, dict[str, Any]]:
    """Tokens a second by the number of trainings, and the best."""
    workers = Workers(max(1, (os.cpu_count() or 1) // max(setting.counts)))
    rows: dict[str, dict[str, Any]] = {}
    try:
        for count in setting.counts:
            rate = at_once(setting, count, workers)
            rows[f"{count} at once"] = {"trainings": count, "tokens_per_second": rate}
    finally:
        workers.close()
    base, _ = load_base(setting.run)
    flops = step_flops_per_token(prepare(base, setting.run), setting.run)
    able = capability(device, weight_dtype(device))
    best = max(rows.values(), key=lambda row: row["tokens_per_second"])
    rows["best"] = best | {"ceiling_tokens_per_second": able["flops_per_second"] / flops}
    return rows


def main(arguments: list[str] | None = None) -> None:
    """Measure, write, print; or, in a worker, be one of the trainings."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--job", nargs=4, metavar=("CONFIG", "SECONDS", "COUNT", "RESULT"))
    given = parser.parse_args(arguments)
    if given.job:
        config, seconds, count, result = given.job
        train(read_settings(RunConfig, Path(config)), float(seconds), int(count), Path(result))
        return
    setting = ON_GPU if on_gpu(given.device) else ON_CPU
    rows = measure(setting, given.device)
    run = setting.run
    record = {
        "model": run.model,
        "task": run.task,
        "rank": run.initial_rank,
        "batch_size": run.batch_size,
        "seconds_each": setting.seconds,
        "precision": run.precision,
        "products": str(weight_dtype(given.device)),
    }
    write(NAME, "tokens a second of all trainings together", record, rows, given.device)


if __name__ == "__main__":
    main()
