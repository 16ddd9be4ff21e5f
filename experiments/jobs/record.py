"""The record of a job: its settings, its result, and what that depends on besides; and the memory that it took."""

import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch

from prunedlora import __version__
from theory.records import to_json, write_atomically

PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy", "reasoning-gym")


def write_record(file: Path, config: dict[str, Any], result: Any) -> None:
    """Write the settings and the result of a job, with what the result depends on besides."""
    record = {"config": config, "environment": provenance(), "result": result}
    write_atomically(file, to_json(record))


def provenance() -> dict[str, Any]:
    """Commit, versions, hardware, processes and date: where a result comes from."""
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {"prunedlora": __version__} | {name: _version(name) for name in PACKAGES},
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def processor() -> str:
    """Name of the CPU, and the instructions that torch uses on it, on which the last digits of results depend."""
    listed = Path("/proc/cpuinfo")
    lines = listed.read_text().splitlines() if listed.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    name = names[0] if names else platform.processor() or platform.machine()
    return f"{name}, {torch.backends.cpu.get_cpu_capability()}"


def peak_memory(device: torch.device) -> int:
    """Most memory in use so far: of the GPU (in a worker, since the job began), or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _commit() -> str:
    # A bundle for a machine without network (see experiments/offline) names the commit that it was made of.
    bundled = Path(__file__).parents[2] / "commit.txt"
    if bundled.exists():
        return bundled.read_text().strip()
    try:
        out = subprocess.run(
            ["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent
        )
        return out.stdout.strip() or "unknown"
    except OSError:
        return "unknown"
