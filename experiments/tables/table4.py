"""Table 4: the initial rank against the scaling s."""

from dataclasses import replace

from experiments.reporting.table import Row, Table
from experiments.settings.preset import Ablations
from experiments.tables.ablations import plain_rows, run_between, schedule_note
from experiments.tables.labels import LORA, SKYLINE, from_rank
from experiments.tables.rules import HALF, PRINTED, pruned_by_rule
from experiments.tables.runs import each_seed
from experiments.tables.tuning import Tune

SCALINGS = (0.5, 1.0, 2.0)
#: Accuracies of Llama-3-8B on GSM8K, by initial rank; one number for each scaling.
PAPER = ("67.81 / 69.21 / 69.11", "70.12 / 70.38 / 70.43", "69.31 / 72.12 / 73.38")


def table(settings: Ablations, tune: Tune) -> Table:
    """The paper's rule from every initial rank, as printed and corrected, one column for each scaling."""
    ranks = sorted(settings.initial_ranks)
    runs = {
        rank: {
            f"s = {s:g}": replace(run_between(settings, rank, settings.target_rank), scaling=s)
            for s in SCALINGS
        }
        for rank in ranks
    }
    rows = plain_rows(runs[ranks[-1]], settings, tune)
    for rule in (PRINTED, HALF):
        prune = pruned_by_rule(rule)
        papers = PAPER if rule == PRINTED else ("",) * len(ranks)
        rows += [
            Row(
                from_rank(rule, rank),
                {
                    name: each_seed(tune(prune(run)), settings.seeds)
                    for name, run in runs[rank].items()
                },
                paper,
            )
            for rank, paper in zip(ranks, papers, strict=False)
        ]
    lowest, highest = ranks[0], ranks[-1]
    return Table(
        "table4",
        f"Table 4: initial rank and scaling, to rank {settings.target_rank}",
        tuple(rows),
        (
            *((from_rank(rule, highest), from_rank(rule, lowest)) for rule in (PRINTED, HALF)),
            *((from_rank(rule, rank), LORA) for rule in (PRINTED, HALF) for rank in ranks),
        ),
        f"Paper: Llama-3-8B on GSM8K. {schedule_note(settings)}",
        settings.margin,
        gate=(LORA, SKYLINE),
    )
