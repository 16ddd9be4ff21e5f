"""What `svd_fisher` takes with its statistics: ``python -m experiments.benchmarks.svd_fisher [--device cuda]``.

An adapter of SmolLM2, factors random and decaying, is reduced to a lower rank from calibration examples: on a CPU all
210 linear layers at rank 32 from sums, on a GPU the 120 projections of attention at rank 512 from word problems.  Time
is wall time, on a CPU processor time of one thread, so that a busy machine counts less; memory is the most that is held
beyond the model with its adapter.  The floor is the time of the products with the model's weights and with the
core gradients, in as many steps as the fits may take, by what the device reaches in a large product and a copy; of
memory, what is kept of the samples and the two moments.  Writes ``experiments/results/benchmark_svd_fisher.json``, of a
GPU ``benchmark_svd_fisher_gpu.json``.
"""

import argparse
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from experiments.benchmarks.machine import capability, floor, most_memory, on_gpu, seconds, write
from experiments.benchmarks.training import weight_dtype
from experiments.finetuning.calibration import batches_of, statistics_of
from experiments.finetuning.methods import prepare
from experiments.finetuning.models import load_base
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS
from prunedlora import reduce_adapter
from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.criteria import get_criterion
from prunedlora.linalg.fisher_truncation import CORE, GRID, LEAST_CORE
from prunedlora.statistics.core_gradients import MAX_BYTES, MAX_CORE, MAX_SAMPLES

NAME = "svd_fisher"
#: Most seconds on a CPU.
GOAL = 300.0
GIBIBYTE = 2**30


@dataclass(frozen=True)
class Setting:
    """The adapter, the data, and what becomes of the adapter.

    Attributes:
        run: model, task, adapted layers, ranks and size of the batches.
        examples: of the task.
    """

    run: RunConfig
    examples: int


_SMOLLM2 = RunConfig("smollm2", "arithmetic", initial_rank=32, target_rank=8, batch_size=16)
ON_CPU = Setting(replace(_SMOLLM2, target_modules=("all-linear",)), examples=512)
ON_GPU = Setting(
    replace(
        _SMOLLM2,
        task="gsm_symbolic",
        initial_rank=512,
        target_rank=64,
        precision="bf16_autocast",
    ),
    examples=1024,
)


@dataclass(frozen=True)
class Work:
    """What there is to do.

    Attributes:
        tokens: of all examples, padding left out.
        targets: those that are predicted.
        modules: adapted layers.
        rank: before.
        to: rank after.
        samples: whose core gradients are kept of each module.
        width: of all adapted layers together, d_out + d_in.
        blocks: frozen weights besides embedding and head.
        head: weights of the head.
    """

    tokens: int
    targets: int
    modules: int
    rank: int
    to: int
    samples: int
    width: int
    blocks: int
    head: int

    @property
    def core(self) -> int:
        """Side of the core gradients that are kept."""
        return min(self.rank, MAX_CORE)

    @property
    def fitted(self) -> int:
        """Entries of what is fitted to, of a module: samples, or as many rows as have the same squares, by entries."""
        side = min(self.core, max(CORE * self.to, LEAST_CORE))
        return min(self.samples, 2 * (side**2 + 1)) * side**2

    def passes_flops(self) -> float:
        """Operations of the passes over the data: twice where the core is smaller than the rank."""
        products = 4 * self.tokens * self.blocks + 4 * self.targets * self.head
        products += 6 * self.tokens * self.width * self.rank
        return float(products * (2 if self.rank > MAX_CORE else 1))

    def fits_flops(self, steps: int) -> float:
        """Operations with the core gradients: three products a step, for each pair of weights and for the fit."""
        return float(6 * self.modules * self.fitted * steps * (len(GRID) + 1))

    def fits_bytes(self, steps: int) -> float:
        """Bytes of core gradients that are read, in float64: twice a step, to choose the weights and to fit."""
        return float(8 * self.modules * self.fitted * steps * 4)

    def kept_bytes(self) -> int:
        """Of core gradients and two moments."""
        size = 2 if self.rank > MAX_CORE else 4
        return self.modules * (self.samples * self.core**2 * size + 2 * 8 * self.rank**2)


