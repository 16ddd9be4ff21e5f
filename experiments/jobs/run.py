"""One run: a JSON configuration in, a JSON result out.

``python -m experiments.jobs.run CONFIG.json RESULT.json FOLDER [SOURCE_FOLDER]``, or the same after
``accelerate launch -m``, which shares the training among several processes.  Then `experiments.jobs.reload`
checks the adapter.
"""

import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from experiments.finetuning.evaluate import evaluate, mean_loss
from experiments.finetuning.methods import prepare
from experiments.finetuning.models import keeps_models, load_base, matches
from experiments.finetuning.processes import processes
from experiments.finetuning.train import train
from experiments.finetuning.truncate import save_changes, truncated
from experiments.jobs.record import peak_memory, write_record
from experiments.jobs.reload import write_probe
from experiments.settings.jobs import RunConfig
from experiments.settings.validation import read_settings
from experiments.tasks import TASKS
from experiments.tasks.base import fingerprint
from prunedlora import PruneConfig, PruneEvent, export_adapter, find_lora_modules
from prunedlora.adapters.modules import LoraModule


def run(config: RunConfig, folder: Path, source: Path | None = None) -> dict[str, Any] | None:
    """Do one run and return its result.

    Args:
        config: the run.
        folder: where the trained weights go.
        source: folder of what the run starts from: an adapter or weights to truncate, or an adapter of the ranks.

    Returns:
        Scores, losses, pruning events, times in seconds and sizes; None in all but the first of several processes,
        which evaluates and writes.
    """
    together = processes()
    torch.manual_seed(config.seed)
    base, tokenizer = load_base(config)
    base.to(together.device)
    total = sum(p.numel() for p in base.parameters())

    # Train, or truncate what another run trained, or leave the model as it is.
    model: torch.nn.Module = base
    losses: list[float] = []
    events: list[PruneEvent] = []
    seconds = 0.0
    trainable = 0
    if config.method.startswith("truncate"):
        assert source is not None
        model = truncated(base, tokenizer, config, source)
    elif config.method != "untuned":
        model = prepare(base, config, source)
        trainable = sum(p.numel() for p in model.parameters() if p.requires_grad)
        start = time.perf_counter()
        losses, events = train(model, tokenizer, config, together)
        seconds = time.perf_counter() - start
    together.leave()
    if not together.is_first:
        return None

    # Memory is that of training: it is read before anything is decoded.  On a CPU the most that the process ever had
    # says nothing of this run where it has done others.
    own = together.device.type == "cuda" or not keeps_models()
    peak = peak_memory(together.device) if own else None
    task = TASKS[config.task]
    start = time.perf_counter()
    score = evaluate(model, tokenizer, config, task.test(config.test_examples), task.harness)
    result: dict[str, Any] = {
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
        name = "unexplained" if matches(config) else "cross_entropy"
        result["validation"] = {name: mean_loss(model, tokenizer, config, held_out)}
    return result | _keep(model, config, folder, tokenizer)


def splits(config: RunConfig) -> dict[str, str]:
    """Fingerprints of the examples that a run uses: the same wherever it is done, or the data have changed."""
    task = TASKS[config.task]
    used = {}
    if config.trains:
        used["train"] = task.train(config.steps * config.batch_size, config.seed)
    if config.validation_examples:
        used["validation"] = task.validation(config.validation_examples)
    used["test"] = task.test(config.test_examples)
    return {name: fingerprint(examples) for name, examples in used.items()}


def _keep(
    model: torch.nn.Module, config: RunConfig, folder: Path, tokenizer: Any
) -> dict[str, Any]:
    """Write the weights of a run, and with an ordinary adapter a probe for `experiments.jobs.reload`; returns facts.

    Raises:
        RuntimeError: the adapter has other ranks or scalings than the configuration says.
    """
    if config.method in ("untuned", "truncate_full"):
        return {}
    if config.method == "full":
        save_changes(model, folder)
        return {}
    if config.method in ("dora", "adalora"):
        model.save_pretrained(str(folder))  # type: ignore[operator]  # nn.Module does not have it
        return {"adapter_bytes": (folder / "adapter_model.safetensors").stat().st_size}
    modules = find_lora_modules(model)
    _check_modules(modules, config)
    export_adapter(model, folder)
    write_probe(model, tokenizer, config, folder)
    return {
        "rank": sum(m.rank for m in modules) / len(modules),
        "adapter_parameters": sum(m.B.numel() + m.A.numel() for m in modules),
        "adapter_bytes": (folder / "adapter_model.safetensors").stat().st_size,
    }


def _check_modules(modules: list[LoraModule], config: RunConfig) -> None:
    """Every module has the target rank, or within one budget all have it on average; and all the scaling asked for."""
    ranks = [m.rank for m in modules]
    criterion = config.criterion or "svd"
    scope = PruneConfig(config.target_rank, criterion, scope=config.scope or None).scope
    each = set(ranks) == {config.target_rank}
    on_average = sum(ranks) <= config.target_rank * len(ranks)
    right = each if scope == "module" else on_average
    scaling = config.scaling * (config.initial_rank**0.5 if config.rslora else 1.0)
    scalings = {m.scaling for m in modules}
    if not right or any(abs(s - scaling) > 1e-9 * scaling for s in scalings):
        raise RuntimeError(
            f"the adapter has ranks {ranks} and scalings {scalings}, not those of its configuration"
        )


def main(arguments: list[str]) -> None:
    """Read the configuration, run it, write the result."""
    config_file, result_file, folder, *source = (Path(argument) for argument in arguments)
    config = read_settings(RunConfig, config_file)
    result = run(config, folder, source[0] if source else None)
    if result is not None:
        write_record(result_file, asdict(config), result)


if __name__ == "__main__":
    main(sys.argv[1:])
