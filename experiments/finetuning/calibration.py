"""What a trained adapter's criteria are told: statistics over calibration examples of a task."""

from dataclasses import fields

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from experiments.finetuning.data import IGNORED, collate, collate_texts, encode
from experiments.finetuning.models import classifies
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS, Example
from prunedlora.adapters.modules import find_lora_modules
from prunedlora.ranks.reduction import Candidate
from prunedlora.statistics.data import Statistics
from prunedlora.statistics.fisher_loss import fisher_loss
from prunedlora.statistics.measurement import measure_statistics


def calibrate(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, config: RunConfig, examples: list[Example], seed: int
) -> list[Candidate]:
    """All statistics that any criterion needs, for every module of a trained adapter, which stays as it is."""
    batches = batches_of(tokenizer, config, examples, next(model.parameters()).device)
    statistics = measure_statistics(
        model,
        tuple(f.name for f in fields(Statistics)),
        tqdm(batches, desc="calibrate", leave=False),
        loss=lambda batch: model(**batch).loss,
        fisher=lambda batch, generator: fisher_number(model, batch, config, generator),
        seed=seed,
    )
    return [Candidate.of(module, statistics[module.name]) for module in find_lora_modules(model)]


def fisher_number(
    model: torch.nn.Module, batch: dict[str, Tensor], config: RunConfig, generator: torch.Generator
) -> Tensor:
    """A number whose gradients have the true Fisher matrix of a batch as their second moment."""
    logits = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
    if classifies(config.model):
        return fisher_loss(logits, generator=generator)
    return fisher_loss(logits[:, :-1], batch["labels"][:, 1:] != IGNORED, generator)


def batches_of(
    tokenizer: PreTrainedTokenizerBase, config: RunConfig, examples: list[Example], device: torch.device
) -> list[dict[str, Tensor]]:
    """Batches of calibration examples, in their order."""
    groups = [examples[i : i + config.batch_size] for i in range(0, len(examples), config.batch_size)]
    if classifies(config.model):
        labels = TASKS[config.task].labels
        return [collate_texts(g, labels, tokenizer, config.max_length, device) for g in groups]
    return [collate([encode(e, tokenizer) for e in g], tokenizer.pad_token_id, device) for g in groups]
