"""When to prune: the same number of steps, pruned early, late, at one event or several, or after the last step."""

from collections.abc import Callable
from dataclasses import replace

from experiments.reporting.table import Label, Row, Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Ablations
from experiments.tables.ablations import plain_rows
from experiments.tables.labels import AT_THE_END, LORA, SKYLINE
from experiments.tables.rules import HALF, PRINTED, RANDOM, SVD, pruned_by_rule, truncated_by_rule
from experiments.tables.runs import each_seed, scheduled
from experiments.tables.tuning import Tune

#: The rules, one column each.
COLUMNS = (PRINTED, HALF, RANDOM, SVD)


def table(settings: Ablations, tune: Tune) -> Table:
    """From the largest initial rank, one column for each rule."""
    top = max(settings.initial_ranks)
    run = replace(settings.run, initial_rank=top, target_rank=settings.target_rank)

    def row(label: Label, change: Callable[[RunConfig, Label], RunConfig]) -> Row:
        cells = {str(rule): change(run, rule) for rule in COLUMNS}
        return Row(label, {name: each_seed(tune(r), settings.seeds) for name, r in cells.items()})

    def pruned(
        events: int, share: float, **changes: str
    ) -> Callable[[RunConfig, Label], RunConfig]:
        def change(run: RunConfig, rule: Label) -> RunConfig:
            start = replace(scheduled(run, events, share), **changes)  # type: ignore[arg-type]
            return pruned_by_rule(rule)(start)

        return change

    usual = events_label(settings.events, settings.share_left)
    once = events_label(1, settings.share_left)
    rows = [
        row(events_label(settings.events, share), pruned(settings.events, share))
        for share in sorted(settings.shares, reverse=True)
    ]
    rows.append(row(once, pruned(1, settings.share_left)))
    rows.append(row(AT_THE_END, lambda run, rule: truncated_by_rule(rule, run)))
    # For component rules, whose basis stays, to keep the moments is to carry them over.
    reset = row(
        moments_label(usual, "reset"), pruned(settings.events, settings.share_left, moments="reset")
    )
    kept = row(
        moments_label(usual, "keep"), pruned(settings.events, settings.share_left, moments="keep")
    )
    rows += [reset, replace(kept, cells={str(SVD): kept.cells[str(SVD)]})]
    plain = plain_rows({str(rule): run for rule in COLUMNS}, settings, tune)
    return Table(
        "when_to_prune",
        f"When to prune: {top} to {settings.target_rank}, {run.steps} steps in all",
        (*plain, *rows),
        (
            *((row.label, LORA) for row in rows),
            *((row.label, AT_THE_END) for row in rows if row.label != AT_THE_END),
            # As many learning rates left, another number of events; another treatment of the moments.
            (once, usual),
            *((moments.label, usual) for moments in rows[-2:]),
        ),
        "Left: of the sum of all learning rates, after the last event. Moments: what becomes of Adam's at an event; "
        "carried into the new basis where nothing else is said, which for rules that keep the basis is the same as "
        "kept. Every row has its own learning rate in every column.",
        settings.margin,
        gate=(LORA, SKYLINE),
    )


def events_label(events: int, share: float) -> Label:
    """A row with so many events, by what the last leaves."""
    return Label(f"{'one event' if events == 1 else f'{events} events'}, {share:.0%} left")


def moments_label(row: Label, moments: str) -> Label:
    """A row that treats Adam's moments in its own way."""
    return Label(f"{row}, moments: {moments}")
