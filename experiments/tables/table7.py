"""Table 7: one-shot against dynamic pruning, by every rule."""

from dataclasses import replace

from experiments.reporting.table import Label, Row, Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Ablations
from experiments.tables.ablations import plain_rows, run_between, schedule_note
from experiments.tables.labels import FULL_CHANGE, LORA, SKYLINE, SVD_FISHER
from experiments.tables.rules import (
    ADALORA_SCORE,
    HALF,
    HALF_ONE_BUDGET,
    KFAC,
    KFAC_ONE_BUDGET,
    LLM_PRUNER,
    MAGNITUDE,
    MASKED,
    PARA,
    PRINTED,
    PRINTED_ONE_BUDGET,
    RANDOM,
    RANDOM_HALF,
    SPARSEGPT,
    SVD,
    SVD_KFAC,
    WANDA,
    pruned_by_rule,
    truncated_by_rule,
)
from experiments.tables.runs import each_seed, truncated
from experiments.tables.tuning import Tune

#: Accuracies of Llama-3-8B on GSM8K, 128 to 64, one-shot / dynamic.
PAPER = {
    MAGNITUDE: "63.21",
    WANDA: "67.33",
    FULL_CHANGE: "65.21 / –",
    SPARSEGPT: "65.01 / 66.35",
    LLM_PRUNER: "64.45 / 69.82",
    PRINTED: "66.31 / 69.21",
}
#: Rows with both columns.
BOTH = (
    RANDOM,
    MAGNITUDE,
    WANDA,
    SPARSEGPT,
    LLM_PRUNER,
    PRINTED,
    HALF,
    MASKED,
    ADALORA_SCORE,
    KFAC,
    SVD,
    PARA,
    SVD_KFAC,
)
#: Rules whose budget is shared by all modules in a further row, and its label.
SHARED_BUDGET = {
    PRINTED: PRINTED_ONE_BUDGET,
    HALF: HALF_ONE_BUDGET,
    KFAC: KFAC_ONE_BUDGET,
}
COMPARED = (
    *((rule, LORA) for rule in BOTH),
    *((rule, RANDOM) for rule in BOTH if rule != RANDOM),
    (HALF, PRINTED),
    (HALF, RANDOM_HALF),
    (HALF, SPARSEGPT),
    (HALF, KFAC),
    (HALF, SVD),
    (KFAC, SPARSEGPT),
    (SVD_KFAC, SVD),
    (PARA, SVD),
    (SVD_FISHER, SVD),
    *((shared, rule) for rule, shared in SHARED_BUDGET.items()),
    *((shared, rival) for shared in SHARED_BUDGET.values() for rival in (LORA, SVD, PARA)),
)
ONE_SHOT, DYNAMIC = "one-shot", "dynamic"


def table(settings: Ablations, tune: Tune) -> Table:
    """From the largest initial rank: pruned once after training, and at events during it."""
    top = max(settings.initial_ranks)
    run = run_between(settings, top, settings.target_rank)

    def seeds(of: RunConfig) -> tuple[RunConfig, ...]:
        return each_seed(tune(of), settings.seeds)

    def one_shot(rule: Label) -> dict[str, tuple[RunConfig, ...]]:
        return {ONE_SHOT: seeds(truncated_by_rule(rule, run))}

    def dynamic(rule: Label) -> dict[str, tuple[RunConfig, ...]]:
        return {DYNAMIC: seeds(pruned_by_rule(rule)(run))}

    rows = plain_rows({ONE_SHOT: run, DYNAMIC: run}, settings, tune)
    rows += [Row(rule, one_shot(rule) | dynamic(rule), PAPER.get(rule, "")) for rule in BOTH]
    rows.append(Row(RANDOM_HALF, dynamic(RANDOM_HALF)))
    # Full fine-tuning has a rate of its own, and no initial rank.
    full = replace(truncated(run, ""), method="truncate_full", initial_rank=0)
    rows.append(Row(FULL_CHANGE, {ONE_SHOT: seeds(full)}, PAPER[FULL_CHANGE]))
    rows.append(Row(SVD_FISHER, {ONE_SHOT: seeds(truncated(run, "svd_fisher"))}))
    rows += [Row(rule, dynamic(rule)) for rule in SHARED_BUDGET.values()]
    return Table(
        "table7",
        f"Table 7: one-shot and dynamic pruning, {top} to {settings.target_rank}",
        tuple(rows),
        COMPARED,
        "Paper: Llama-3-8B on GSM8K, 128 to 64; one-shot / dynamic. One-shot: trained at the initial rank to the end, "
        "pruned once, no further training. Of full fine-tuning's change the adapted layers and the head are kept, the "
        f"rest is dropped. {schedule_note(settings)}",
        settings.margin,
        gate=(LORA, SKYLINE),
    )