def adapted(setting: Setting, device: str) -> tuple[nn.Module, list[dict[str, Tensor]]]:
    """The model with its adapter, whose components decay, and the batches."""
    base, tokenizer = load_base(setting.run)
    model = prepare(base.to(device), setting.run)
    torch.manual_seed(0)
    for module in find_lora_modules(model):
        with torch.no_grad():
            decay = 1 / torch.arange(1, module.rank + 1, device=device)
            module.B.normal_(std=0.02).mul_(decay)
    examples = TASKS[setting.run.task].train(setting.examples, setting.run.seed)
    return model, batches_of(tokenizer, setting.run, examples, torch.device(device))


def work_of(setting: Setting, model: nn.Module, batches: list[dict[str, Tensor]]) -> Work:
    """What there is to do with an adapter and batches."""
    modules: list[LoraModule] = find_lora_modules(model)
    rank = setting.run.initial_rank
    core = min(rank, MAX_CORE) ** 2 * (2 if rank > MAX_CORE else 4)
    head = model.get_output_embeddings().weight.numel()  # type: ignore[operator]
    frozen = sum(p.numel() for p in model.parameters() if not p.requires_grad)
    return Work(
        tokens=sum(int(b["attention_mask"].sum()) for b in batches),
        targets=sum(int((b["labels"] >= 0).sum()) for b in batches),
        modules=len(modules),
        rank=rank,
        to=setting.run.target_rank,
        samples=min(setting.examples, MAX_SAMPLES, MAX_BYTES // core),
        width=sum(m.B.shape[0] + m.A.shape[1] for m in modules),
        blocks=frozen - head,
        head=head,
    )


def measure(setting: Setting, device: str) -> dict[str, dict[str, Any]]:
    """Seconds and memory of measuring statistics, of reducing the adapter, and of both."""
    model, batches = adapted(setting, device)
    work = work_of(setting, model, batches)
    rule = get_criterion("svd_fisher")
    found: dict[str, Any] = {}

    def measured() -> None:
        found.update(statistics_of(model, setting.run, rule.needs, batches, seed=0))

    def reduced() -> None:
        reduce_adapter(model, work.to, rule.name, found)

    rows = {"measuring": _timed(measured, device), "reducing": _timed(reduced, device)}
    # What is kept of the samples is there while the adapter is reduced.
    held = sum(
        t.numel() * t.element_size()
        for s in found.values()
        for t in vars(s).values()
        if t is not None
    )
    rows["reducing"]["bytes_above_model"] += held
    rows["whole"] = _whole(rows, work, rule.options["max_iter"], device)
    return rows


def _whole(
    rows: dict[str, dict[str, float]], work: Work, steps: int, device: str
) -> dict[str, Any]:
    parts = rows.values()
    memory = max(row["bytes_above_model"] for row in parts)
    passes = floor(0.0, work.passes_flops(), capability(device, weight_dtype(device)))
    fits = floor(work.fits_bytes(steps), work.fits_flops(steps), capability(device))
    row = {
        "seconds": sum(row["seconds"] for row in parts),
        "wall_seconds": sum(row["wall_seconds"] for row in parts),
        "floor_seconds": passes + fits,
        "gibibytes_above_model": memory / GIBIBYTE,
        "floor_gibibytes": work.kept_bytes() / GIBIBYTE,
        **asdict(work),
    }
    return row if on_gpu(device) else row | {"goal": GOAL, "reached": row["seconds"] <= GOAL}


def _timed(call: Callable[[], None], device: str) -> dict[str, float]:
    """Seconds, wall time and memory of a call."""
    spent: list[float] = []

    def watched() -> None:
        start = time.perf_counter()
        spent.append(seconds(call, device))
        spent.append(time.perf_counter() - start)

    memory = most_memory(watched, device)
    return {"seconds": spent[0], "wall_seconds": spent[1], "bytes_above_model": memory}


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cpu")
    device = parser.parse_args().device
    setting = ON_GPU if on_gpu(device) else ON_CPU
    if not on_gpu(device):
        torch.set_num_threads(1)
    rows = measure(setting, device)
    run = setting.run
    record = {
        "model": run.model,
        "task": run.task,
        "target_modules": list(run.target_modules),
        "batch_size": run.batch_size,
        "precision": run.precision,
        "examples": setting.examples,
    }
    what = "time and memory beyond the model of svd_fisher and its statistics"
    write(NAME, what, record, rows, device)


if __name__ == "__main__":
    main()
