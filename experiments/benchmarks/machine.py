"""Seconds and memory on a device, what the device could do at best, and the record of all."""

import gc
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.folders import RESULTS
from experiments.jobs.record import processor, provenance
from experiments.reporting import goals
from theory.records import to_json, write_atomically


def seconds(call: Callable[[], object], device: str) -> float:
    """Seconds of one call: processor time on a CPU, where other programs would count otherwise."""
    if on_gpu(device):
        torch.cuda.synchronize()
        start = time.perf_counter()
        call()
        torch.cuda.synchronize()
        return time.perf_counter() - start
    start = time.process_time()
    call()
    return time.process_time() - start


def median_seconds(call: Callable[[], object], device: str, repeats: int = 3) -> float:
    """Median of several calls, after one that is not counted."""
    call()
    return statistics.median(seconds(call, device) for _ in range(repeats))


def capability(device: str, dtype: torch.dtype = torch.float64) -> dict[str, float]:
    """What the device reaches, as measured here.

    Bytes per second of a copy, read and written, and operations per second of a product in `dtype`.

    >>> sorted(capability("cpu"))
    ['bytes_per_second', 'flops_per_second']
    """
    large = on_gpu(device)
    source = torch.ones(2**28 if large else 2**23, device=device)
    target = torch.empty_like(source)
    square = torch.ones(*(2 * [4096 if large else 512]), dtype=dtype, device=device)
    copying = median_seconds(lambda: target.copy_(source), device)
    product = median_seconds(lambda: square @ square, device)
    return {
        "bytes_per_second": 2 * source.numel() * source.element_size() / copying,
        "flops_per_second": 2 * square.shape[0] ** 3 / product,
    }


def floor(bytes_moved: float, flops: float, able: dict[str, float]) -> float:
    """The least seconds that so many bytes and operations take; whichever takes longer.

    >>> floor(10, 30, {"bytes_per_second": 10.0, "flops_per_second": 10.0})
    3.0
    """
    return max(bytes_moved / able["bytes_per_second"], flops / able["flops_per_second"])


def most_memory(call: Callable[[], object], device: str) -> int:
    """Most memory held during a call beyond that before it, bytes: of torch on a GPU, else of the process (Linux)."""
    gc.collect()
    if on_gpu(device):
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    before = _resident("VmRSS:")
    # The system forgets the most that the process has had so far.
    Path("/proc/self/clear_refs").write_text("5")
    call()
    return _resident("VmHWM:") - before


def _resident(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(field))


def on_gpu(device: str) -> bool:
    """Whether a device, as ``--device`` names it, is a GPU."""
    return device.startswith("cuda")


def wait(device: str) -> None:
    """Until a GPU has done what it was given."""
    if on_gpu(device):
        torch.cuda.synchronize()


def result_file(name: str, device: str, folder: Path = RESULTS) -> Path:
    """Where the result of a benchmark lies: one for a CPU and one for a GPU.

    >>> result_file("event", "cuda").name
    'benchmark_event_gpu.json'
    """
    return folder / f"benchmark_{name}{'_gpu' if on_gpu(device) else ''}.json"


def write(name: str, what: str, setting: dict[str, Any], rows: Any, device: str) -> None:
    """Write the result of a benchmark with its environment and, of a GPU, with its goals; and print it."""
    record = {"what": what, "setting": setting, "rows": rows, "environment": machine(device)}
    if on_gpu(device):
        record["goals"] = goals.judged(name, record)
    write_atomically(result_file(name, device), to_json(record))
    for key, row in rows.items():
        print(f"{key:18} {json.dumps(row)}")
    for goal in record.get("goals", []):
        print(f"{'reached' if goal['reached'] else 'NOT REACHED':18} {json.dumps(goal)}")


def machine(device: str) -> dict[str, Any]:
    """Commit, versions and hardware of a result, the load of the machine, and what its times are."""
    return provenance() | {
        "device": torch.cuda.get_device_name() if on_gpu(device) else processor(),
        "time": "wall time" if on_gpu(device) else "processor time",
        "load": list(os.getloadavg()),
    }
