"""What a pruning event takes, by every rule: ``python -m experiments.benchmarks.event [--device cuda]``.

Through `LoraRankPruner`, optimiser state included, on random adapters: on a CPU eight modules of 1024 x 1024 at rank
128, on a GPU the 128 attention projections of Llama-3-8B at rank 512.  `svd_fisher` is left out: it fits each module to
samples, by as many steps as it needs.  Beside the events stand, for the same modules and in the same process,

* the published code's way: the pseudo-inverse anew for each component that goes, and one number a component read from
  the device;
* the naive way: equation (8) solved for every component that might go, or the dense SVD of BA;

both on a few of the modules, the seconds multiplied by how many there are.  The floor is the time in which
the device, as measured, reads and writes once what a rule must, or carries out its decompositions, whichever is longer.
Writes ``experiments/results/benchmark_event.json``, of a GPU ``benchmark_event_gpu.json``.
"""

import argparse
import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.machine import capability, floor, median_seconds, seconds, write
from prunedlora import LoraRankPruner, PruneConfig
from prunedlora.adapters.modules import find_lora_modules
from prunedlora.compress.benchmark import random_adapter
from prunedlora.criteria import available_criteria, get_criterion
from prunedlora.factors import Factors
from prunedlora.linalg.curvature import damped
from prunedlora.linalg.elimination import block_solution
from prunedlora.statistics.collector import Collector

NAME = "event"
#: Events that are timed, after one that is not.
EVENTS = 3
#: Beginnings of the names of statistics that have an entry for each weight, and of r x r matrices.
PER_WEIGHT = ("gradient", "sensitivity", "uncertainty")
MOMENTS = ("gram", "fisher", "C_z", "U")
#: How many times faster than the naive way an event should be on a CPU.
AIM = 15.0


@dataclass(frozen=True)
class Setting:
    """The adapter, and what an event removes.

    Attributes:
        shapes: (d_out, d_in) of every module.
        rank: before the first event.
        count: components that each module loses at an event.
        sampled: modules on which the slow ways are timed.
    """

    shapes: list[tuple[int, int]]
    rank: int
    count: int
    sampled: int


ON_CPU = Setting([(1024, 1024)] * 8, rank=128, count=2, sampled=2)
ON_GPU = Setting([(4096, 4096), (1024, 4096), (1024, 4096), (4096, 4096)] * 32, 512, 2, 1)


class TimedPruner(LoraRankPruner):
    """A pruner that keeps the seconds of its events."""

    def __init__(self, *args: Any, device: str, **kwargs: Any) -> None:
        self._device = device
        self.seconds: list[float] = []
        super().__init__(*args, **kwargs)

    def _prune(self, *args: Any) -> None:
        self.seconds.append(seconds(lambda: super(TimedPruner, self)._prune(*args), self._device))


def adapted(setting: Setting, device: str) -> nn.Module:
    """Linear layers with random adapters, well conditioned."""
    model = random_adapter(setting.shapes, setting.rank).to(device)
    torch.manual_seed(0)
    for module in find_lora_modules(model):
        nn.init.normal_(module.B)
        nn.init.normal_(module.A, std=module.A.shape[1] ** -0.5)
    return model


def backward(model: nn.Module, rank: int, device: str) -> None:
    """Gradients of a loss of every layer's own, over more tokens than components."""
    for module in find_lora_modules(model):
        x = torch.randn(4, rank, module.A.shape[1], device=device)
        module.layer(x).square().mean().backward()


def event_seconds(name: str, setting: Setting, device: str) -> float:
    """Median seconds of an event."""
    model = adapted(setting, device)
    parameters = [p for m in find_lora_modules(model) for p in (m.B, m.A)]
    optimizer = torch.optim.AdamW(parameters, lr=1e-4)
    steps = EVENTS + 2
    config = PruneConfig(
        target_rank=setting.rank - (EVENTS + 1) * setting.count,
        criterion=name,
        interval=1,
        per_event=setting.count,
        warmup_steps=1,
    )
    pruner = TimedPruner(model, optimizer, config, total_steps=steps, device=device)
    with pruner:
        for _ in range(steps):
            optimizer.zero_grad()
            backward(model, setting.rank, device)
            optimizer.step()
    return statistics.median(pruner.seconds[1:])


def published(factors: Factors, grams: tuple[Tensor, Tensor], count: int) -> list[int]:
    """Algorithm 1 with a pseudo-inverse for each removal and a number read for each component."""
    weights = [factors.B.double(), factors.A.mT.double()]
    curvatures = [gram.clone() for gram in grams]
    removed: list[int] = []
    for _ in range(count):
        inverses = [torch.linalg.pinv(H, hermitian=True) for H in curvatures]
        scores = {
            j: sum(
                (0.5 * W[:, j].square().sum() / inverse[j, j]).item()
                for W, inverse in zip(weights, inverses, strict=True)
            )
            for j in range(factors.rank)
            if j not in removed
        }
        j = min(scores, key=lambda j: scores[j])
        removed.append(j)
        for W, H, inverse in zip(weights, curvatures, inverses, strict=True):
            W -= W[:, j : j + 1] @ inverse[j : j + 1] / inverse[j, j]
            H[j] = 0.0
            H[:, j] = 0.0
    return removed


