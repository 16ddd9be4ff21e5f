"""Table 2: what a step of training costs by each method, side by side with LoRA at the target rank.

``python -m experiments.jobs.step_cost CONFIG.json RESULT.json`` trains two models in turn, a block of steps each, so
that whatever else the machine does slows both.
"""

import sys
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from experiments.finetuning.methods import prepare
from experiments.finetuning.models import load_base
from experiments.finetuning.processes import Processes, processes
from experiments.finetuning.train import train_steps
from experiments.jobs.record import write_record
from experiments.settings.jobs import Cost, RunConfig
from experiments.settings.validation import read_settings
from prunedlora import PruneEvent


def measure(config: Cost) -> dict[str, Any]:
    """Seconds of every block of steps but the first, of the run and of the reference; and of the run's events."""
    together = processes()
    run = config.run
    events: list[PruneEvent] = []
    both = training(run, together, events), training(config.reference, together, [])
    seconds: tuple[list[float], list[float]] = ([], [])
    blocks = range(run.steps // config.block)
    for _ in tqdm(blocks, desc=f"{run.method} {run.criterion}".strip(), leave=False):
        for steps, durations in zip(both, seconds, strict=True):
            durations.append(_timed(steps, config.block, together.device))
    next(both[0], None)  # the run ends, and with it the list of its events is complete
    return {
        "run": seconds[0][1:],
        "reference": seconds[1][1:],
        "events": _events(events, config.block),
        "block": config.block,
    }


def training(run: RunConfig, together: Processes, events: list[PruneEvent]) -> Iterator[Tensor]:
    """The steps of a run, from the base model on, see `experiments.finetuning.train.train_steps`."""
    torch.manual_seed(run.seed)
    base, tokenizer = load_base(run)
    return train_steps(prepare(base.to(together.device), run), tokenizer, run, together, events)


def _timed(steps: Iterator[Tensor], count: int, device: torch.device) -> float:
    """Seconds of some steps."""
    start = time.perf_counter()
    for _ in range(count):
        next(steps)
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter() - start


def _events(events: list[PruneEvent], block: int) -> list[dict[str, Any]]:
    """Seconds of every event, and the block of steps in which it was; -1 for the first, whose seconds do not count."""
    return [{"block": (event.step - 1) // block - 1, "seconds": event.seconds} for event in events]


def main(arguments: list[str]) -> None:
    """Read the configuration, measure, write the result."""
    config_file, result_file = map(Path, arguments)
    config = read_settings(Cost, config_file)
    write_record(result_file, asdict(config), measure(config))


if __name__ == "__main__":
    main(sys.argv[1:])
