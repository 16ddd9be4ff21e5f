"""One-shot pruning of a trained adapter: the loss increase of every criterion, with and without recovery.

``python -m experiments.jobs.one_shot CONFIG.json RESULT.json ADAPTER_FOLDER`` measures one adapter.  No training
follows the pruning.  Recovery is the criterion's ``own``, ``none`` (the components that it removes are only masked), or
``C_z`` (B makes up for them by least squares through the second moment of z = Ax).
"""

import json
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from peft import PeftModel
from torch import Tensor
from tqdm import tqdm

from experiments.finetuning.calibration import calibrate
from experiments.finetuning.controls import CONTROLS
from experiments.finetuning.evaluate import class_logits, label_losses, target_losses
from experiments.finetuning.matching import unexplained
from experiments.finetuning.models import classifies, load_base, matches
from experiments.jobs.record import write_record
from experiments.settings.jobs import OneShot, RunConfig, rule_options
from experiments.settings.validation import validated
from experiments.tasks import TASKS, Example
from prunedlora.adapters.surgery import write_factors
from prunedlora.criteria import available_criteria, get_criterion
from prunedlora.criteria.registry import Reduction
from prunedlora.criteria.sparsegpt2023 import recovered
from prunedlora.factors import Factors
from prunedlora.ranks.reduction import Candidate, reduce_all

Recovery = Literal["own", "none", "C_z"]
#: Other names of `svd`, the same with one adapter and one event per module.
ALIASES = ("lorasqueeze2026", "para2026")
#: Rules of another study.
NOT_HERE = (*ALIASES, *CONTROLS)
#: Rows whose losses are kept sentence by sentence, for paired comparisons.
COMPARED = ("svd", "svd_kfac", "svd_fisher")


@dataclass(frozen=True)
class Variant:
    """A criterion with options and a kind of recovery."""

    criterion: str
    recovery: Recovery
    options: tuple[tuple[str, Any], ...] = ()

    @property
    def truncates(self) -> bool:
        """Whether it belongs to the truncation family, which has no components to mask."""
        return get_criterion(self.criterion).rotates


def variants() -> Iterator[Variant]:
    """Every registered criterion in every way that makes sense for it, and Algorithm 1 in its other forms."""
    for name in available_criteria():
        criterion = get_criterion(name)
        if name in NOT_HERE:
            continue
        if criterion.rotates:
            yield Variant(name, "own")
            continue
        yield Variant(name, "none")
        if _moves(name):
            yield Variant(name, "own")
        if name != "sparsegpt2023":  # its own recovery is that one
            yield Variant(name, "C_z")
    yield Variant("prunedlora2025", "own", (("newton", "literal"),))
    yield Variant("prunedlora2025", "own", (("newton", "capped"),))
    yield Variant("prunedlora2025", "own", (("damping", 1.0),))


def measure(config: OneShot, run: RunConfig, adapter: Path) -> dict[str, Any]:
    """Losses of an adapter pruned in every way, on calibration and on test sentences; the adapter is only read."""
    base, tokenizer = load_base(run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = PeftModel.from_pretrained(base, adapter, is_trainable=True).to(device)
    task = TASKS[run.task]
    seen = task.train(config.calibration_examples, run.seed)
    sets = {"calibration": seen[: config.calibration_scored], "test": task.test(run.test_examples)}
    candidates = calibrate(model, tokenizer, run, seen, run.seed)

    def losses() -> dict[str, Tensor]:
        return {name: _losses(model, tokenizer, run, examples) for name, examples in sets.items()}

    unpruned = losses()
    jobs = [
        (variant, rank)
        for variant in variants()
        for rank in (config.truncation_ranks if variant.truncates else config.ranks)
    ]
    rows = []
    for variant, rank in tqdm(jobs, desc="one-shot"):
        # Written over what the variant before has left: candidates keep the trained factors.
        for candidate, factors in reduced(candidates, variant, rank):
            write_factors(candidate.module, candidate.live, factors.B, factors.A)
        pruned = losses()
        increase = {name: pruned[name] - unpruned[name] for name in sets}
        row = {**asdict(variant), "options": dict(variant.options), "rank": rank}
        row |= {f"{name}_increase": float(increase[name].mean()) for name in sets}
        row["test_standard_error"] = float(increase["test"].std() / len(increase["test"]) ** 0.5)
        if variant.criterion in COMPARED:
            row["test_increases"] = [round(x, 5) for x in increase["test"].tolist()]
        rows.append(row)
    return {
        "unpruned": {name: float(values.mean()) for name, values in unpruned.items()},
        "sentences": {name: len(examples) for name, examples in sets.items()},
        "modules": len(candidates),
        "rows": rows,
    }


def reduced(
    candidates: list[Candidate], variant: Variant, rank: int
) -> list[tuple[Candidate, Factors]]:
    """What each module's factors become."""
    criterion = get_criterion(variant.criterion)
    options = rule_options(variant.criterion, dict(variant.options))
    ranks = {c.module.name: rank for c in candidates}
    chosen = reduce_all(criterion, options, candidates, ranks)
    return [
        (candidate, _recover(candidate, reduction, variant.recovery))
        for candidate, reduction in chosen
    ]


def _recover(candidate: Candidate, reduction: Reduction, recovery: Recovery) -> Factors:
    if recovery == "own":
        return reduction.factors
    if recovery == "C_z":
        return recovered(candidate.factors, candidate.statistics.require("C_z"), reduction.removed)
    return candidate.factors.without(reduction.removed)


def _moves(criterion: str) -> bool:
    """Whether a criterion changes what stays."""
    return "damping" in get_criterion(criterion).options


def _losses(
    model: torch.nn.Module, tokenizer: Any, run: RunConfig, examples: list[Example]
) -> Tensor:
    model.eval()
    if matches(run):
        return unexplained(model, tokenizer, run, examples)
    if classifies(run.model):
        labels = TASKS[run.task].labels
        return label_losses(class_logits(model, tokenizer, run, examples), labels, examples)
    losses, tokens = target_losses(model, tokenizer, examples, run.eval_batch_size)
    return losses * len(examples) / tokens.sum()


def main(arguments: list[str]) -> None:
    """Read the configuration, measure, write the result."""
    config_file, result_file, adapter = (Path(argument) for argument in arguments)
    values = json.loads(config_file.read_text())
    config = validated(OneShot, values["one_shot"], f"{config_file.name}: one_shot")
    run = validated(RunConfig, values["run"], f"{config_file.name}: run")
    result = measure(config, run, adapter)
    write_record(result_file, values, result)


if __name__ == "__main__":
    main(sys.argv[1:])