def by_equation_8(factors: Factors, grams: tuple[Tensor, Tensor], count: int) -> list[int]:
    """Algorithm 1 with equation (8) solved for every component that might go next."""
    removed: list[int] = []
    for _ in range(count):
        scores = {}
        for j in range(factors.rank):
            if j not in removed:
                pairs = zip((factors.B, factors.A.mT), grams, strict=True)
                costs = [block_solution(W, H, [*removed, j])[1] for W, H in pairs]
                scores[j] = float(costs[0] + costs[1])
        removed.append(min(scores, key=lambda j: scores[j]))
    return removed


def by_dense_svd(factors: Factors, count: int) -> Tensor:
    """The dense product, truncated."""
    U, S, Vh = torch.linalg.svd(factors.B @ factors.A, full_matrices=False)
    k = factors.rank - count
    kept: Tensor = (U[:, :k] * S[:k]) @ Vh[:k]
    return kept


def slow_ways(setting: Setting, device: str) -> tuple[dict[str, float], bool]:
    """Seconds of the ways beside, for all modules, and whether Algorithm 1 chooses alike in all of them."""
    part = Setting(setting.shapes[: setting.sampled], setting.rank, setting.count, setting.sampled)
    model = adapted(part, device)
    modules = find_lora_modules(model)
    rule = get_criterion("prunedlora2025")
    damping = rule.options["damping"]
    cases = []
    with Collector(model, modules, rule.needs) as collector:
        backward(model, part.rank, device)
        collector.update()
        for module in modules:
            measured = collector.measure(module)
            grams = (
                damped(measured.require("gram_B"), damping),
                damped(measured.require("gram_A"), damping),
            )
            cases.append((Factors(module.B.detach(), module.A.detach()), grams, measured))
    ways: dict[str, Callable[[], object]] = {
        "published": lambda: [published(f, g, part.count) for f, g, _ in cases],
        "naive": lambda: [by_equation_8(f, g, part.count) for f, g, _ in cases],
        "dense_svd": lambda: [by_dense_svd(f, part.count) for f, _, _ in cases],
    }
    share = len(setting.shapes) / len(cases)
    timings = {name: share * median_seconds(call, device, 1) for name, call in ways.items()}
    chosen = [rule.reduce(f, s, part.count).removed.tolist() for f, _, s in cases]
    alike = all(
        chosen[i] == published(f, g, part.count) == by_equation_8(f, g, part.count)
        for i, (f, g, _) in enumerate(cases)
    )
    return timings, alike


def floor_of(name: str, setting: Setting, able: dict[str, float]) -> float:
    """The least seconds of an event, see the module."""
    criterion = get_criterion(name)
    r = setting.rank
    entries = sum((d_out + d_in) * r for d_out, d_in in setting.shapes)
    modules = len(setting.shapes)
    # Statistics are as large as a factor, in float32, or r x r, in float64; factors are read and written.
    per_weight = sum(n.startswith(PER_WEIGHT) for n in criterion.needs)
    moments = sum(n.startswith(MOMENTS) for n in criterion.needs)
    moved = 4 * entries * (2 + per_weight / 2) + 8 * r**2 * moments * modules
    if criterion.rotates:
        # Gram matrices and new factors; three tensors of each parameter into the new basis; eigenvectors.
        return floor(moved, entries * r * (2 + 2 + 6) + 9 * r**3 * modules, able)
    # A Cholesky factor and its inverse.
    return floor(moved, 2 / 3 * r**3 * moments * modules, able)


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--rules", nargs="*", default=sorted(available_criteria()))
    arguments = parser.parse_args()
    setting = ON_GPU if arguments.device.startswith("cuda") else ON_CPU
    able = capability(arguments.device)
    slow, alike = slow_ways(setting, arguments.device)
    rows: dict[str, dict[str, Any]] = {}
    for name in arguments.rules:
        if name == "svd_fisher":
            continue
        seconds = event_seconds(name, setting, arguments.device)
        rows[name] = {"seconds": seconds, "floor_seconds": floor_of(name, setting, able)}
        if name == "prunedlora2025":
            rows[name] |= {"times_published": slow["published"] / seconds}
            rows[name] |= {"times_naive": slow["naive"] / seconds, "choose_alike": alike}
        if name == "svd":
            rows[name] |= {"times_naive": slow["dense_svd"] / seconds}
        if "times_naive" in rows[name]:
            rows[name] |= {"reached": rows[name]["times_naive"] >= AIM}
    rows |= {way: {"seconds": value} for way, value in slow.items()}
    record = {
        "shapes": f"{len(setting.shapes)} modules, {setting.shapes[:4]} and so on",
        "rank": setting.rank,
        "count": setting.count,
        "slow_ways_timed_on": setting.sampled,
        "aim": AIM,
        **able,
    }
    what = (
        "seconds of a pruning event of all modules, median; and of other ways to choose and remove"
    )
    write(NAME, what, record, rows, arguments.device)


if __name__ == "__main__":
    main()
