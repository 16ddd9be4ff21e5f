"""One training loop for every row: AdamW, cosine schedule, clipping, with or without a pruner."""

import math
from collections.abc import Callable
from contextlib import nullcontext

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from experiments.config import RunConfig
from experiments.data import training_batches
from experiments.models import ENCODERS
from prunedlora import LoraRankPruner, PruneConfig, PruneEvent

MAX_GRADIENT_NORM = 1.0
WARMUP_SHARE = 0.03


def add_adapter(model: torch.nn.Module, config: RunConfig) -> PeftModel:
    """The model with a fresh float32 LoRA adapter, initialised from the seed."""
    torch.manual_seed(config.seed)
    return get_peft_model(
        model,
        LoraConfig(
            r=config.initial_rank,
            lora_alpha=_whole(config.scaling * config.initial_rank),
            target_modules="all-linear" if config.target_modules == ("all-linear",) else list(config.target_modules),
            lora_dropout=0.0,
            task_type="SEQ_CLS" if config.model in ENCODERS else "CAUSAL_LM",
        ),
    )


def train(
    model: PeftModel, tokenizer: PreTrainedTokenizerBase, config: RunConfig, device: torch.device
) -> tuple[list[float], list[PruneEvent]]:
    """Fine-tune the adapter, pruning it if the method says so.

    Returns:
        The training loss before each step, and the pruning events.
    """
    batches = training_batches(config, tokenizer, device)
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine_with_warmup(config.steps))
    pruner = _pruner(model, optimizer, config)
    losses = []
    model.train()
    with pruner or nullcontext():
        bar = tqdm(batches, desc=f"train {config.method} {config.criterion}".strip(), total=config.steps)
        for step, batch in enumerate(bar):
            loss = model(**batch).loss
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            losses.append(loss.detach())
            if step % 10 == 0:
                bar.set_postfix(loss=f"{loss.item():.3f}")
    return [float(loss) for loss in losses], pruner.events if pruner else []


def cosine_with_warmup(steps: int) -> Callable[[int], float]:
    """Factor of the learning rate at a step: linear up over the first 3 %, then half a cosine down to zero."""
    warmup = max(1, round(WARMUP_SHARE * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup)))

    return factor


def _pruner(model: PeftModel, optimizer: torch.optim.Optimizer, config: RunConfig) -> LoraRankPruner | None:
    if config.method != "prune":
        return None
    settings = PruneConfig(
        target_rank=config.target_rank,
        criterion=config.criterion,
        interval=config.interval,
        per_event=config.per_event,
        warmup_steps=config.warmup_steps,
        seed=config.seed,
    )
    return LoraRankPruner(model, optimizer, settings, total_steps=config.steps)


def _whole(value: float) -> int:
    if value != round(value):
        raise SystemExit(f"alpha = scaling × rank must be whole, not {value}")
    return round(value)
