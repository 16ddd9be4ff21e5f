"""What collecting statistics costs: ``python -m experiments.benchmarks.statistics [--steps N]``.

Times one training step (forward, backward, optimiser) of a random Llama with LoRA on all its linear layers, with
and without the statistics that each criterion needs, collected at every step (the worst case: by default they are
collected at the steps of events only).  Each step with them follows one without, in one process, so that a busy
machine slows both alike; reported is the median of these ratios, with quartiles, beside that of two plain steps.
Writes ``experiments/results/benchmark_statistics.json``, of a GPU ``benchmark_statistics_gpu.json``.
"""

import argparse
import statistics
from typing import Any

import peft
import torch
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM

from experiments.benchmarks.machine import machine, on_gpu, result_file
from experiments.benchmarks.machine import seconds as step_seconds
from experiments.reporting import goals
from prunedlora.adapters.modules import find_lora_modules
from prunedlora.criteria import available_criteria, get_criterion
from prunedlora.statistics.collector import Collector
from theory.records import to_json, write_atomically

NAME = "statistics"
SHAPE = {
    "hidden_size": 384,
    "intermediate_size": 1024,
    "num_hidden_layers": 4,
    "num_attention_heads": 6,
}
BATCH = 8
LENGTH = 128
RANK = 64
#: Largest ratio aimed at where gradients are read, and where activations are recorded.
LIMIT_OF_GRADIENTS = 1.05
LIMIT = 1.10


def model_and_optimizer(device: str) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The same model for all variants."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(LlamaConfig(vocab_size=1024, num_key_value_heads=6, **SHAPE))
    model = peft.get_peft_model(model, peft.LoraConfig(r=RANK, target_modules="all-linear")).to(
        device
    )
    return model, torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-4)


def measure(steps: int, device: str) -> dict[tuple[str, ...], list[tuple[float, float]]]:
    """Seconds of steps (without, with) each set of needed statistics; the empty set compares two plain steps."""
    model, optimizer = model_and_optimizer(device)
    modules = find_lora_modules(model)
    tokens = torch.randint(1024, (BATCH, LENGTH), device=device)

    def train(collector: Collector) -> None:
        optimizer.zero_grad()
        model(input_ids=tokens, labels=tokens).loss.backward()
        collector.update()
        optimizer.step()

    def seconds(needs: tuple[str, ...]) -> float:
        with Collector(model, modules, needs) as collector:
            return step_seconds(lambda: train(collector), device)

    # The first steps take longer than the others.
    seconds(())
    seconds(())
    times: dict[tuple[str, ...], list[tuple[float, float]]] = {
        needs_of(name): [] for name in available_criteria()
    }
    for _ in range(steps):
        for needs, pairs in times.items():
            pairs.append((seconds(()), seconds(needs)))
    return times


def needs_of(name: str) -> tuple[str, ...]:
    """The statistics that are collected for a criterion; gradients and random numbers are there anyway."""
    return tuple(
        sorted(
            n for n in get_criterion(name).needs if n != "noise" and not n.startswith("gradient_")
        )
    )


def report(times: dict[tuple[str, ...], list[tuple[float, float]]], device: str) -> dict[str, Any]:
    """Ratios by criterion, with the environment."""
    rows = {}
    for name in available_criteria():
        ratios = [with_ / without for without, with_ in times[needs_of(name)]]
        low, middle, high = statistics.quantiles(ratios, n=4)
        recorded = {"C_z", "U", "core_gradients"} & set(needs_of(name))
        limit = LIMIT if recorded else LIMIT_OF_GRADIENTS
        rows[name] = {
            "collects": list(needs_of(name)),
            "ratio": round(middle, 4),
            "quartiles": [round(low, 4), round(high, 4)],
            "limit": limit,
            "within_limit": middle <= limit,
        }
    return {
        "what": "step with statistics collected at every step / the plain step before it: median and quartiles",
        "setting": {
            **SHAPE,
            "batch": BATCH,
            "length": LENGTH,
            "rank": RANK,
            "pairs": len(times[()]),
        },
        "plain_step_seconds": round(statistics.median(without for without, _ in times[()]), 4),
        "criteria": rows,
        "environment": machine(device),
    }


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=15)
    parser.add_argument("--device", default="cpu")
    arguments = parser.parse_args()
    out = report(measure(arguments.steps, arguments.device), arguments.device)
    if on_gpu(arguments.device):
        out["goals"] = goals.judged(NAME, out)
    write_atomically(result_file(NAME, arguments.device), to_json(out))
    for name, row in out["criteria"].items():
        print(
            f"{name:18} {row['ratio']:.3f}  {'ok' if row['within_limit'] else 'OVER ' + str(row['limit'])}"
        )


if __name__ == "__main__":
    main()
