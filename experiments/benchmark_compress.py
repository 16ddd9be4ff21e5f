"""Lowering ranks through the factors against PEFT's ``convert_to_lora``: ``python -m experiments.benchmark_compress``.

Two adapters with random weights whose singular values decay (nothing here depends on training): rank 64 on all 210
linear layers of SmolLM2-135M, and one module of 4096 x 4096 at rank 64; each to rank 16.  Both methods run in one
process, one after the other, with the same number of threads; the time is that of the decompositions with the model
in memory, without reading or writing files.  Peak memory is that of a process of its own for each method, less that
of a process that only builds the model.  Writes ``experiments/results/benchmark_compress.json``.
"""

import argparse
import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import peft
import torch
from torch import nn

from experiments.models import load_model
from prunedlora.adapters import find_lora_modules
from prunedlora.bench import compare, fill_decaying, peak_bytes, random_adapter, through_dense, through_factors
from theory.files import environment, to_json, write_atomically

OUT = Path(__file__).parent / "results" / "benchmark_compress.json"
RANK, TARGET = 64, 16
#: By adapter: how many times faster is wanted, and how often the two methods are timed.
CASES = {"smollm2": (30, (15, 3)), "4096x4096": (300, (15, 1))}
#: Relative difference of the two errors that is allowed.
TOLERANCE = 1e-5


def adapted(case: str) -> nn.Module:
    """The model of a case."""
    if case == "4096x4096":
        return random_adapter([(4096, 4096)], RANK)
    model, _ = load_model("smollm2", torch.float32)
    config = peft.LoraConfig(r=RANK, lora_alpha=2 * RANK, target_modules="all-linear", task_type="CAUSAL_LM")
    model = peft.get_peft_model(model, config)
    fill_decaying(find_lora_modules(model), seed=0)
    return model


def peak(case: str, method: str, threads: int) -> int:
    """Peak resident memory of a process that builds the model and lowers it once, bytes."""
    command = [sys.executable, "-m", "experiments.benchmark_compress", "--case", case, "--method", method]
    out = subprocess.run([*command, "--threads", str(threads)], capture_output=True, text=True, check=True)
    return int(out.stdout.split()[-1])


def measure(case: str, threads: int) -> dict[str, Any]:
    """Times, errors and memory of a case."""
    wanted, repeats = CASES[case]
    comparison = compare(adapted(case), TARGET, repeats)
    built, factors, dense = (peak(case, method, threads) for method in ("none", "factors", "dense"))
    difference = abs(comparison.error - comparison.error_dense) / comparison.error_dense
    return {
        **asdict(comparison),
        "repeats": {"factors": repeats[0], "dense": repeats[1], "reported": "median"},
        "wanted_ratio": wanted,
        "reached": comparison.ratio >= wanted,
        "relative_difference_of_errors": difference,
        "errors_agree": difference <= TOLERANCE,
        "peak_bytes": {"model_only": built, "factors": factors, "dense": dense},
        "peak_bytes_above_model": {"factors": factors - built, "dense": dense - built},
    }


def main() -> None:
    """Measure both cases, write, print; or be one of the processes whose memory is measured."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--case", choices=CASES)
    parser.add_argument("--method", choices=("none", "factors", "dense"))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.case:
        model = adapted(arguments.case)
        if arguments.method != "none":
            (through_factors if arguments.method == "factors" else through_dense)(model, TARGET)
        print(peak_bytes())
        return
    cases = {case: measure(case, arguments.threads) for case in CASES}
    what = "rank 64 to 16 through the factors (float64) and by peft.convert_to_lora (float32, dense); random adapters"
    device = {**environment("cpu"), "peft": peft.__version__, "precision": "factors float64, dense float32"}
    write_atomically(OUT, to_json({"what": what, "seed": 0, "cases": cases, "environment": device}))
    for case, row in cases.items():
        print(case, json.dumps({k: row[k] for k in ("ratio", "reached", "errors_agree", "seconds", "seconds_dense")}))


if __name__ == "__main__":
    main()
