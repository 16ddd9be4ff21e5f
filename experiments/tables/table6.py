"""Table 6: the schedule of events, K1 steps apart, K2 components each."""

from dataclasses import replace

from experiments.reporting.table import Label, Row, Table
from experiments.settings.preset import Ablations
from experiments.tables.ablations import run_between
from experiments.tables.rules import HALF, PRINTED, pruned_by_rule
from experiments.tables.runs import each_seed, left_after_events
from experiments.tables.tuning import Tune

#: Accuracies of Llama-3-8B on GSM8K, by (K1, K2).
PAPER = {(5, 2): "69.01", (5, 4): "68.78", (10, 2): "69.21", (10, 4): "69.11"}


def table(settings: Ablations, tune: Tune) -> Table:
    """From one initial rank, one row for each schedule, and one column for each rule."""
    start = run_between(settings, settings.schedule_rank, settings.target_rank)
    rows = []
    for k1, k2 in settings.schedules:
        run = replace(start, interval=k1, per_event=k2, warmup_steps=settings.run.warmup_steps)
        cells = {
            rule: each_seed(tune(pruned_by_rule(rule)(run)), settings.seeds)
            for rule in (PRINTED, HALF)
        }
        label = Label(f"K1 = {k1}, K2 = {k2} ({left_after_events(run):.0%} left)")
        rows.append(
            Row(label, {str(rule): runs for rule, runs in cells.items()}, PAPER.get((k1, k2), ""))
        )
    first, *others = (row.label for row in rows)
    return Table(
        "table6",
        f"Table 6: events every K1 steps, K2 components each, {settings.schedule_rank} to {settings.target_rank}",
        tuple(rows),
        tuple((other, first) for other in others),
        "Paper: Llama-3-8B on GSM8K, 128 to 64. In brackets: what is left of the sum of all learning rates after the "
        "last event. Every row has its own learning rate in every column.",
        settings.margin,
    )
