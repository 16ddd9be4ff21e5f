"""How long answers take: ``python -m experiments.benchmarks.decoding [--device cuda]``.

As in the evaluation of a run: SmolLM2 with an adapter that has not learnt anything, so that hardly any text ends
early; on a GPU 250 word problems of up to 320 new tokens at once, on a CPU 50 sums of 6.  The floor is the time in
which, for each new token, the device reads all weights and all keys and values so far, or multiplies by the weights,
whichever is longer.  Time is wall time on a GPU, processor time of one thread on a CPU.  Writes
``experiments/results/benchmark_decoding.json``, of a GPU ``benchmark_decoding_gpu.json``.
"""

import argparse
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from experiments.benchmarks.machine import capability, floor, on_gpu, seconds, write
from experiments.benchmarks.training import SMOLLM2, weight_dtype
from experiments.finetuning.evaluate import answers
from experiments.finetuning.methods import prepare
from experiments.finetuning.models import load_base
from experiments.finetuning.precision import forward, products
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS

NAME = "decoding"


@dataclass(frozen=True)
class Setting:
    """The model and the problems.

    Attributes:
        run: names the model, the task, the precision, and how much is decoded together.
        problems: of the test split.
    """

    run: RunConfig
    problems: int


ON_CPU = Setting(RunConfig("smollm2", "arithmetic", initial_rank=64, target_rank=64), 50)
ON_GPU = Setting(
    RunConfig(
        "smollm2",
        "gsm_symbolic",
        initial_rank=64,
        target_rank=64,
        eval_batch_size=250,
        precision="bf16_autocast",
    ),
    250,
)


def measure(setting: Setting, device: str) -> dict[str, dict[str, Any]]:
    """Seconds of the first and of the second time that all problems are answered; the second counts."""
    run = setting.run
    task = TASKS[run.task]
    base, tokenizer = load_base(run)
    model = prepare(base.to(device), run).eval()
    examples = task.test(setting.problems)

    def answered() -> None:
        with products(run.precision), forward(run.precision, torch.device(device)):
            answers(model, tokenizer, task, examples, run.eval_batch_size)

    first = seconds(answered, device)
    second = seconds(answered, device)
    prompt = max(len(tokenizer(e.prompt).input_ids) for e in examples)
    tokens = len(examples) * task.max_new_tokens
    row = {
        "first_seconds": first,
        "seconds": second,
        "tokens_per_second": tokens / second,
        "floor_seconds": least(model, len(examples), prompt, task.max_new_tokens, device),
    }
    return {"whole": row}


def least(model: nn.Module, texts: int, prompt: int, new: int, device: str) -> float:
    """The floor, of a model of SmolLM2's shape."""
    size = weight_dtype(device).itemsize
    weights = sum(p.numel() for p in model.parameters())
    kv_width = SMOLLM2.hidden // SMOLLM2.heads * SMOLLM2.kv_heads
    # Of one token: keys and values of all layers.
    cache = 2 * SMOLLM2.layers * kv_width * size
    able = capability(device, weight_dtype(device))
    return sum(
        floor(weights * size + texts * length * cache, 2.0 * texts * weights, able)
        for length in range(prompt, prompt + new)
    )


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
        "rank": run.initial_rank,
        "problems": setting.problems,
        "new_tokens": TASKS[run.task].max_new_tokens,
        "together": min(run.eval_batch_size, setting.problems),
        "precision": run.precision,
    }
    write(NAME, "seconds until all problems are answered, the second time", record, rows, device)


if __name__ == "__main__":
    main()
