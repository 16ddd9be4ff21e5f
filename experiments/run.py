"""One run: a JSON configuration in, a JSON result out.

``python -m experiments.run CONFIG.json RESULT.json ADAPTER_FOLDER [SOURCE_ADAPTER_FOLDER]``
"""

import json
import os
import platform
import resource
import subprocess
import sys
import time
from dataclasses import asdict
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from experiments.config import RunConfig, build
from experiments.evaluate import evaluate
from experiments.models import load_base
from experiments.reload import check_reload
from experiments.tasks import TASKS
from experiments.train import add_adapter, train
from prunedlora import __version__, export_adapter, find_lora_modules, truncate_adapter
from theory.files import to_json, write_atomically

PACKAGES = ("torch", "transformers", "peft", "safetensors", "numpy", "reasoning-gym")


def run(config: RunConfig, adapter_folder: Path, source_folder: Path | None = None) -> dict[str, Any]:
    """Do one run and return its result; the adapter is written to `adapter_folder`."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(config.seed)
    base, tokenizer = load_base(config)
    base.to(device)
    losses, events, seconds = [], [], 0.0
    model: torch.nn.Module = base
    if config.method == "truncate":
        assert source_folder is not None
        model = PeftModel.from_pretrained(base, source_folder)
        truncate_adapter(model, config.target_rank)
    elif config.method != "untuned":
        model = add_adapter(base, config)
        start = time.perf_counter()
        losses, events = train(model, tokenizer, config, device)
        seconds = time.perf_counter() - start
    peak = _peak_memory(device)
    start = time.perf_counter()
    score = evaluate(model, tokenizer, config, TASKS[config.task].test(config.test_examples))
    result = {
        **asdict(score),
        "train_loss": losses,
        "events": [asdict(event) for event in events],
        "train_seconds": seconds,
        "evaluation_seconds": time.perf_counter() - start,
        "peak_memory_bytes": peak,
    }
    if config.method != "untuned":
        result |= _adapter_facts(model, config, adapter_folder, tokenizer)
    return result


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
    }


def _adapter_facts(model: torch.nn.Module, config: RunConfig, folder: Path, tokenizer: Any) -> dict[str, Any]:
    """Export the adapter, check it in a new process, and say what it is."""
    modules = find_lora_modules(model)
    ranks, scalings = {m.rank for m in modules}, {m.scaling for m in modules}
    if ranks != {config.target_rank} or scalings != {config.scaling}:
        raise RuntimeError(f"the adapter has ranks {ranks} and scalings {scalings}, not those of its configuration")
    export_adapter(model, folder)
    return {
        "rank": ranks.pop(),
        "adapter_parameters": sum(m.B.numel() + m.A.numel() for m in modules),
        "adapter_bytes": (folder / "adapter_model.safetensors").stat().st_size,
        "reload_max_difference": check_reload(model, tokenizer, config, folder),
    }


def _peak_memory(device: torch.device) -> int:
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


def main() -> None:
    """Read the configuration, run it, write the result."""
    config_file, result_file, adapter_folder, *source = (Path(argument) for argument in sys.argv[1:])
    config = build(RunConfig, json.loads(config_file.read_text()), config_file.name)
    result = run(config, adapter_folder, source[0] if source else None)
    record = {"config": asdict(config), "environment": environment(), "result": result}
    write_atomically(result_file, to_json(record))


if __name__ == "__main__":
    main()
