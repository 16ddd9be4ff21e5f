"""The fair study: is it the choice of components, the recovery or the schedule?

Every row has a learning rate of its own in every column, chosen by the validation loss.  A schedule is named by the
share of the sum of all learning rates that is left after its last event.  The task is one in which rank matters by
construction, with a control in which it does not.
"""

from collections.abc import Callable
from dataclasses import replace

from experiments.finetuning.controls import RANDOM_RECOVERED, REBALANCED
from experiments.reporting.table import Label, Row, Table
from experiments.settings.jobs import RunConfig, changed
from experiments.settings.preset import Verdict
from experiments.tables.encoder import each_seed
from experiments.tables.labels import LORA, SKYLINE, TRUNCATED_BY_SVD
from experiments.tables.rows import scheduled
from experiments.tables.tuning import Tune

PRINTED = Label("prunedlora2025, both factors recovered as printed")
HALF = Label("prunedlora2025, half of both")
MASKED = Label("prunedlora2025, no recovery (published code)")
RANDOM = Label("random, no recovery")
RANDOM_HALF = Label("random, half of both")
SVD = Label("svd")
#: Criterion and options of a row that prunes.
Rule = tuple[str, dict[str, str]]
#: Those of every such row.
RULES: dict[Label, Rule] = {
    PRINTED: ("prunedlora2025", {}),
    HALF: ("prunedlora2025", {"recovery": "half"}),
    Label("prunedlora2025, B alone"): ("prunedlora2025", {"recovery": "B"}),
    Label("prunedlora2025, A alone"): ("prunedlora2025", {"recovery": "A"}),
    MASKED: ("prunedlora2025", {"recovery": "none"}),
    RANDOM: ("random", {}),
    RANDOM_HALF: (RANDOM_RECOVERED, {"recovery": "half"}),
    Label("magnitude, no recovery"): ("magnitude", {}),
    Label("sparsegpt2023"): ("sparsegpt2023", {}),
    Label("kfac"): ("kfac", {}),
    SVD: ("svd", {}),
    Label("prunedlora2025, half of both, rebalanced"): (REBALANCED, {"rule": "prunedlora2025"}),
    Label("random, no recovery, rebalanced"): (REBALANCED, {"rule": "random"}),
}
#: Rows that the control has, too.
IN_CONTROL = (LORA, SKYLINE, PRINTED, HALF, MASKED, RANDOM, SVD)


def table(settings: Verdict, tune: Tune) -> Table:
    """From one initial rank, one column for each schedule and for each target rank."""
    columns = _columns(settings)
    control = _control(settings)

    def row(label: Label, change: Callable[[RunConfig], RunConfig]) -> Row:
        own = columns | (control if label in IN_CONTROL else {})
        cells = {name: each_seed(tune(change(run)), settings.seeds) for name, run in own.items()}
        return Row(label, cells)

    rows = [
        row(LORA, at_target_rank),
        row(SKYLINE, lambda run: replace(unpruned(run), target_rank=run.initial_rank)),
        row(
            TRUNCATED_BY_SVD,
            lambda run: replace(unpruned(run), method="truncate", criterion="svd"),
        ),
        *(row(label, pruned_by_rule(rule)) for label, rule in RULES.items()),
    ]
    return Table(
        "verdict",
        f"A fair verdict: choice, recovery and schedule, from rank {settings.initial_rank}",
        tuple(rows),
        (
            *((label, LORA) for label in RULES),
            *((label, RANDOM) for label in RULES if label != RANDOM),
            *((label, PRINTED) for label in RULES if label != PRINTED),
            (HALF, RANDOM_HALF),
            (HALF, SVD),
            (SVD, TRUNCATED_BY_SVD),
            (LORA, SKYLINE),
        ),
        "Every row has its own learning rate in every column. "
        "Rebalanced: after every event each column of B has the norm of its row of A, as svd leaves them, and the "
        "optimiser's state follows.",
        settings.margin,
        gate=(LORA, SKYLINE),
    )


def heading(preset: str, settings: Verdict) -> str:
    """The setting, in a sentence."""
    run = settings.run
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    return (
        f"Preset {preset}: {run.model} on {run.task}, adapters on {', '.join(run.target_modules)}, {run.steps} "
        f"steps of {run.batch_size} examples, learning rates chosen from {rates}."
    )


def pruned_by_rule(rule: Rule) -> Callable[[RunConfig], RunConfig]:
    """From a run to one that a rule prunes."""
    criterion, options = rule
    return lambda run: replace(run, method="prune", criterion=criterion, options=options)


def at_target_rank(run: RunConfig) -> RunConfig:
    """LoRA at the target rank of a run, the same for all schedules."""
    return replace(unpruned(run), initial_rank=run.target_rank)


def unpruned(run: RunConfig) -> RunConfig:
    """A run without what only pruning depends on, so that one stands for all schedules."""
    plain = RunConfig(run.model, run.task)
    return replace(
        run,
        method="lora",
        interval=plain.interval,
        per_event=plain.per_event,
        warmup_steps=plain.warmup_steps,
    )


def _columns(settings: Verdict) -> dict[str, RunConfig]:
    """A run of each column, before its row is known."""
    run = replace(settings.run, initial_rank=settings.initial_rank)
    least, *others = sorted(settings.target_ranks)
    middle = sorted(settings.shares)[len(settings.shares) // 2]
    columns = {
        _name(least, share): scheduled(replace(run, target_rank=least), settings.events, share)
        for share in settings.shares
    }
    columns |= {
        _name(rank, middle): scheduled(replace(run, target_rank=rank), settings.events, middle)
        for rank in others
    }
    return columns


def _control(settings: Verdict) -> dict[str, RunConfig]:
    """The column of the task in which rank does not matter."""
    rank = min(settings.target_ranks)
    share = sorted(settings.shares)[len(settings.shares) // 2]
    run = replace(settings.run, initial_rank=settings.initial_rank, target_rank=rank)
    control = changed(run, settings.control, "verdict: control")
    return {f"{control.task}, {_name(rank, share)}": scheduled(control, settings.events, share)}


def _name(rank: int, share: float) -> str:
    return f"to {rank}, {share:.0%} left"
