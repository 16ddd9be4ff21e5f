"""A whole run from a high rank to a low one: ``python -m experiments.benchmarks.whole_run [--device cuda]``.

On a CPU a small random Llama from rank 64 to 8, on a GPU one of SmolLM2's shape from 512 to 64, in 14 events by each of
some rules; beside them LoRA at the low and at the high rank.  All take their steps in turn in one process, so that a
busy machine slows them alike; reported are the sums over all steps, events and the end of the run included, relative to
both.  The floor is that of steps whose tensors have the rank of the schedule at that step, see `step`, relative to that
of LoRA at the low rank.  Memory is counted after every step: factors, gradients, the optimiser's state and what is
collected; ``falls`` says whether after the last event no more is held than by LoRA at the low rank, ``held_at_the_end``
is what the run leaves.  Events are far closer than in a real training, so that they can be seen.  Writes
``experiments/results/benchmark_whole_run.json``, of a GPU ``benchmark_whole_run_gpu.json``.
"""

import argparse
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.machine import capability, floor, seconds, write
from experiments.benchmarks.training import (
    SMOLLM2,
    Shape,
    model_and_optimizer,
    step_bytes,
    step_flops,
    stepper,
    weight_dtype,
)
from prunedlora import LoraRankPruner, PruneConfig

NAME = "whole_run"
RULES = ("svd", "prunedlora2025", "kfac", "magnitude")
EVENTS = 14
#: Largest time of a run relative to LoRA at its high rank, in which nothing is pruned.
GOAL = 1.02
#: What is held after the last event, relative to LoRA at the low rank.
GOAL_OF_MEMORY = 1.02


@dataclass(frozen=True)
class Setting:
    """The model, and the schedule of the runs.

    Attributes:
        shape: of the model.
        high: rank before the first event.
        low: rank after the last.
        interval: steps between events, and before the first.
        tail: steps after the last event.
    """

    shape: Shape
    high: int
    low: int
    interval: int
    tail: int

    @property
    def per_event(self) -> int:
        """Components that each module loses at an event."""
        return -(-(self.high - self.low) // EVENTS)

    @property
    def steps(self) -> int:
        """Of a run."""
        return self.interval * (EVENTS + 1) + self.tail

    def config(self, rule: str) -> PruneConfig:
        """The settings of a run by a rule."""
        return PruneConfig(
            target_rank=self.low,
            criterion=rule,
            interval=self.interval,
            per_event=self.per_event,
            warmup_steps=self.interval,
        )

    def ranks(self) -> list[int]:
        """The rank that is alive in the forward pass of every step: an event changes that of the next."""
        events = dict(self.config("magnitude").schedule.events(self.high))
        ranks = [self.high]
        for step in range(1, self.steps):
            ranks.append(events.get(step, ranks[-1]))
        return ranks


ON_CPU = Setting(Shape(384, 1024, 4, 6, 6, 1024, batch=4, length=128), 64, 8, interval=2, tail=4)
ON_GPU = Setting(SMOLLM2, 512, 64, interval=8, tail=20)


@dataclass
class Training:
    """A run under way.

    Attributes:
        model: with its adapter.
        optimizer: that trains it.
        pruner: that lowers its rank; None for plain LoRA.
        seconds: of every step so far, and of the end.
        held: bytes after every step.
    """

    model: nn.Module
    optimizer: torch.optim.Optimizer
    pruner: LoraRankPruner | None
    seconds: list[float] = field(default_factory=list)
    held: list[int] = field(default_factory=list)


def runs(setting: Setting, rules: Iterable[str], device: str) -> dict[str, Training]:
    """All runs, step by step in turn."""
    found = {name: _training(setting, rank, None, device) for name, rank in _plain(setting)}
    found |= {rule: _training(setting, setting.high, rule, device) for rule in rules}
    steps = {n: stepper(t.model, t.optimizer, setting.shape, device) for n, t in found.items()}
    for _ in range(setting.steps):
        for name, training in found.items():
            training.seconds.append(seconds(steps[name], device))
            training.held.append(held(training))
    for training in found.values():
        if training.pruner is not None:
            training.seconds.append(seconds(training.pruner.finish, device))
    return found


def held(training: Training) -> int:
    """Bytes of factors, gradients, the optimiser's state, and what a pruner has collected."""
    tensors: list[Tensor] = []
    for group in training.optimizer.param_groups:
        for p in group["params"]:
            tensors += [p] if p.grad is None else [p, p.grad]
            tensors += [t for t in training.optimizer.state[p].values() if isinstance(t, Tensor)]
    if training.pruner is not None and len(training.pruner.events) < EVENTS:
        tensors += training.pruner.state_dict()["statistics"].values()
    return sum(t.numel() * t.element_size() for t in tensors)


def report(
    setting: Setting, found: dict[str, Training], able: dict[str, float], device: str
) -> dict[str, dict[str, Any]]:
    """A row for every run."""
    (low, _), (high, _) = _plain(setting)

    def least(ranks: list[int]) -> float:
        return sum(
            floor(step_bytes(setting.shape, r, device), step_flops(setting.shape, r), able)
            for r in ranks
        )

    of = {low: [setting.low] * setting.steps, high: [setting.high] * setting.steps}
    rows: dict[str, dict[str, Any]] = {}
    for name, training in found.items():
        total = sum(training.seconds)
        rows[name] = {
            "seconds": total,
            "times_low": total / sum(found[low].seconds),
            "times_high": total / sum(found[high].seconds),
            "floor_times_low": least(of.get(name, setting.ranks())) / least(of[low]),
            "held": training.held[:: setting.interval],
            "held_at_the_end": held(training),
        }
        if training.pruner is not None:
            at_low = training.held[-1] / found[low].held[-1]
            rows[name] |= {
                "held_times_low": at_low,
                "falls": at_low <= GOAL_OF_MEMORY,
                "goal": GOAL,
                "reached": rows[name]["times_high"] <= GOAL,
            }
    return rows


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rules", nargs="*", default=RULES)
    arguments = parser.parse_args()
    device = arguments.device
    setting = ON_GPU if device.startswith("cuda") else ON_CPU
    if device == "cpu":
        torch.set_num_threads(1)
    able = capability(device, weight_dtype(device))
    rows = report(setting, runs(setting, arguments.rules, device), able, device)
    record = {
        **vars(setting.shape),
        "high": setting.high,
        "low": setting.low,
        "steps": setting.steps,
        "events": EVENTS,
        "interval": setting.interval,
        "held_after_every": f"{setting.interval} steps, bytes",
        "goal_of_memory": GOAL_OF_MEMORY,
        "products": str(weight_dtype(device)),
        **able,
    }
    what = "seconds of whole runs, steps and events, and bytes that are held; LoRA at both ranks beside them"
    write(NAME, what, record, rows, device)


def _plain(setting: Setting) -> list[tuple[str, int]]:
    """Names of plain LoRA at the low and at the high rank, with the rank."""
    return [(f"LoRA, rank {rank}", rank) for rank in (setting.low, setting.high)]


def _training(setting: Setting, rank: int, rule: str | None, device: str) -> Training:
    model, optimizer = model_and_optimizer(setting.shape, rank, device)
    if rule is None:
        return Training(model, optimizer, None)
    pruner = LoraRankPruner(model, optimizer, setting.config(rule), total_steps=setting.steps)
    return Training(model, optimizer, pruner)


if __name__ == "__main__":
    main()
