"""One training loop for every row: AdamW, cosine schedule, clipping, with or without a pruner."""

from collections.abc import Iterator
from contextlib import nullcontext

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from experiments.finetuning.data import training_batches
from experiments.finetuning.learning_rate import cosine_with_warmup
from experiments.finetuning.matcher import distances
from experiments.finetuning.methods import after_step, pruner
from experiments.finetuning.precision import forward, products
from experiments.finetuning.processes import Processes
from experiments.settings.jobs import RunConfig
from prunedlora import PruneEvent
from prunedlora.statistics.targets import IGNORED

MAX_GRADIENT_NORM = 1.0


def train(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    processes: Processes,
) -> tuple[list[float], list[PruneEvent]]:
    """Fine-tune what the method trains, pruning it if the method says so.

    Returns:
        The loss of each training batch before its step, and the pruning events.
    """
    events: list[PruneEvent] = []
    steps = train_steps(model, tokenizer, config, processes, events)
    bar = tqdm(
        steps,
        desc=f"train {config.method} {config.criterion}".strip(),
        total=config.steps,
        disable=not processes.is_first,
    )
    losses = []
    for step, loss in enumerate(bar):
        losses.append(loss)
        if step % 10 == 0:
            bar.set_postfix(loss=f"{loss.item():.3f}")
    return processes.average(torch.stack(losses).cpu()).tolist(), events


def train_steps(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    processes: Processes,
    events: list[PruneEvent],
) -> Iterator[Tensor]:
    """The optimiser steps of a training run, each done when it is asked for; the last ends pruning.

    Args:
        model: from `experiments.finetuning.methods.prepare`.
        tokenizer: of the model.
        config: the run.
        processes: that train it together.
        events: a list to which the pruning events are added at the end.

    Yields:
        This process's share of the batch's loss, before the step.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=config.learning_rate, weight_decay=0.0)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, cosine_with_warmup(config.steps))
    pruning = pruner(model, optimizer, config)
    follow_up = after_step(model, config)
    wrapped = processes.wrap(model)
    model.train()
    with pruning or nullcontext():
        for step, batch in enumerate(training_batches(config, tokenizer, processes)):
            with products(config.precision):
                with forward(config.precision, processes.device):
                    outputs = wrapped(**batch)
                labels = batch.get("shift_labels", batch["labels"])
                # Processes may have different numbers of tokens; the mean is over all of them.
                weight = processes.weight(int((labels != IGNORED).sum()))
                loss = weight * batch_loss(outputs.logits.detach(), labels)
                (weight * outputs.loss).backward()
            torch.nn.utils.clip_grad_norm_(parameters, MAX_GRADIENT_NORM)
            optimizer.step()
            scheduler.step()
            # A method may need the gradients of the step, so that they go last.
            follow_up(step)
            optimizer.zero_grad()
            yield loss
    events += pruning.events if pruning else []


def batch_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean loss of all that is not ignored, without what a method adds to the loss that it trains on."""
    if labels.is_floating_point():
        return distances(logits, labels).mean()
    kept = labels != IGNORED
    return torch.nn.functional.cross_entropy(logits[kept].float(), labels[kept])
