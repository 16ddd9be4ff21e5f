"""A trained adapter with everything that the measurements need of it."""

from dataclasses import dataclass, replace
from pathlib import Path

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from experiments.finetuning.calibration import batches_of, calibrate
from experiments.finetuning.models import load_base
from experiments.real_layers.moments import LayerMoments, observe
from experiments.real_layers.scorer import Scorer
from experiments.real_layers.settings import Settings
from experiments.settings.jobs import RunConfig
from experiments.tasks import TASKS, Example
from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.ranks.reduction import Candidate


@dataclass(frozen=True)
class Place:
    """Where a layer is: its block's number, and its name within the block."""

    depth: int
    kind: str

    @classmethod
    def of(cls, module: LoraModule) -> "Place | None":
        """The place of an adapted layer; None outside of the blocks."""
        parts = module.name.split(".")
        for i, part in enumerate(parts):
            if part.isdigit():
                return cls(int(part), ".".join(parts[i + 1 :]))
        return None


@dataclass(frozen=True)
class MeasuredModel:
    """A model with its adapter and what has been measured about it.

    Attributes:
        settings: what is measured.
        model: the model with the adapter.
        tokenizer: its tokenizer.
        everything: every adapted layer.
        candidates: those of the chosen blocks.
        moments: of the layers whose removals are measured.
        scorer: losses of the changed model.
    """

    settings: Settings
    model: nn.Module
    tokenizer: PreTrainedTokenizerBase
    everything: list[Candidate]
    candidates: dict[Place, Candidate]
    moments: dict[Place, LayerMoments]
    scorer: Scorer

    @property
    def layers(self) -> list[tuple[Place, Candidate]]:
        """The layers whose removals are measured."""
        chosen = self.settings
        return [
            (p, c)
            for p, c in self.candidates.items()
            if p.depth in chosen.depths and p.kind in chosen.kinds
        ]


def load(settings: Settings, adapter: Path, *, magnitude: float = 1.0) -> MeasuredModel:
    """Open an adapter, which is only read, and measure its statistics.

    Args:
        settings: what to measure.
        adapter: folder of the adapter.
        magnitude: every module's contribution is multiplied by it before anything is measured.
    """
    base, tokenizer = load_base(settings.run)
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True)
    return measure(settings, model, tokenizer, magnitude=magnitude)


def measure(
    settings: Settings,
    model: nn.Module,
    tokenizer: PreTrainedTokenizerBase,
    *,
    magnitude: float = 1.0,
) -> MeasuredModel:
    """The same for a model in memory, whose scalings `magnitude` changes for good."""
    run = settings.run
    task = TASKS[run.task]
    modules = find_lora_modules(model)
    for module in modules:
        module.layer.scaling[module.adapter] *= magnitude
    seen = task.train(settings.calibration, run.seed)
    everything = calibrate(model, tokenizer, run, seen, settings.seed)
    # Statistics are collected of every layer, the larger moments only of those whose removals are measured.
    by_place = {Place.of(c.module): c for c in everything}
    candidates = {p: c for p, c in by_place.items() if p and p.depth in settings.depths}
    chosen = {p: c.module for p, c in candidates.items() if p.kind in settings.kinds}
    if len(chosen) < len(settings.depths) * len(settings.kinds):
        raise SystemExit(
            f"the adapter lacks some of the layers {settings.kinds} in blocks {settings.depths}"
        )
    observed = observe(model, tokenizer, run, seen, list(chosen.values()), settings.seed)
    sets = {"calibration": seen, "test": task.test(settings.calibration)}
    batches = {name: _sorted_batches(tokenizer, run, examples) for name, examples in sets.items()}
    scorer = Scorer(model, blocks_of(model, modules), batches, settings.depths)
    moments = {place: observed[module.name] for place, module in chosen.items()}
    return MeasuredModel(settings, model, tokenizer, everything, candidates, moments, scorer)


def _sorted_batches(
    tokenizer: PreTrainedTokenizerBase, run: RunConfig, examples: list[Example]
) -> list[dict[str, Tensor]]:
    """Batches with little padding."""
    by_length = sorted(examples, key=lambda e: len(e.text or e.prompt + e.target))
    large = replace(run, batch_size=run.eval_batch_size)
    return batches_of(tokenizer, large, by_length, torch.device("cpu"), all_logits=True)


def blocks_of(model: nn.Module, modules: list[LoraModule]) -> nn.ModuleList:
    """The model's blocks: the list that holds the first adapted layer that lies in one."""
    name = next(m.name for m in modules if Place.of(m))
    parts = name.split(".")
    number = next(i for i, part in enumerate(parts) if part.isdigit())
    blocks = model.get_submodule(".".join(parts[:number]))
    assert isinstance(blocks, nn.ModuleList)
    return blocks
