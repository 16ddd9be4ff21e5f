"""Figure 3: pruned from several initial ranks to several target ranks."""

from dataclasses import replace

from experiments.reporting.table import Row, Table
from experiments.settings.preset import Encoder
from experiments.tables.encoder import ONE_RATE, at_one_rate, each_seed
from experiments.tables.labels import LORA, PAPER_NAMES, from_rank
from experiments.tables.tuning import Tune

RULES = ("sparsegpt2023", "llmpruner2023", "prunedlora2025")


def table(settings: Encoder, tune: Tune) -> Table:
    """One column for each target rank; LoRA of that rank, and every rule from every initial rank above it."""
    run = at_one_rate(settings, tune)
    seeds = settings.ablation_seeds
    targets = {f"rank {k}": k for k in settings.figure3_targets}
    plain = {
        column: each_seed(replace(run, method="lora", initial_rank=k, target_rank=k), seeds)
        for column, k in targets.items()
    }
    rows = [Row(LORA, plain)]
    # The target rank of the other tables is an initial rank here, where a lower one is aimed at.
    initial_ranks = {settings.target_rank, *settings.initial_ranks}
    for rank in sorted(initial_ranks - {min(settings.figure3_targets)}):
        for rule in RULES:
            pruned = replace(run, method="prune", criterion=rule, initial_rank=rank)
            cells = {
                column: each_seed(replace(pruned, target_rank=k), seeds)
                for column, k in targets.items()
                if k < rank
            }
            rows.append(Row(from_rank(PAPER_NAMES[rule], rank), cells))
    return Table(
        "figure3",
        "Figure 3: pruned from several initial ranks to several target ranks",
        tuple(rows),
        note=f"{ONE_RATE}.",
    )
