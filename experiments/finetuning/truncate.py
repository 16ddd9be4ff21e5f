"""Lower ranks without further training: of a trained adapter, by any criterion, or of what full fine-tuning changed."""

from pathlib import Path

import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

from experiments.finetuning.calibration import batches_of, statistics_of
from experiments.finetuning.models import HEADS, is_adapted
from experiments.settings.jobs import RunConfig, rule_options
from experiments.tasks import TASKS
from prunedlora.criteria import get_criterion
from prunedlora.ranks.adapter import reduce_adapter

CHANGES = "changes.safetensors"


def truncated(
    base: torch.nn.Module, tokenizer: PreTrainedTokenizerBase, config: RunConfig, source: Path
) -> torch.nn.Module:
    """The model with an adapter, or a change of all its weights, of the target rank.

    Args:
        base: the base model, which becomes part of the result.
        tokenizer: of the model.
        config: which of the two, the rank, and the criterion for an adapter.
        source: folder of the run that trained it.
    """
    if config.method == "truncate_full":
        return _truncated_changes(base, config, load_file(source / CHANGES))
    model = PeftModel.from_pretrained(base, source, is_trainable=True)
    needs = get_criterion(config.criterion).needs
    statistics = None
    if needs:
        examples = TASKS[config.task].train(config.calibration_examples, config.seed)
        batches = batches_of(tokenizer, config, examples, next(model.parameters()).device)
        statistics = statistics_of(model, config, needs, batches, config.seed)
    reduce_adapter(
        model,
        config.target_rank,
        config.criterion,
        statistics,
        options=rule_options(config.criterion, config.options),
        scope=config.scope or None,
    )
    return model


def save_changes(model: torch.nn.Module, folder: Path) -> None:
    """Write all weights of a fully fine-tuned model."""
    folder.mkdir(parents=True, exist_ok=True)
    weights = {name: p.detach().cpu().contiguous() for name, p in model.named_parameters()}
    save_file(weights, folder / CHANGES)


def _truncated_changes(
    base: torch.nn.Module, config: RunConfig, tuned: dict[str, torch.Tensor]
) -> torch.nn.Module:
    """The base model plus the best rank-k part of each adapted layer's change; the head as it was tuned."""
    k = config.target_rank
    with torch.no_grad():
        for name, p in base.named_parameters():
            layer = name.removesuffix(".weight")
            if p.dim() == 2 and is_adapted(config.target_modules, base, layer):
                change = (tuned[name].to(p.device) - p).double()
                U, S, Vh = torch.linalg.svd(change, full_matrices=False)
                p.add_(((U[:, :k] * S[:k]) @ Vh[:k]).to(p.dtype))
            elif name.startswith(HEADS):
                p.copy_(tuned[name])
    return base
