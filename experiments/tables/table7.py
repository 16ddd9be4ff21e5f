"""Table 7: one-shot against dynamic pruning, by every rule."""

from dataclasses import replace
from typing import Literal

from experiments.reporting.table import Label, Row, Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Encoder
from experiments.tables.encoder import ONE_RATE, at_one_rate, each_seed
from experiments.tables.labels import (
    ADALORA_SCORE,
    FULL_CHANGE,
    KFAC,
    LLM_PRUNER,
    MAGNITUDE,
    PAPER_NAMES,
    PARA,
    PRUNEDLORA,
    RANDOM,
    SPARSEGPT,
    SVD,
    SVD_FISHER,
    SVD_KFAC,
    WANDA,
    one_budget,
)
from experiments.tables.tuning import Tune
from prunedlora.choices import Scope

#: Accuracies of Llama-3-8B on GSM8K, 128 to 64, one-shot / dynamic.
PAPER = {
    MAGNITUDE: "63.21",
    WANDA: "67.33",
    FULL_CHANGE: "65.21 / –",
    SPARSEGPT: "65.01 / 66.35",
    LLM_PRUNER: "64.45 / 69.82",
    PRUNEDLORA: "66.31 / 69.21",
}
#: Rules that the paper does not have, by the name of the criterion.
OTHERS = {
    "adalora2023": ADALORA_SCORE,
    "kfac": KFAC,
    "svd": SVD,
    "para2026": PARA,
    "svd_kfac": SVD_KFAC,
}
#: Rules whose budget is shared by all modules in a further row.
SHARED_BUDGET = {"prunedlora2025": PRUNEDLORA, "kfac": KFAC}
COMPARED = (
    (PRUNEDLORA, RANDOM),
    (PRUNEDLORA, MAGNITUDE),
    (PRUNEDLORA, SPARSEGPT),
    (PRUNEDLORA, LLM_PRUNER),
    (PRUNEDLORA, SVD),
    (SVD_KFAC, SVD),
    (KFAC, SPARSEGPT),
    (KFAC, SVD),
    (PARA, SVD),
    (one_budget(PRUNEDLORA), PRUNEDLORA),
    (one_budget(KFAC), KFAC),
)


def table(settings: Encoder, tune: Tune) -> Table:
    """From the largest initial rank: pruned once after training, and at events during it."""
    top = max(settings.initial_ranks)
    k = settings.target_rank
    run = replace(at_one_rate(settings, tune), initial_rank=top, target_rank=k)

    def one_shot(criterion: str) -> dict[str, tuple[RunConfig, ...]]:
        reduced = replace(run, method="truncate", criterion=criterion)
        return {"one-shot": each_seed(reduced, settings.seeds)}

    def dynamic(
        criterion: str, scope: Scope | Literal[""] = ""
    ) -> dict[str, tuple[RunConfig, ...]]:
        pruned = replace(run, method="prune", criterion=criterion, scope=scope)
        return {"dynamic": each_seed(pruned, settings.seeds)}

    def row(label: Label, criterion: str) -> Row:
        return Row(label, one_shot(criterion) | dynamic(criterion), PAPER.get(label, ""))

    rows = [row(RANDOM, "random")]
    rows += [row(label, criterion) for criterion, label in PAPER_NAMES.items()]
    # Full fine-tuning has a rate of its own, and no initial rank.
    full = tune(replace(run, method="truncate_full", initial_rank=0))
    rows.append(Row(FULL_CHANGE, {"one-shot": each_seed(full, settings.seeds)}, PAPER[FULL_CHANGE]))
    rows += [row(label, criterion) for criterion, label in OTHERS.items()]
    rows.append(Row(SVD_FISHER, one_shot("svd_fisher")))
    rows += [
        Row(one_budget(label), dynamic(criterion, scope="global"))
        for criterion, label in SHARED_BUDGET.items()
    ]
    return Table(
        "table7",
        f"Table 7: one-shot and dynamic pruning, {top} to {k}",
        tuple(rows),
        COMPARED,
        "Paper: Llama-3-8B on GSM8K, 128 to 64; one-shot / dynamic. One-shot: trained at the "
        "initial rank to the end, pruned once, no further training. "
        f"{ONE_RATE}, full fine-tuning at its own. Of full fine-tuning's change the adapted layers "
        "and the head are kept, the rest is dropped.",
    )
