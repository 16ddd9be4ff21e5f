"""Figure 3: pruned from several initial ranks to several target ranks."""

from experiments.reporting.table import Row, Table
from experiments.settings.preset import Ablations
from experiments.tables.ablations import plain_rows, run_between, schedule_note
from experiments.tables.labels import LORA, SKYLINE, from_rank
from experiments.tables.rules import (
    HALF,
    LLM_PRUNER,
    PRINTED,
    RANDOM,
    SPARSEGPT,
    SVD,
    pruned_by_rule,
)
from experiments.tables.runs import each_seed
from experiments.tables.tuning import Tune

SHOWN = (SPARSEGPT, LLM_PRUNER, PRINTED, HALF, RANDOM, SVD)


def table(settings: Ablations, tune: Tune) -> Table:
    """One column for each target rank; LoRA of that rank, and every rule from every initial rank above it."""
    ranks = sorted(settings.initial_ranks)
    targets = {f"rank {k}": k for k in settings.figure3_targets}
    rows = plain_rows(
        {column: run_between(settings, ranks[-1], k) for column, k in targets.items()},
        settings,
        tune,
    )
    pruned = []
    for rank in ranks:
        for rule in SHOWN:
            prune = pruned_by_rule(rule)
            cells = {
                column: each_seed(tune(prune(run_between(settings, rank, k))), settings.seeds)
                for column, k in targets.items()
                if k < rank
            }
            if cells:
                pruned.append(Row(from_rank(rule, rank), cells))
    return Table(
        "figure3",
        "Figure 3: pruned from several initial ranks to several target ranks",
        (*rows, *pruned),
        tuple((row.label, LORA) for row in pruned),
        schedule_note(settings),
        settings.margin,
        gate=(LORA, SKYLINE),
    )
