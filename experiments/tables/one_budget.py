"""One rank for every module, or one budget that they share; every row at its own learning rate."""

from collections.abc import Callable
from dataclasses import replace

from experiments.reporting.table import Label, Row, Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Verdict
from experiments.tables.labels import ADALORA, LORA, SKYLINE
from experiments.tables.rules import (
    HALF,
    HALF_ONE_BUDGET,
    KFAC,
    KFAC_ONE_BUDGET,
    LORA_AT_RANKS,
    PARA,
    SVD,
    at_ranks_of,
    pruned_by_rule,
)
from experiments.tables.runs import at_target_rank, each_seed, unpruned
from experiments.tables.tuning import Tune
from experiments.tables.verdict import columns_of

#: Rules within each module, and the same with one budget.
PAIRS = ((HALF, HALF_ONE_BUDGET), (KFAC, KFAC_ONE_BUDGET), (SVD, PARA))


def table(settings: Verdict, tune: Tune) -> Table:
    """The columns of the fair study; as many parameters in every row of a column but the skyline."""
    columns = columns_of(settings)

    def row(label: Label, change: Callable[[RunConfig], RunConfig]) -> Row:
        cells = {
            name: each_seed(tune(change(run)), settings.seeds) for name, run in columns.items()
        }
        return Row(label, cells)

    rows = [
        row(LORA, at_target_rank),
        row(SKYLINE, unpruned),
        row(ADALORA, lambda run: replace(at_target_rank(run), method="adalora")),
        row(LORA_AT_RANKS, at_ranks_of(HALF_ONE_BUDGET)),
        *(row(rule, pruned_by_rule(rule)) for pair in PAIRS for rule in pair),
    ]
    return Table(
        "one_budget",
        f"One rank for every module, or one budget for all, from rank {settings.initial_rank}",
        tuple(rows),
        (
            *((shared, own) for own, shared in PAIRS),
            *((shared, LORA) for _, shared in PAIRS),
            (HALF_ONE_BUDGET, LORA_AT_RANKS),
            (LORA_AT_RANKS, LORA),
            (HALF_ONE_BUDGET, ADALORA),
            (HALF_ONE_BUDGET, SVD),
            (HALF_ONE_BUDGET, PARA),
            (ADALORA, LORA),
        ),
        f"{PARA} is svd with one budget. All modules are of one size, so that with one budget the mean of their ranks "
        "is the target rank. AdaLoRA starts at one and a half times the target and shares out what is left by its own "
        "score. LoRA at found ranks is trained from the start at the ranks that the same seed and learning rate lead "
        "to. Every row has its own learning rate in every column.",
        settings.margin,
        gate=(LORA, SKYLINE),
    )
