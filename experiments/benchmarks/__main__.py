"""All benchmarks in order: ``python -m experiments.benchmarks --device cuda --minutes 8``.

Each is a process of its own.  One whose result is of this commit and this device is not measured again, so that what
the minutes did not suffice for is done the next time; `--fresh` measures all.  A benchmark that fails, or that the time
ends, leaves its result of before.
"""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
import tyro

from experiments.benchmarks.machine import machine, on_gpu, result_file
from experiments.folders import RESULTS, ROOT

Name = Literal[
    "svd_fisher",
    "decoding",
    "together",
    "event",
    "truncation",
    "step",
    "statistics",
    "whole_run",
    "compress",
]
#: In the order in which they are measured, those first that say most.
NAMES: tuple[Name, ...] = get_args(Name)
#: Of a CPU, whatever the device.
ON_CPU_ONLY = ("compress",)
#: Seconds after which a benchmark is ended, and with less than which none is begun.
LONGEST = 300.0
LEAST = 30.0


@dataclass
class Arguments:
    """Measure what is missing.

    Attributes:
        device: ``cuda`` or ``cpu``; a GPU if there is one.
        minutes: all that it may take.
        only: benchmarks; all by default, with a GPU those that use it.
        fresh: measure again what has been measured at this commit.
    """

    device: Literal["cuda", "cpu"] | None = None
    minutes: float = 60.0
    only: tuple[Name, ...] = NAMES
    fresh: bool = False


def missing(
    names: tuple[Name, ...], device: str, folder: Path = RESULTS, *, fresh: bool = False
) -> list[Name]:
    """Those without a result of this commit and this device, or all that are of this device, in their order."""
    here = machine(device)

    def is_there(name: str) -> bool:
        file = result_file(name, device, folder)
        if not file.exists():
            return False
        environment = json.loads(file.read_text())["environment"]
        return all(environment.get(key) == here[key] for key in ("commit", "device"))

    left_out = ON_CPU_ONLY if on_gpu(device) else ()
    return [n for n in NAMES if n in names and n not in left_out and (fresh or not is_there(n))]


def measure(name: str, device: str, seconds: float) -> str:
    """Do one benchmark in a process that ends after so many seconds, with all that it starts; what became of it."""
    command = [sys.executable, "-m", f"experiments.benchmarks.{name}"]
    command += [] if name in ON_CPU_ONLY else ["--device", device]
    process = subprocess.Popen(command, cwd=ROOT, start_new_session=True)
    try:
        status = process.wait(seconds)
    except subprocess.TimeoutExpired:
        return f"ended after {seconds:.0f} s"
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    return "measured" if status == 0 else f"failed with status {status}"


def main(arguments: Arguments) -> int:
    """Measure, say what became of each, and by the status whether all have results."""
    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    end = time.monotonic() + 60 * arguments.minutes
    asked = arguments.only
    todo = missing(asked, device, fresh=arguments.fresh)
    outcomes = {}
    for name in todo:
        left = end - time.monotonic()
        if left < LEAST:
            outcomes[name] = "not begun: time limit reached; run again to go on"
            continue
        print(f"→ {name}", flush=True)
        start = time.monotonic()
        outcomes[name] = measure(name, device, min(LONGEST, left))
        outcomes[name] += f" ({time.monotonic() - start:.0f} s)"
    print(f"{len(asked) - len(todo)} of {len(asked)} were there, or are not of this device.")
    for name, outcome in outcomes.items():
        print(f"{name:12} {outcome}")
    return int(any(not outcome.startswith("measured") for outcome in outcomes.values()))


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Arguments)))
