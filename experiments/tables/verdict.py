"""The fair study: is it the choice of components, the recovery or the schedule?

Every row has a learning rate of its own in every column, chosen by the validation loss.  A schedule is named by the
share of the sum of all learning rates that is left after its last event.  The task is one in which rank matters by
construction, with a control in which it does not.
"""

from collections.abc import Callable
from dataclasses import replace

from experiments.reporting.table import Label, Row, Table
from experiments.settings.jobs import RunConfig, changed
from experiments.settings.preset import Verdict
from experiments.tables.labels import LORA, SKYLINE, TRUNCATED_BY_SVD
from experiments.tables.rules import (
    B_THEN_A,
    CANCELLED,
    FISHER_HALF,
    FISHER_PRINTED,
    HALF,
    KFAC,
    KFAC_BOTH,
    MAGNITUDE,
    MASKED,
    PRINTED,
    RANDOM,
    RANDOM_HALF,
    SPARSEGPT,
    SVD,
    pruned_by_rule,
)
from experiments.tables.runs import at_target_rank, each_seed, scheduled, truncated, unpruned
from experiments.tables.tuning import Tune

#: The rows that prune.
PRUNED = (
    PRINTED,
    HALF,
    Label("prunedlora2025, B alone"),
    Label("prunedlora2025, A alone"),
    MASKED,
    RANDOM,
    RANDOM_HALF,
    MAGNITUDE,
    SPARSEGPT,
    KFAC,
    SVD,
    Label("prunedlora2025, half of both, rebalanced"),
    Label("random, no recovery, rebalanced"),
)
#: Other recoveries, in one column only.
RECOVERIES = (CANCELLED, B_THEN_A, KFAC_BOTH, FISHER_PRINTED, FISHER_HALF)
#: Rows that the control has, too.
IN_CONTROL = (LORA, SKYLINE, PRINTED, HALF, MASKED, RANDOM, SVD)


def table(settings: Verdict, tune: Tune) -> Table:
    """From one initial rank, one column for each schedule and for each target rank."""
    columns = columns_of(settings)
    control = _control(settings)
    middle = _name(min(settings.target_ranks), settings.share_left)

    def row(label: Label, change: Callable[[RunConfig], RunConfig]) -> Row:
        own = columns | (control if label in IN_CONTROL else {})
        if label in RECOVERIES:
            own = {middle: columns[middle]}
        cells = {name: each_seed(tune(change(run)), settings.seeds) for name, run in own.items()}
        return Row(label, cells)

    rows = [
        row(LORA, at_target_rank),
        row(SKYLINE, unpruned),
        row(TRUNCATED_BY_SVD, lambda run: truncated(run, "svd")),
        *(row(rule, pruned_by_rule(rule)) for rule in (*PRUNED, *RECOVERIES)),
    ]
    return Table(
        "verdict",
        f"A fair verdict: choice, recovery and schedule, from rank {settings.initial_rank}",
        tuple(rows),
        (
            *((label, LORA) for label in PRUNED),
            *((label, RANDOM) for label in PRUNED if label != RANDOM),
            *((label, PRINTED) for label in PRUNED if label != PRINTED),
            *((label, HALF) for label in (CANCELLED, B_THEN_A, FISHER_HALF)),
            (FISHER_HALF, FISHER_PRINTED),
            (KFAC_BOTH, KFAC),
            (HALF, RANDOM_HALF),
            (HALF, SVD),
            (SVD, TRUNCATED_BY_SVD),
            (LORA, SKYLINE),
        ),
        "Every row has its own learning rate in every column. "
        "Rebalanced: after every event each column of B has the norm of its row of A, as svd leaves them, and the "
        "optimiser's state follows. The share that cancels the first order: of (11), by the gradients "
        "of each module.",
        settings.margin,
        gate=(LORA, SKYLINE),
    )


def heading(preset: str, settings: Verdict) -> str:
    """The setting, in a sentence."""
    run = settings.run
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    return (
        f"Preset {preset}: {run.model} on {run.task}, adapters on {', '.join(run.target_modules)}, {run.steps} "
        f"steps of {run.batch_size} examples where a column names no other task or number of steps, learning rates "
        f"chosen from {rates}."
    )


def columns_of(settings: Verdict) -> dict[str, RunConfig]:
    """A run of each column, before its row is known."""
    run = replace(settings.run, initial_rank=settings.initial_rank)
    least, *others = sorted(settings.target_ranks)
    columns = {
        _name(least, share): scheduled(replace(run, target_rank=least), settings.events, share)
        for share in settings.shares
    }
    columns |= {
        _name(rank, settings.share_left): scheduled(
            replace(run, target_rank=rank), settings.events, settings.share_left
        )
        for rank in others
    }
    return columns


def _control(settings: Verdict) -> dict[str, RunConfig]:
    """The column of the task in which rank does not matter, where the settings have one."""
    if not settings.control:
        return {}
    rank = min(settings.target_ranks)
    share = settings.share_left
    run = replace(settings.run, initial_rank=settings.initial_rank, target_rank=rank)
    control = changed(run, settings.control, "verdict: control")
    return {f"{control.task}, {_name(rank, share)}": scheduled(control, settings.events, share)}


def _name(rank: int, share: float) -> str:
    return f"to {rank}, {share:.0%} left"
