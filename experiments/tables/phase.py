"""When does starting high and pruning beat training low?  By steps, compression and spectrum; every row at its rate."""

from collections.abc import Callable
from dataclasses import replace

from experiments.reporting.table import Label, Row, Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Verdict
from experiments.tables.labels import LORA
from experiments.tables.rules import HALF, SVD, pruned_by_rule
from experiments.tables.runs import at_target_rank, each_seed, scheduled
from experiments.tables.tuning import Tune

#: The rows that prune.
PRUNED = (SVD, HALF)


def table(settings: Verdict, tune: Tune) -> Table:
    """One column for each task, number of steps and target rank."""
    columns = {
        column_name(task, steps, rank): _run(settings, task, steps, rank)
        for task in settings.phase_tasks
        for steps in settings.phase_steps
        for rank in sorted(settings.target_ranks)
    }

    def row(label: Label, change: Callable[[RunConfig], RunConfig]) -> Row:
        cells = {
            name: each_seed(tune(change(run)), settings.seeds) for name, run in columns.items()
        }
        return Row(label, cells)

    return Table(
        "phase",
        f"When starting at rank {settings.initial_rank} and pruning beats training at the target rank",
        (row(LORA, at_target_rank), *(row(rule, pruned_by_rule(rule)) for rule in PRUNED)),
        (*((rule, LORA) for rule in PRUNED), (HALF, SVD)),
        f"All rows of a column take as many steps; after the last event {settings.share_left:.0%} of the sum of all "
        "learning rates is left. Every row has its own learning rate in every column.",
        settings.margin,
    )


def column_name(task: str, steps: int, rank: int) -> str:
    """Of a column, from which the picture reads what it stands for."""
    return f"{task}, {steps} steps, to {rank}"


def _run(settings: Verdict, task: str, steps: int, rank: int) -> RunConfig:
    run = replace(
        settings.run,
        task=task,
        steps=steps,
        initial_rank=settings.initial_rank,
        target_rank=rank,
    )
    return scheduled(run, settings.events, settings.share_left)
