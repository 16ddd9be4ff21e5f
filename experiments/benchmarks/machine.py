"""Seconds on a device, what the device could do at best, and the record of both."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.jobs.record import processor, provenance
from theory.records import to_json, write_atomically


def seconds(call: Callable[[], object], device: str) -> float:
    """Seconds of one call: processor time on a CPU, where other programs would count otherwise."""
    if device.startswith("cuda"):
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
    large = device.startswith("cuda")
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


def write(file: Path, what: str, setting: dict[str, Any], rows: Any, device: str) -> None:
    """Write a result with its environment, and print it."""
    machine = provenance() | {
        "device": torch.cuda.get_device_name() if device.startswith("cuda") else processor(),
        "time": "wall time" if device.startswith("cuda") else "processor time",
    }
    write_atomically(
        file, to_json({"what": what, "setting": setting, "rows": rows, "environment": machine})
    )
    for name, row in rows.items():
        print(f"{name:18} {json.dumps(row)}")
