"""What the tables and figures on an encoder share: Tables 3, 4, 6 and 7, Figures 1 and 3, and when to prune.

Each has a file of its own, with a function that returns a table of runs.  Where a run appears in several, it is done
once.
"""

from dataclasses import replace

from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Encoder
from experiments.tables.labels import PRUNEDLORA
from experiments.tables.study import Gate
from experiments.tables.tuning import Tune

#: What holds for all tables but Table 3 and Figure 1, where every row has a rate of its own.
ONE_RATE = (
    f"All rows are trained at the learning rate that is best for {PRUNEDLORA} from the least "
    "initial rank"
)


def at_one_rate(settings: Encoder, tune: Tune) -> RunConfig:
    """The shared settings at one learning rate, for tables in which one other thing varies.

    The rate is that of the paper's rule from the least initial rank, the paper's default, so that no other rule is
    favoured.
    """
    ours = replace(
        settings.run,
        method="prune",
        criterion="prunedlora2025",
        initial_rank=min(settings.initial_ranks),
        target_rank=settings.target_rank,
    )
    return replace(settings.run, learning_rate=tune(ours).learning_rate)


def each_seed(run: RunConfig, seeds: tuple[int, ...]) -> tuple[RunConfig, ...]:
    """One run a seed, of the untuned model too: its head is drawn."""
    return tuple(replace(run, seed=seed) for seed in seeds)


def gate(settings: Encoder, tune: Tune) -> Gate:
    """At the largest initial rank, on the first task and seed."""
    run = replace(settings.run, task=settings.tasks[0], seed=settings.seeds[0])
    top = max(settings.initial_ranks)
    unpruned = tune(replace(run, method="lora", initial_rank=top, target_rank=top))
    return Gate(replace(run, method="untuned"), unpruned, settings.least_gain)


def heading(preset: str, settings: Encoder) -> str:
    """The setting, in a sentence."""
    run = settings.run
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    return (
        f"Preset {preset}: {run.model}, adapters on {', '.join(run.target_modules)}, {run.steps} "
        f"steps of {run.batch_size} examples, learning rates chosen from {rates} on "
        f"{run.validation_examples} validation examples."
    )
