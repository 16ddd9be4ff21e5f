"""The record of a job: its settings, its result, and what that depends on besides; and the memory that it took."""

import os
import platform
import resource
import subprocess
import sys
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from prunedlora import __version__
from theory.files import to_json, write_atomically

PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy", "reasoning-gym")


def write_record(file: Path, config: dict[str, Any], result: Any) -> None:
    """Write what a job was told and what came out, with its environment."""
    write_atomically(file, to_json({"config": config, "environment": environment(), "result": result}))


def environment() -> dict[str, Any]:
    """Versions, hardware and date, for the record."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else platform.processor() or platform.machine()
    return {
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": _commit(),
        "python": platform.python_version(),
        "packages": {"prunedlora": __version__} | {name: version(name) for name in PACKAGES},
        "device": device,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "processes": int(os.environ.get("WORLD_SIZE", "1")),
    }


def peak_memory(device: torch.device) -> int:
    """Most memory in use so far: of the GPU, or of this process on a CPU."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _commit() -> str:
    try:
        out = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, cwd=Path(__file__).parent)
        return out.stdout.strip() or "unknown"
    except OSError:
        return "unknown"
