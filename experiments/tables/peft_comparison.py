"""Results of runs on MetaMathQA and GSM8K in the layout of PEFT's ``method_comparison``.

``python -m experiments.tables.peft_comparison RESULT.json OUT.json``

One of our result files in, one file out as PEFT keeps them under ``method_comparison/MetaMathQA/results``, with the
sections run_info, train_info and meta_info.  What a run here does not record is null, never made up.
"""

import json
import sys
from pathlib import Path
from typing import Any

from experiments.settings.jobs import RunConfig, rule_options
from experiments.settings.validation import validated
from experiments.tasks.hub_math import GSM8K, METAMATH
from theory.records import to_json, write_atomically

TASK = "metamath_gsm8k"


def convert(record: dict[str, Any]) -> dict[str, Any]:
    """A result file's content in PEFT's layout.

    Raises:
        ValueError: the run was on another task, so that it cannot stand beside PEFT's.
    """
    config = validated(RunConfig, record["config"], "config")
    if config.task != TASK:
        raise ValueError(f"PEFT's comparison is on {TASK}; this run is on {config.task}")
    return {
        "run_info": _run_info(config, record),
        "train_info": _train_info(config, record["result"]),
        "meta_info": _meta_info(config, record["environment"]),
    }


def _run_info(config: RunConfig, record: dict[str, Any]) -> dict[str, Any]:
    model = config.model.partition("@")[0]
    result = record["result"]
    name = "-".join(
        part
        for part in (model.rpartition("/")[2], config.criterion, f"rank{config.target_rank}")
        if part
    )
    return {
        "created_at": record["environment"]["date"],
        "total_time": result["train_seconds"] + result["evaluation_seconds"],
        "experiment_name": f"{'prunedlora' if config.method == 'prune' else config.method}/{name}",
        "peft_branch": None,
        "train_config": {
            "model_id": model,
            "dtype": config.dtype,
            "max_seq_length": config.max_length,
            "batch_size": config.batch_size,
            "batch_size_eval": config.eval_batch_size,
            "max_steps": config.steps,
            "seed": config.seed,
            "grad_norm_clip": 1.0,
            "optimizer_type": "AdamW",
            "optimizer_kwargs": {"lr": config.learning_rate, "weight_decay": 0.0},
            "lr_scheduler": "cosine",
        },
        "peft_config": {
            "peft_type": "LORA",
            "r": config.target_rank,
            "lora_alpha": config.scaling * config.target_rank,
            "target_modules": list(config.target_modules),
            "use_rslora": config.rslora,
            "prunedlora": {
                "initial_rank": config.initial_rank,
                "criterion": config.criterion,
                "options": rule_options(config.criterion, config.options),
                "interval": config.interval,
                "per_event": config.per_event,
                "warmup_steps": config.warmup_steps,
            },
        },
        "error_msg": "",
    }


def _train_info(config: RunConfig, result: dict[str, Any]) -> dict[str, Any]:
    last = result["train_loss"][-max(1, len(result["train_loss"]) // 10) :]
    return {
        "cuda_memory_reserved_avg": None,
        "cuda_memory_max": result["peak_memory_bytes"],
        "cuda_memory_reserved_99th": None,
        "train_time": result["train_seconds"],
        "file_size": result.get("adapter_bytes"),
        "num_trainable_params": result["trainable_parameters"],
        "num_total_params": result["base_parameters"] + result["trainable_parameters"],
        "status": "success",
        "metrics": [
            {
                "step": config.steps,
                "test accuracy": result["accuracy"],
                "train loss": sum(last) / len(last) if last else None,
                "train samples": config.steps * config.batch_size,
                "train total tokens": None,
            }
        ],
    }


def _meta_info(config: RunConfig, environment: dict[str, Any]) -> dict[str, Any]:
    packages = environment["packages"]
    return {
        "model_info": {"sha": config.model.partition("@")[2] or None, "created_at": None},
        "dataset_info": {
            "metamath": {"sha": METAMATH.partition("@")[2], "created_at": None},
            "gsm8k": {"sha": GSM8K.partition("@")[2], "created_at": None},
        },
        "package_info": {
            f"{name}-version": packages[name] for name in ("transformers", "peft", "torch")
        },
        "system_info": {"gpu": environment["device"]},
        "pytorch_info": None,
    }


if __name__ == "__main__":
    source, target = (Path(argument) for argument in sys.argv[1:])
    write_atomically(target, to_json(convert(json.loads(source.read_text()))))
