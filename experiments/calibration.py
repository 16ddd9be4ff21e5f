"""What a trained adapter's criteria are told: statistics over calibration sentences, by two kinds of backward pass."""

from dataclasses import fields, replace

import torch
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedTokenizerBase

from experiments.config import RunConfig
from experiments.data import IGNORED, collate, collate_texts, encode
from experiments.models import ENCODERS
from experiments.tasks import TASKS, Example
from prunedlora.adapters import find_lora_modules
from prunedlora.collector import Collector
from prunedlora.criteria import Factors, Statistics
from prunedlora.decision import Candidate
from prunedlora.fisher_loss import fisher_loss

#: Measured with the true Fisher matrix; the rest with the labels of the data, as in training.
OF_THE_MODEL = ("C_z", "U", "core_gradients")


def calibrate(
    model: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, config: RunConfig, examples: list[Example], seed: int
) -> list[Candidate]:
    """All statistics that any criterion needs, for every module of a trained adapter, which stays as it is.

    Gradients, sensitivities and the Fisher matrices of the factors come from the loss of the data, one optimiser
    step a batch; the moments of the bottleneck and the core gradients from `prunedlora.fisher_loss`.  The gradient
    of the last step is that of the mean over all batches.
    """
    modules = find_lora_modules(model)
    parameters = [p for m in modules for p in (m.B, m.A)]
    generator = torch.Generator().manual_seed(seed)
    others = tuple(f.name for f in fields(Statistics) if f.name not in OF_THE_MODEL)
    training = model.training
    model.eval()
    batches = batches_of(tokenizer, config, examples, next(model.parameters()).device)
    total = [torch.zeros_like(p) for p in parameters]
    with (
        Collector(model, modules, others, seed=seed) as of_data,
        Collector(model, modules, OF_THE_MODEL, ignore_padding=True) as of_model,
    ):
        for batch in tqdm(batches, desc="calibrate", leave=False):
            of_data.activate(True)
            of_model.activate(False)
            model.zero_grad()
            model(**batch).loss.backward()
            of_data.update()
            for sum_, p in zip(total, parameters, strict=True):
                assert p.grad is not None
                sum_ += p.grad / len(batches)
            of_data.activate(False)
            of_model.activate(True)
            pass_fisher(model, batch, config.model in ENCODERS, generator)
        model.zero_grad()
        for sum_, p in zip(total, parameters, strict=True):
            p.grad = sum_
        candidates = []
        for module in modules:
            live = torch.arange(module.rank, device=module.B.device)
            measured = of_data.measure(module, live)
            statistics = replace(measured, **{n: getattr(of_model.measure(module, live), n) for n in OF_THE_MODEL})
            factors = Factors(module.B.detach().clone(), module.A.detach().clone())
            candidates.append(Candidate(module, live, factors, statistics))
    model.zero_grad()
    model.train(training)
    return candidates


def pass_fisher(model: torch.nn.Module, batch: dict[str, Tensor], encoder: bool, generator: torch.Generator) -> None:
    """Backward pass whose gradients have the true Fisher matrix as their second moment, for one batch."""
    inputs = {k: v for k, v in batch.items() if k != "labels"}
    logits = model(**inputs).logits
    if encoder:
        fisher_loss(logits, generator=generator).backward()
    else:
        fisher_loss(logits[:, :-1], batch["labels"][:, 1:] != IGNORED, generator).backward()


def batches_of(
    tokenizer: PreTrainedTokenizerBase, config: RunConfig, examples: list[Example], device: torch.device
) -> list[dict[str, Tensor]]:
    """Batches of calibration examples, in their order."""
    groups = [examples[i : i + config.batch_size] for i in range(0, len(examples), config.batch_size)]
    if config.model in ENCODERS:
        labels = TASKS[config.task].labels
        return [collate_texts(g, labels, tokenizer, config.max_length, device) for g in groups]
    return [collate([encode(e, tokenizer) for e in g], tokenizer.pad_token_id, device) for g in groups]
