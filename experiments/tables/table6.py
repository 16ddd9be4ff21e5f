"""Table 6: the schedule of events, K1 steps apart, K2 components each."""

from dataclasses import replace

from experiments.reporting.table import Label, Row, Table
from experiments.settings.preset import Encoder
from experiments.tables.encoder import ONE_RATE, at_one_rate, each_seed
from experiments.tables.tuning import Tune

#: Accuracies of Llama-3-8B on GSM8K, by (K1, K2).
PAPER = {(5, 2): "69.01", (5, 4): "68.78", (10, 2): "69.21", (10, 4): "69.11"}


def table(settings: Encoder, tune: Tune) -> Table:
    """The paper's rule from one initial rank, one row for each schedule."""
    pruned = replace(
        at_one_rate(settings, tune),
        method="prune",
        criterion="prunedlora2025",
        initial_rank=settings.schedule_rank,
        target_rank=settings.target_rank,
    )
    rows = []
    for k1, k2 in settings.schedules:
        run = replace(pruned, interval=k1, per_event=k2)
        cells = {settings.tasks[0]: each_seed(run, settings.ablation_seeds)}
        rows.append(Row(Label(f"K1 = {k1}, K2 = {k2}"), cells, PAPER.get((k1, k2), "")))
    return Table(
        "table6",
        f"Table 6: events every K1 steps, K2 components each, from rank {settings.schedule_rank}",
        tuple(rows),
        note=f"Paper: Llama-3-8B on GSM8K, 128 to 64. {ONE_RATE}.",
    )
