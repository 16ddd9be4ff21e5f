"""Calibration statistics of a trained adapter, for every criterion."""

from collections.abc import Callable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from experiments.finetuning.data import at_targets, collate, collate_texts, encode
from experiments.finetuning.matching import collate_states, states_fisher
from experiments.finetuning.models import classifies, matches
from experiments.finetuning.precision import forward, products
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS, Example
from prunedlora.adapters.modules import find_lora_modules
from prunedlora.ranks.reduction import Candidate
from prunedlora.statistics.data import Statistics
from prunedlora.statistics.measurement import measure_statistics, model_fisher, model_loss

#: All that any criterion needs.
EVERYTHING = tuple(field.name for field in fields(Statistics))


def calibrate(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    examples: list[Example],
    seed: int,
) -> list[Candidate]:
    """All statistics that any criterion needs, for every module of a trained adapter, which stays as it is."""
    batches = batches_of(tokenizer, config, examples, next(model.parameters()).device)
    statistics = statistics_of(model, config, EVERYTHING, batches, seed)
    return [Candidate.of(module, statistics[module.name]) for module in find_lora_modules(model)]


def statistics_of(
    model: torch.nn.Module,
    config: RunConfig,
    needs: tuple[str, ...],
    batches: list[dict[str, Tensor]],
    seed: int,
) -> dict[str, Statistics]:
    """Statistics of every module by name, measured in the precision of the run's training, with a progress bar."""
    device = next(model.parameters()).device

    def in_precision(number: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def forwards(*arguments: Any) -> Tensor:
            with forward(config.precision, device):
                return number(*arguments)

        return forwards

    with products(config.precision):
        return measure_statistics(
            model,
            needs,
            tqdm(batches, desc="calibrate", leave=False),
            loss=in_precision(model_loss(model)),
            fisher=in_precision(states_fisher(model) if matches(config) else model_fisher(model)),
            seed=seed,
        )


def batches_of(
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    examples: list[Example],
    device: torch.device,
    *,
    all_logits: bool = False,
) -> list[dict[str, Tensor]]:
    """Batches of calibration examples, in their order.

    Args:
        tokenizer: of the model.
        config: names the model and the task.
        examples: of the task.
        device: of the batches.
        all_logits: whether a language model is to compute logits of prompts too, which no loss looks at.
    """
    groups = [
        examples[i : i + config.batch_size] for i in range(0, len(examples), config.batch_size)
    ]
    if matches(config):
        return [collate_states(g, tokenizer, config, device) for g in groups]
    if classifies(config.model):
        labels = TASKS[config.task].labels
        return [collate_texts(g, labels, tokenizer, config.max_length, device) for g in groups]
    whole = [
        collate([encode(e, tokenizer) for e in g], tokenizer.pad_token_id, device) for g in groups
    ]
    return whole if all_logits else [at_targets(batch) for batch in whole]
