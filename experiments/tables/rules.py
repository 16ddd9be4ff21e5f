"""The rules that prune during training, with their recoveries: their labels in a table, and how they are run."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from experiments.finetuning.controls import (
    CANCELLING,
    KFAC_TWO_SIDED,
    RANDOM_RECOVERED,
    REBALANCED,
)
from experiments.reporting.table import Label
from experiments.settings.jobs import RunConfig
from experiments.tables.labels import one_budget
from experiments.tables.runs import truncated
from prunedlora.choices import Scope

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
#: The same with ranks that the modules share out among them.
HALF_ONE_BUDGET: Final = one_budget(HALF)
PRINTED_ONE_BUDGET: Final = one_budget(PRINTED)
KFAC_ONE_BUDGET: Final = one_budget(KFAC)
#: LoRA from the start, with the ranks that the modules were left with.
LORA_AT_RANKS: Final = Label("LoRA at the ranks that prunedlora2025's one budget finds")


@dataclass(frozen=True)
class Rule:
    """Of a row that prunes.

    Attributes:
        criterion: its name.
        options: of the criterion.
        scope: of the budget; the criterion's own if empty.
    """

    criterion: str
    options: Mapping[str, str] = field(default_factory=dict)
    scope: Literal[Scope, ""] = ""


#: By the label of the row.
RULES: Final[dict[Label, Rule]] = {
    PRINTED: Rule("prunedlora2025"),
    HALF: Rule("prunedlora2025", {"recovery": "half"}),
    Label("prunedlora2025, B alone"): Rule("prunedlora2025", {"recovery": "B"}),
    Label("prunedlora2025, A alone"): Rule("prunedlora2025", {"recovery": "A"}),
    MASKED: Rule("prunedlora2025", {"recovery": "none"}),
    RANDOM: Rule("random"),
    RANDOM_HALF: Rule(RANDOM_RECOVERED, {"recovery": "half"}),
    MAGNITUDE: Rule("magnitude"),
    WANDA: Rule("wanda2024"),
    LLM_PRUNER: Rule("llmpruner2023"),
    ADALORA_SCORE: Rule("adalora2023"),
    SPARSEGPT: Rule("sparsegpt2023"),
    KFAC: Rule("kfac"),
    SVD: Rule("svd"),
    PARA: Rule("para2026"),
    SVD_KFAC: Rule("svd_kfac"),
    Label("prunedlora2025, half of both, rebalanced"): Rule(REBALANCED, {"rule": "prunedlora2025"}),
    Label("random, no recovery, rebalanced"): Rule(REBALANCED, {"rule": "random"}),
    CANCELLED: Rule(CANCELLING, {"first": "neither"}),
    B_THEN_A: Rule(CANCELLING, {"first": "B"}),
    KFAC_BOTH: Rule(KFAC_TWO_SIDED),
    FISHER_PRINTED: Rule("fisher"),
    FISHER_HALF: Rule("fisher", {"recovery": "half"}),
    HALF_ONE_BUDGET: Rule("prunedlora2025", {"recovery": "half"}, "global"),
    PRINTED_ONE_BUDGET: Rule("prunedlora2025", {}, "global"),
    KFAC_ONE_BUDGET: Rule("kfac", {}, "global"),
}


def pruned_by_rule(label: Label) -> Callable[[RunConfig], RunConfig]:
    """From a run to one that the rule of that row prunes."""
    rule = RULES[label]
    return lambda run: replace(
        run,
        method="prune",
        criterion=rule.criterion,
        options=dict(rule.options),
        scope=rule.scope,
    )


def at_ranks_of(label: Label) -> Callable[[RunConfig], RunConfig]:
    """From a run to LoRA at the ranks that the rule of that row finds at the same learning rate, with the same seed."""
    pruned = pruned_by_rule(label)
    return lambda run: replace(pruned(run), method="lora_at_ranks")


def truncated_by_rule(label: Label, run: RunConfig) -> RunConfig:
    """LoRA at the initial rank of a run, reduced by the rule of that row after the last step."""
    rule = RULES[label]
    return replace(truncated(run, rule.criterion), options=dict(rule.options))
