"""Truncation through the factors against PEFT's ``convert_to_lora``: ``python -m experiments.benchmarks.compress``.

Two adapters with random weights whose singular values decay (nothing here depends on training): rank 64 on all 210
linear layers of SmolLM2-135M, and one module of 4096 x 4096 at rank 64; each to rank 16.  Both methods run in one
process, taking turns, with the same number of threads; the time is processor time of the decompositions with the
model in memory.  Beside it stands that of `compress_adapter` from file to file, with all its checks.  Peak
memory is the most that a process of its own held during the decompositions, less what it held before (Linux).  Writes
``experiments/results/benchmark_compress.json``.
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from experiments.benchmarks.machine import most_memory
from experiments.finetuning.models import load_model
from experiments.folders import RESULTS
from prunedlora import CompressConfig, compress_adapter, export_adapter
from prunedlora.adapters.modules import find_lora_modules
from prunedlora.compress.benchmark import (
    compare,
    fill_decaying,
    random_adapter,
    through_dense,
    through_factors,
    timed,
)
from theory.records import environment, to_json, write_atomically

OUT = RESULTS / "benchmark_compress.json"
RANK = 64
TARGET = 16
#: By adapter: how many times faster it should be, how often the factors' way is timed in a turn, and turns.
CASES = {"smollm2": (30, (5, 2)), "4096x4096": (300, (5, 1))}
METHODS = {"factors": through_factors, "dense": through_dense}
#: What is printed of a case besides being written.
PRINTED = (
    "ratio",
    "reached",
    "errors_agree",
    "seconds",
    "seconds_dense",
    "file_to_file_seconds",
)
#: Relative difference of the two errors that is allowed.
TOLERANCE = 1e-5


def adapted(case: str) -> nn.Module:
    """The model of a case."""
    if case == "4096x4096":
        return random_adapter([(4096, 4096)], RANK)
    model, _ = load_model("smollm2", torch.float32)
    config = peft.LoraConfig(
        r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = peft.get_peft_model(model, config)
    fill_decaying(find_lora_modules(model), seed=0)
    return model


def peak(case: str, method: str, threads: int) -> int:
    """Most resident memory, beyond what the model takes, of a process that truncates it once, bytes."""
    options = ["--case", case, "--method", method, "--threads", str(threads)]
    command = [sys.executable, "-m", "experiments.benchmarks.compress", *options]
    out = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(out.stdout.split()[-1])


def file_to_file(model: nn.Module) -> float:
    """Processor time of `compress_adapter` on the model's adapter, files included, median of five."""
    times: list[float] = []
    with tempfile.TemporaryDirectory() as folder:
        source = export_adapter(model, Path(folder) / "source")
        for i in range(5):
            target = Path(folder) / f"out{i}"
            timed(partial(compress_adapter, source, target, CompressConfig(rank=TARGET)), times)
    return statistics.median(times)


def measure(case: str, threads: int) -> dict[str, Any]:
    """Times, errors and memory of a case."""
    aim, repeats = CASES[case]
    model = adapted(case)
    comparison = compare(model, TARGET, repeats)
    from_file = file_to_file(model)
    difference = abs(comparison.error - comparison.error_dense) / comparison.error_dense
    return {
        **asdict(comparison),
        "repeats": {"factors": repeats[0] * repeats[1], "dense": repeats[1], "reported": "median"},
        "file_to_file_seconds": from_file,
        "file_to_file_ratio": comparison.seconds_dense / from_file,
        "wanted_ratio": aim,
        "reached": comparison.ratio >= aim,
        "relative_difference_of_errors": difference,
        "errors_agree": difference <= TOLERANCE,
        "peak_bytes_above_model": {method: peak(case, method, threads) for method in METHODS},
    }


def main() -> None:
    """Measure both cases, write, print; or be one of the processes whose memory is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--method", choices=METHODS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        model = adapted(arguments.case)
        # Once before it is measured: what libraries take for themselves does not count.
        METHODS[arguments.method](random_adapter([(8, 8)], 4), 2)
        print(most_memory(lambda: METHODS[arguments.method](model, TARGET), "cpu"))
        return
    cases = {case: measure(case, arguments.threads) for case in CASES}
    what = (
        "rank 64 to 16 through the factors (float64) and by peft.convert_to_lora (float32, dense); "
        "random adapters"
    )
    device = {
        **environment("cpu"),
        "peft": peft.__version__,
        "precision": "factors float64, dense float32",
    }
    write_atomically(OUT, to_json({"what": what, "seed": 0, "cases": cases, "environment": device}))
    for case, row in cases.items():
        print(case, json.dumps({name: row[name] for name in PRINTED}))


if __name__ == "__main__":
    main()
