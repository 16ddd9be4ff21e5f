"""What a training step takes, alone and with every pruner: ``python -m experiments.benchmarks.step [--device cuda]``.

LoRA at one rank on all linear layers of a model of SmolLM2's shape with random weights (on a CPU four of its blocks at
rank 64 in float32, on a GPU all of it at rank 512 in bfloat16 by autocast).  A pruner's step is one at which it
collects its statistics, without an event; criteria that need the same statistics are measured once.  Each step with a
pruner follows one without it in one process, so that a busy machine slows both alike: ratios are medians of such
pairs, with quartiles.  The floor is the time of the operations and of the bytes that a step cannot do without,
whichever takes longer, by what the device reaches in a large product and a copy.  Writes
``experiments/results/benchmark_step.json``, of a GPU ``benchmark_step_gpu.json``.
"""

import argparse
import statistics
from typing import Any

import torch

from experiments.benchmarks.machine import capability, floor, seconds, write
from experiments.benchmarks.statistics import LIMIT, LIMIT_OF_GRADIENTS, needs_of
from experiments.benchmarks.training import (
    SMOLLM2,
    Shape,
    model_and_optimizer,
    step_bytes,
    step_flops,
    stepper,
    weight_dtype,
)
from prunedlora import LoraRankPruner, PruneConfig, available_criteria
from prunedlora.statistics.core_gradients import MAX_CORE

NAME = "step"
ON_CPU = Shape(576, 1536, 4, 9, 3, 4096, batch=4, length=128), 64
ON_GPU = SMOLLM2, 512
#: The first event is that many steps away.
FAR = 10_000
PLAIN = "LoRA"


def measure(
    shape: Shape, rank: int, pairs: int, device: str
) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """Seconds of steps (without, with) a pruner, by the statistics that it needs."""
    model, optimizer = model_and_optimizer(shape, rank, device)
    step = stepper(model, optimizer, shape, device)
    criteria = {needs_of(name): name for name in available_criteria()}

    def with_pruner(name: str) -> float:
        # Collects at every step up to the event that never comes.
        config = PruneConfig(
            target_rank=1, criterion=name, per_event=rank, warmup_steps=FAR, window=2 * FAR
        )
        pruner = LoraRankPruner(model, optimizer, config, total_steps=2 * FAR)
        try:
            return seconds(step, device)
        finally:
            pruner.close()

    # The first steps take longer than the others, and B is zero before them.
    for _ in range(2):
        step()
    times: dict[tuple[str, ...], list[tuple[float, float]]] = {needs: [] for needs in criteria}
    for _ in range(pairs):
        for needs, name in criteria.items():
            times[needs].append((seconds(step, device), with_pruner(name)))
    return times


def statistics_flops(needs: tuple[str, ...], shape: Shape, rank: int) -> float:
    """Operations of the products that statistics are made of, at one step."""
    of_gradients = sum(n.startswith(("gram_", "fisher_")) for n in needs)
    of_tokens = sum(n in ("C_z", "U") for n in needs)
    products = shape.adapted_width * rank**2 * of_gradients  # two of them, one for each factor
    products += 2 * shape.tokens * rank**2 * of_tokens * shape.modules
    if "core_gradients" in needs:
        products += 2 * shape.tokens * min(rank, MAX_CORE) ** 2 * shape.modules
    return float(products)


def statistics_bytes(needs: tuple[str, ...], shape: Shape, rank: int) -> float:
    """Bytes of what statistics are made of and added to, at one step."""
    numbers = shape.adapted_width * rank
    of_gradients = sum(n.startswith(("gram_", "fisher_")) for n in needs)
    per_weight = sum(n.startswith(("sensitivity", "uncertainty")) for n in needs)
    moments = sum(n in ("C_z", "U") for n in needs) + of_gradients
    moved = 4 * numbers * of_gradients / 2 + 16 * rank**2 * moments * shape.modules
    if (
        per_weight
    ):  # factors and gradients are read; averages, each of half of the numbers, read and written
        moved += 4 * numbers * (2 + per_weight)
    if "core_gradients" in needs:
        moved += 2 * shape.batch * min(rank, MAX_CORE) ** 2 * shape.modules
    return float(moved)


def report(
    times: dict[tuple[str, ...], list[tuple[float, float]]],
    shape: Shape,
    rank: int,
    able: dict[str, float],
    device: str,
) -> dict[str, dict[str, Any]]:
    """A row for plain LoRA, and one for the pruner of every criterion."""
    plain = statistics.median(without for pairs in times.values() for without, _ in pairs)
    flops, moved = step_flops(shape, rank), step_bytes(shape, rank, device)
    least = floor(moved, flops, able)
    rows: dict[str, dict[str, Any]] = {
        PLAIN: {
            "seconds": plain,
            "tokens_per_second": shape.tokens / plain,
            "floor_seconds": least,
            "times_floor": plain / least,
        }
    }
    for name in sorted(available_criteria()):
        needs = needs_of(name)
        low, middle, high = statistics.quantiles([b / a for a, b in times[needs]], n=4)
        taken = statistics.median(b for _, b in times[needs])
        with_statistics = floor(
            moved + statistics_bytes(needs, shape, rank),
            flops + statistics_flops(needs, shape, rank),
            able,
        )
        limit = LIMIT if {"C_z", "U", "core_gradients"} & set(needs) else LIMIT_OF_GRADIENTS
        rows[name] = {
            "collects": list(needs),
            "tokens_per_second": shape.tokens / taken,
            "ratio": middle,
            "quartiles": [low, high],
            "floor_seconds": with_statistics,
            "floor_ratio": with_statistics / least,
            "goal": limit,
            "reached": middle <= limit,
        }
    return rows


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--pairs", type=int, default=5)
    arguments = parser.parse_args()
    device = arguments.device
    shape, rank = ON_GPU if device.startswith("cuda") else ON_CPU
    if device == "cpu":
        torch.set_num_threads(1)
    able = capability(device, weight_dtype(device))
    times = measure(shape, rank, arguments.pairs, device)
    rows = report(times, shape, rank, able, device)
    setting = {
        **vars(shape),
        "rank": rank,
        "pairs": arguments.pairs,
        "products": str(weight_dtype(device)),
        **able,
    }
    what = "seconds of a training step, and a step with a pruner's statistics over the one before it without: medians"
    write(NAME, what, setting, rows, device)


if __name__ == "__main__":
    main()
