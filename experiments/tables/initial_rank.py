"""Is a higher initial rank better?  One target rank, as many events and steps for all, every row at its own rate."""

from dataclasses import replace

from experiments.reporting.table import Row, Table
from experiments.settings.preset import Verdict
from experiments.tables.labels import LORA, from_rank
from experiments.tables.rules import HALF, PRINTED, SVD, pruned_by_rule
from experiments.tables.runs import at_target_rank, each_seed, scheduled
from experiments.tables.tuning import Tune

#: The rules that prune.
PRUNED = (PRINTED, HALF, SVD)


def table(settings: Verdict, tune: Tune) -> Table:
    """To the least target rank by the middle schedule, from every initial rank."""
    share = settings.share_left
    least = min(settings.target_ranks)
    ranks = sorted({*settings.lower_initial_ranks, settings.initial_rank})
    column = f"to {least}, {share:.0%} left"
    runs = {
        rank: scheduled(
            replace(settings.run, initial_rank=rank, target_rank=least), settings.events, share
        )
        for rank in ranks
    }
    rows = [Row(LORA, {column: each_seed(tune(at_target_rank(runs[ranks[0]])), settings.seeds)})]
    rows += [
        Row(
            from_rank(rule, rank),
            {column: each_seed(tune(pruned_by_rule(rule)(run)), settings.seeds)},
        )
        for rule in PRUNED
        for rank, run in runs.items()
    ]
    lowest, highest = ranks[0], ranks[-1]
    return Table(
        "initial_rank",
        f"From which rank to prune to {least}",
        tuple(rows),
        (
            *((from_rank(rule, highest), from_rank(rule, lowest)) for rule in PRUNED),
            *((from_rank(rule, rank), LORA) for rule in PRUNED for rank in ranks),
        ),
        f"Of all rows {share:.0%} of the sum of all learning rates is left after the last of "
        f"{settings.events} events. Every row has its own learning rate.",
        settings.margin,
    )
