"""When to prune: the same number of steps, pruned early, late, once with a tail of recovery, or at the end."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from experiments.reporting.table import Label, Row, Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Encoder
from experiments.tables.encoder import ONE_RATE, at_one_rate, each_seed
from experiments.tables.labels import AT_THE_END, SKYLINE
from experiments.tables.rows import pruned_once
from experiments.tables.tuning import Tune, unchanged


def table(settings: Encoder, tune: Tune) -> Table:
    """From the largest initial rank, one column for each rule."""
    top = max(settings.initial_ranks)
    k = settings.target_rank
    run = replace(at_one_rate(settings, tune), initial_rank=top, target_rank=k)

    def row(label: Label, change: Callable[[RunConfig], RunConfig]) -> Row:
        pruned = {c: replace(run, method="prune", criterion=c) for c in settings.when_criteria}
        cells = {
            c: each_seed(change(start), settings.ablation_seeds) for c, start in pruned.items()
        }
        return Row(label, cells)

    rows = [row(Label("gradual, early"), unchanged)]
    # Late: the events end a tenth of the steps before the last, if that is not early anyway.
    events = -(-(top - k) // run.per_event)
    late = run.steps - max(1, run.steps // 10) - events * run.interval
    if late > run.warmup_steps:
        rows.append(row(Label("gradual, late"), partial(replace, warmup_steps=late)))
    rows += [
        row(Label(f"once, then {tail:.0%} of the steps"), partial(pruned_once, tail=tail))
        for tail in settings.tails
    ]
    rows.append(row(AT_THE_END, partial(replace, method="truncate")))
    rows += [
        row(Label(f"gradual, early, moments: {moments}"), partial(replace, moments=moments))
        for moments in ("keep", "reset")
    ]
    # The unpruned adapter stands in every column.
    plain = replace(run, method="lora", target_rank=top)
    rows.append(row(SKYLINE, lambda _: plain))
    return Table(
        "when_to_prune",
        f"When to prune: {top} to {k}, {run.steps} steps in all",
        tuple(rows),
        tuple((row.label, AT_THE_END) for row in rows if row.label != AT_THE_END),
        "Gradual: one event every K1 steps. Moments: what becomes of Adam's at an event; carried "
        "into the new basis where not said otherwise, which for component rules is the same as "
        f"kept. {ONE_RATE}.",
    )
