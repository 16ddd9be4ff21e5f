"""Matching a teacher: the teacher itself, batches with its hidden states, and how far from it a model is."""

import functools
from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from experiments.finetuning.matcher import Matcher, distances
from experiments.finetuning.models import is_adapted, load_matcher
from experiments.finetuning.texts import padded_texts
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS, Example
from experiments.tasks.planted import draw_change
from prunedlora.statistics.targets import IGNORED


@functools.lru_cache(maxsize=1)
@torch.no_grad()
def teacher_and_base(
    task: str, model: str, modules: tuple[str, ...], device: torch.device
) -> tuple[Matcher, Matcher]:
    """The teacher of a task, which is the same for every seed, and the base model that it differs from.

    Args:
        task: with a planted change.
        model: name of the base model.
        modules: names of the adapted layers, to which the teacher adds its change.
        device: of both.
    """
    planted = TASKS[task].planted
    assert planted is not None
    base, teacher = (load_matcher(model)[0].eval() for _ in range(2))
    generator = torch.Generator().manual_seed(planted.seed)
    for name, weight in teacher.named_parameters():
        if name.endswith(".weight") and is_adapted(modules, teacher, name.removesuffix(".weight")):
            weight.add_(draw_change(planted, weight, generator))
    return teacher.to(device), base.to(device)


@torch.no_grad()
def collate_states(
    batch: list[Example],
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    device: torch.device,
) -> dict[str, Tensor]:
    """A batch of texts padded on the right, with the teacher's hidden states as labels."""
    teacher, _ = teacher_and_base(config.task, config.model, config.target_modules, device)
    texts = padded_texts(batch, tokenizer, config.max_length)
    inputs = {name: texts[name].to(device) for name in ("input_ids", "attention_mask")}
    return {**inputs, "labels": _labels(teacher, inputs)}


def _labels(teacher: Matcher, inputs: dict[str, Tensor]) -> Tensor:
    states = teacher(**inputs).logits
    padding = inputs["attention_mask"].unsqueeze(-1) == 0
    return states.masked_fill(padding, IGNORED)


def states_fisher(model: torch.nn.Module) -> Callable[[dict[str, Tensor], torch.Generator], Tensor]:
    r"""What `prunedlora.fisher_loss` is of logits, of hidden states that a Gaussian explains.

    The mean square of a token's d numbers is, up to a constant, minus the log-likelihood of a Gaussian of variance
    d / 2, whose Fisher matrix is :math:`\frac{2}{d} I`: random signs times :math:`\sqrt{2 / d}` have it as their second
    moment.
    """

    def fisher(batch: dict[str, Tensor], generator: torch.Generator) -> Tensor:
        states = model(**{k: v for k, v in batch.items() if k != "labels"}).logits
        n, d = states.shape[0], states.shape[-1]
        kept = states[batch["labels"][..., 0] != IGNORED]
        signs = 2 * torch.randint(2, kept.shape, generator=generator).to(kept) - 1
        return (kept * signs).sum() * (2 / (d * n * kept.shape[0])) ** 0.5

    return fisher


@torch.no_grad()
def unexplained(
    model: torch.nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    config: RunConfig,
    examples: list[Example],
) -> Float[Tensor, " n"]:
    """Each example's mean squared distance from the teacher, relative to that of the base model over all examples.

    Float64 on the CPU; the mean is 1 for the untuned model and 0 for the teacher itself.
    """
    device = next(model.parameters()).device
    _, base = teacher_and_base(config.task, config.model, config.target_modules, device)
    own: list[Tensor] = []
    untuned: list[Tensor] = []
    for start in range(0, len(examples), config.eval_batch_size):
        chosen = examples[start : start + config.eval_batch_size]
        batch = collate_states(chosen, tokenizer, config, device)
        labels = batch.pop("labels")
        for network, means in ((model, own), (base, untuned)):
            states = network(**batch).logits
            means += [
                distances(s[None], t[None]).double().mean().cpu()
                for s, t in zip(states, labels, strict=True)
            ]
    return torch.stack(own) / torch.stack(untuned).mean()
