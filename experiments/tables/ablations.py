"""What the tables that vary one thing share: Tables 4, 6 and 7, Figures 1 and 3, and when to prune.

Each has a file of its own, with a function that returns a table of runs.  Where a run appears in several, or in the
fair study, it is done once.  Every row has a learning rate of its own in every column, and as many events, the last of
which leaves the same share of the sum of all learning rates, where the table does not vary just that.
"""

from dataclasses import replace

from experiments.reporting.table import Row
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Ablations
from experiments.tables.labels import LORA, SKYLINE
from experiments.tables.runs import at_target_rank, each_seed, scheduled, unpruned
from experiments.tables.study import Gate
from experiments.tables.tuning import Tune


def run_between(settings: Ablations, initial_rank: int, target_rank: int) -> RunConfig:
    """A run between two ranks on the schedule that all tables share, before its row is known."""
    run = replace(settings.run, initial_rank=initial_rank, target_rank=target_rank)
    return scheduled(run, settings.events, settings.share_left)


def plain_rows(columns: dict[str, RunConfig], settings: Ablations, tune: Tune) -> list[Row]:
    """LoRA at the target rank of every column, and at the largest initial rank."""
    top = max(settings.initial_ranks)
    low = {name: at_target_rank(run) for name, run in columns.items()}
    high = {name: unpruned(replace(run, initial_rank=top)) for name, run in columns.items()}
    return [
        Row(label, {name: each_seed(tune(run), settings.seeds) for name, run in cells.items()})
        for label, cells in ((LORA, low), (SKYLINE, high))
    ]


def schedule_note(settings: Ablations) -> str:
    """The schedule and the rates, in a sentence."""
    return (
        f"{settings.events} events, after the last of which {settings.share_left:.0%} of the sum of all "
        "learning rates is left, where nothing else is said. Every row has its own learning rate in every column."
    )


def gate(settings: Ablations, least_gain: float, tune: Tune) -> Gate:
    """At the largest initial rank, on the first seed."""
    top = max(settings.initial_ranks)
    run = replace(settings.run, seed=settings.seeds[0], initial_rank=top, target_rank=top)
    untuned = replace(settings.run, seed=settings.seeds[0], method="untuned")
    return Gate(untuned, tune(unpruned(run)), least_gain)


def heading(preset: str, settings: Ablations) -> str:
    """The setting, in a sentence."""
    run = settings.run
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    return (
        f"Preset {preset}: {run.model} on {run.task}, adapters on {', '.join(run.target_modules)}, {run.steps} "
        f"steps of {run.batch_size} examples, learning rates chosen from {rates} on "
        f"{run.validation_examples} validation examples."
    )
