"""The rules that prune during training, with their recoveries: their labels in a table, and how they are run."""

from collections.abc import Callable
from dataclasses import replace
from typing import Final

from experiments.finetuning.controls import (
    CANCELLING,
    KFAC_TWO_SIDED,
    RANDOM_RECOVERED,
    REBALANCED,
)
from experiments.reporting.table import Label
from experiments.settings.jobs import RunConfig

PRINTED: Final = Label("prunedlora2025, both factors recovered as printed")
HALF: Final = Label("prunedlora2025, half of both")
MASKED: Final = Label("prunedlora2025, no recovery (published code)")
RANDOM: Final = Label("random, no recovery")
RANDOM_HALF: Final = Label("random, half of both")
MAGNITUDE: Final = Label("magnitude, no recovery")
WANDA: Final = Label("wanda2024, no recovery")
LLM_PRUNER: Final = Label("llmpruner2023, no recovery")
ADALORA_SCORE: Final = Label("adalora2023, no recovery")
SPARSEGPT: Final = Label("sparsegpt2023")
KFAC: Final = Label("kfac")
SVD: Final = Label("svd")
PARA: Final = Label("para2026")
SVD_KFAC: Final = Label("svd_kfac")
CANCELLED: Final = Label("prunedlora2025, both by the share that cancels the first order")
B_THEN_A: Final = Label("prunedlora2025, B, then A for what remains")
KFAC_BOTH: Final = Label("kfac, B, then A for what remains")
FISHER_PRINTED: Final = Label("fisher, both factors recovered as printed")
FISHER_HALF: Final = Label("fisher, half of both")
#: Criterion and options of a row that prunes.
Rule = tuple[str, dict[str, str]]
#: Those of every such row.
RULES: Final[dict[Label, Rule]] = {
    PRINTED: ("prunedlora2025", {}),
    HALF: ("prunedlora2025", {"recovery": "half"}),
    Label("prunedlora2025, B alone"): ("prunedlora2025", {"recovery": "B"}),
    Label("prunedlora2025, A alone"): ("prunedlora2025", {"recovery": "A"}),
    MASKED: ("prunedlora2025", {"recovery": "none"}),
    RANDOM: ("random", {}),
    RANDOM_HALF: (RANDOM_RECOVERED, {"recovery": "half"}),
    MAGNITUDE: ("magnitude", {}),
    WANDA: ("wanda2024", {}),
    LLM_PRUNER: ("llmpruner2023", {}),
    ADALORA_SCORE: ("adalora2023", {}),
    SPARSEGPT: ("sparsegpt2023", {}),
    KFAC: ("kfac", {}),
    SVD: ("svd", {}),
    PARA: ("para2026", {}),
    SVD_KFAC: ("svd_kfac", {}),
    Label("prunedlora2025, half of both, rebalanced"): (REBALANCED, {"rule": "prunedlora2025"}),
    Label("random, no recovery, rebalanced"): (REBALANCED, {"rule": "random"}),
    CANCELLED: (CANCELLING, {"first": "neither"}),
    B_THEN_A: (CANCELLING, {"first": "B"}),
    KFAC_BOTH: (KFAC_TWO_SIDED, {}),
    FISHER_PRINTED: ("fisher", {}),
    FISHER_HALF: ("fisher", {"recovery": "half"}),
}


def pruned_by_rule(label: Label) -> Callable[[RunConfig], RunConfig]:
    """From a run to one that the rule of that row prunes."""
    criterion, options = RULES[label]
    return lambda run: replace(run, method="prune", criterion=criterion, options=options)
