"""One run: a JSON configuration in, a JSON result out.

``python -m experiments.jobs.run CONFIG.json RESULT.json FOLDER [SOURCE_FOLDER]``, or the same after
``accelerate launch -m``, which shares the training among several processes.  Then `experiments.jobs.reload`
checks the adapter.
"""

import json
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments.finetuning.evaluate import evaluate, mean_loss
from experiments.finetuning.methods import prepare
from experiments.finetuning.models import load_base
from experiments.finetuning.processes import processes
from experiments.finetuning.train import train
from experiments.finetuning.truncate import save_changes, truncated
from experiments.jobs.record import peak_memory, write_record
from experiments.jobs.reload import write_probe
from experiments.settings.jobs import RunConfig
from experiments.settings.validation import validated
from experiments.tasks import TASKS
from experiments.tasks.base import fingerprint
from prunedlora import PruneConfig, PruneEvent, export_adapter, find_lora_modules


def run(config: RunConfig, folder: Path, source: Path | None = None) -> dict[str, Any] | None:
    """Do one run and return its result; what it makes is written to `folder`; `source` holds what it truncates.

    Of several processes the first evaluates and writes, and only it has a result.
    """
    together = processes()
    device = together.device
    torch.manual_seed(config.seed)
    base, tokenizer = load_base(config)
    base.to(device)
    total = sum(p.numel() for p in base.parameters())
    losses: list[float] = []
    events: list[PruneEvent] = []
    seconds, trainable = 0.0, 0
    model: torch.nn.Module = base
    if config.method.startswith("truncate"):
        assert source is not None
        model = truncated(base, tokenizer, config, source)
    elif config.method != "untuned":
        model = prepare(base, config)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        start = time.perf_counter()
        losses, events = train(model, tokenizer, config, together)
        seconds = time.perf_counter() - start
    together.part()
    if not together.is_first:
        return None
    peak, task = peak_memory(device), TASKS[config.task]
    start = time.perf_counter()
    score = evaluate(model, tokenizer, config, task.test(config.test_examples), task.harness)
    result = {
        **asdict(score),
        "train_loss": [round(loss, 6) for loss in losses],
        "events": [asdict(event) for event in events],
        "train_seconds": seconds,
        "evaluation_seconds": time.perf_counter() - start,
        "peak_memory_bytes": peak,
        "base_parameters": total,
        "trainable_parameters": trainable,
        "splits": splits(config),
    }
    if config.validation_examples:
        held_out = task.validation(config.validation_examples)
        result["validation"] = {"cross_entropy": mean_loss(model, tokenizer, config, held_out)}
    return result | _keep(model, config, folder, tokenizer)


def splits(config: RunConfig) -> dict[str, str]:
    """Fingerprints of the examples that a run uses: the same wherever it is done, or the data have changed."""
    task, used = TASKS[config.task], {}
    if config.trains:
        used["train"] = task.train(config.steps * config.batch_size, config.seed)
    if config.validation_examples:
        used["validation"] = task.validation(config.validation_examples)
    used["test"] = task.test(config.test_examples)
    return {name: fingerprint(examples) for name, examples in used.items()}


def _keep(
    model: torch.nn.Module, config: RunConfig, folder: Path, tokenizer: Any
) -> dict[str, Any]:
    """Write what a run made, and say what it is; an ordinary adapter with a probe that tells whether it reloads."""
    if config.method in ("untuned", "truncate_full"):
        return {}
    if config.method == "full":
        save_changes(model, folder)
        return {}
    if config.method in ("dora", "adalora"):
        model.save_pretrained(str(folder))  # type: ignore[operator]  # nn.Module does not tell that
        return {"adapter_bytes": (folder / "adapter_model.safetensors").stat().st_size}
    modules = find_lora_modules(model)
    ranks, scalings = [m.rank for m in modules], {m.scaling for m in modules}
    scaling = config.scaling * (config.initial_rank**0.5 if config.rslora else 1.0)
    one_rank = (
        PruneConfig(config.target_rank, config.criterion or "svd", scope=config.scope or None).scope
        == "module"
    )
    wrong = (
        set(ranks) != {config.target_rank}
        if one_rank
        else sum(ranks) > config.target_rank * len(ranks)
    )
    if wrong or any(abs(s - scaling) > 1e-9 * scaling for s in scalings):
        raise RuntimeError(
            f"the adapter has ranks {ranks} and scalings {scalings}, not those of its configuration"
        )
    export_adapter(model, folder)
    write_probe(model, tokenizer, config, folder)
    return {
        "rank": sum(ranks) / len(ranks),
        "adapter_parameters": sum(m.B.numel() + m.A.numel() for m in modules),
        "adapter_bytes": (folder / "adapter_model.safetensors").stat().st_size,
    }


def main(arguments: list[str]) -> None:
    """Read the configuration, run it, write the result."""
    config_file, result_file, folder, *source = (Path(argument) for argument in arguments)
    config = validated(RunConfig, json.loads(config_file.read_text()), config_file.name)
    result = run(config, folder, source[0] if source else None)
    if result is not None:
        write_record(result_file, asdict(config), result)


if __name__ == "__main__":
    main(sys.argv[1:])
