"""The ways to fine-tune: which parameters a run trains, and what it must do at every step."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from peft import AdaLoraConfig, LoraConfig, PeftConfig, PeftModel, get_peft_model

from experiments.finetuning.controls import register_controls
from experiments.finetuning.models import classifies, matches
from experiments.settings.jobs import RunConfig, rule_options
from prunedlora import LoraRankPruner, PruneConfig

#: AdaLoRA starts at this multiple of its mean target rank, as PEFT's defaults do (12 to 8).
ADALORA_START = 1.5
#: Share of the steps after which AdaLoRA starts to remove components, and share that is left when it stops.
ADALORA_WARMUP = 0.1
ADALORA_FINAL = 0.3


def prepare(
    model: torch.nn.Module, config: RunConfig, source: Path | None = None
) -> torch.nn.Module:
    """The model ready to train by the method of a run; new parameters are float32, drawn from the seed.

    Args:
        model: the base model.
        config: the run.
        source: folder of the adapter whose ranks the new one gets.
    """
    torch.manual_seed(config.seed)
    if config.method == "full":
        return model.requires_grad_(True)
    adapter = _adalora(config) if config.method == "adalora" else _lora(config)
    if source is not None:
        pruned = PeftConfig.from_pretrained(str(source))
        for name in ("r", "lora_alpha", "rank_pattern", "alpha_pattern", "use_rslora"):
            setattr(adapter, name, getattr(pruned, name))
    return get_peft_model(model, adapter)


def pruner(
    model: torch.nn.Module, optimizer: torch.optim.Optimizer, config: RunConfig
) -> LoraRankPruner | None:
    """The pruner of a run that prunes."""
    if config.method != "prune":
        return None
    register_controls()
    settings = PruneConfig(
        target_rank=config.target_rank,
        criterion=config.criterion,
        options=rule_options(config.criterion, config.options),
        interval=config.interval,
        per_event=config.per_event,
        warmup_steps=config.warmup_steps,
        scope=config.scope or None,
        moments=config.moments,
        seed=config.seed,
    )
    return LoraRankPruner(model, optimizer, settings, total_steps=config.steps)


def after_step(model: torch.nn.Module, config: RunConfig) -> Callable[[int], None]:
    """What a method does after each optimiser step, while the gradients are there; AdaLoRA allocates its budget."""
    if config.method == "adalora":
        assert isinstance(model, PeftModel)
        return model.base_model.update_and_allocate
    return lambda step: None


def _shared(config: RunConfig) -> dict[str, Any]:
    head = classifies(config.model) and not matches(config)
    everywhere = config.target_modules == ("all-linear",)
    return {
        "target_modules": "all-linear" if everywhere else list(config.target_modules),
        "lora_dropout": 0.0,
        "task_type": None if matches(config) else "SEQ_CLS" if head else "CAUSAL_LM",
        # PEFT saves heads of the other names by itself.
        "modules_to_save": ["classification_head"] if head else None,
    }


def _lora(config: RunConfig) -> LoraConfig:
    return LoraConfig(
        r=config.initial_rank,
        lora_alpha=_whole(config.scaling * config.initial_rank),
        use_rslora=config.rslora,
        use_dora=config.method == "dora",
        **_shared(config),
    )


def _adalora(config: RunConfig) -> AdaLoraConfig:
    start = round(ADALORA_START * config.target_rank)
    return AdaLoraConfig(
        init_r=start,
        target_r=config.target_rank,
        tinit=round(ADALORA_WARMUP * config.steps),
        tfinal=round(ADALORA_FINAL * config.steps),
        deltaT=1,
        total_step=config.steps,
        lora_alpha=_whole(config.scaling * start),  # PEFT divides it by the initial rank throughout
        **_shared(config),
    )


def _whole(value: float) -> int:
    if value != round(value):
        raise SystemExit(f"alpha = scaling × rank must be whole, not {value}")
    return round(value)
