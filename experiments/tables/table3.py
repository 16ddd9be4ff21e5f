"""Table 3: language understanding on several tasks, with the baselines that the paper left out."""

from collections.abc import Callable
from dataclasses import replace

from experiments.reporting.table import Label, Row, Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Understanding
from experiments.tables.labels import (
    ADALORA,
    CONT_SQUEEZE,
    CONT_SQUEEZE_TAIL,
    DORA,
    FULL,
    LORA,
    RSLORA,
    SKYLINE,
    TRUNCATED_BY_SVD,
    UNTUNED,
    from_rank,
    truncated_by,
)
from experiments.tables.rules import (
    HALF,
    LLM_PRUNER,
    PRINTED,
    RANDOM,
    SPARSEGPT,
    SVD,
    pruned_by_rule,
)
from experiments.tables.runs import each_seed, pruned_once, scheduled
from experiments.tables.study import Gate
from experiments.tables.tuning import Tune

#: Averages over five GLUE tasks (T5-base), recomputed where the paper misprints them.
PAPER = {
    FULL: "87.91",
    LORA: "82.08",
    DORA: "82.57",
    ADALORA: "81.62",
    SPARSEGPT: "82.87",
    LLM_PRUNER: "82.58",
}
#: The same of the paper's rule, from its three initial ranks.
PAPER_PRUNED = ("83.88", "85.52", "87.59")
#: Rules by which the adapter of the largest initial rank is truncated after training.
TRUNCATIONS = ("svd", "para2026", "svd_kfac", "svd_fisher")


def table(settings: Understanding, tune: Tune) -> Table:
    """Every method on every task; each row has the learning rate that is best for it on the first task."""
    ranks = sorted(settings.initial_ranks)
    k, top = settings.target_rank, ranks[-1]
    start = replace(settings.run, initial_rank=top, target_rank=k)
    low = replace(start, initial_rank=k)

    def row(label: Label, run: RunConfig) -> Row:
        return Row(label, _over_tasks(settings, tune(run)), PAPER.get(label, ""))

    def pruned(rule: Label) -> Callable[[int], RunConfig]:
        return lambda rank: pruned_by_rule(rule)(_on_schedule(settings, rank))

    # What the paper has: no pruning, at the target rank and with all weights; and the skyline.
    rows = [
        row(UNTUNED, replace(settings.run, method="untuned")),
        row(FULL, replace(settings.run, method="full")),
        row(LORA, replace(low, method="lora")),
        row(RSLORA, replace(low, method="lora", rslora=True)),
        row(DORA, replace(low, method="dora")),
        row(ADALORA, replace(low, method="adalora")),
        row(SKYLINE, replace(start, method="lora", target_rank=top)),
    ]
    # What it left out: truncation after training, and once during it.
    rows += [
        row(truncated_by(c), replace(start, method="truncate", criterion=c)) for c in TRUNCATIONS
    ]
    rows.append(row(CONT_SQUEEZE, pruned_once(replace(start, criterion="svd"), CONT_SQUEEZE_TAIL)))
    # At every event: rules beside the paper's, and chance.
    rows += [row(rule, pruned(rule)(top)) for rule in (SVD, SPARSEGPT, LLM_PRUNER, RANDOM)]
    # The paper's rule from every initial rank, as printed and corrected.
    for rule, papers in ((PRINTED, PAPER_PRUNED), (HALF, ("",) * len(ranks))):
        for rank, paper in zip(ranks, papers, strict=False):
            own = row(from_rank(rule, rank), pruned(rule)(rank))
            rows.append(replace(own, paper=paper))

    return Table(
        "table3",
        f"Table 3: language understanding, rank {k}",
        tuple(rows),
        _comparisons(top),
        "Paper: average accuracy of T5-base over five GLUE tasks, another model and other data. "
        f"{TRUNCATED_BY_SVD} is Post-Squeeze, {SVD} is In-Squeeze on the schedule of all rules, "
        f"{truncated_by('para2026')} is PARA. {_schedule_note(settings)}",
        gate=(LORA, SKYLINE),
    )


def heading(preset: str, settings: Understanding) -> str:
    """The setting, in a sentence."""
    run = settings.run
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates)
    return (
        f"Preset {preset}: {run.model}, adapters on {', '.join(run.target_modules)}, {run.steps} "
        f"steps of {run.batch_size} examples, learning rates chosen from {rates} on "
        f"{run.validation_examples} validation examples of {settings.tasks[0]}."
    )


def gate(settings: Understanding, tune: Tune) -> Gate:
    """At the largest initial rank, on the first task and seed."""
    run = replace(settings.run, task=settings.tasks[0], seed=settings.seeds[0])
    top = max(settings.initial_ranks)
    unpruned = tune(replace(run, method="lora", initial_rank=top, target_rank=top))
    return Gate(replace(run, method="untuned"), unpruned, settings.least_gain)


def _on_schedule(settings: Understanding, rank: int) -> RunConfig:
    run = replace(settings.run, initial_rank=rank, target_rank=settings.target_rank)
    return scheduled(run, settings.events, settings.share_left) if settings.events else run


def _schedule_note(settings: Understanding) -> str:
    if not settings.events:
        run = settings.run
        return f"One event every {run.interval} steps, {run.per_event} components at each."
    return (
        f"{settings.events} events, after the last of which {settings.share_left:.0%} of the sum of all "
        "learning rates is left."
    )


def _over_tasks(settings: Understanding, run: RunConfig) -> dict[str, tuple[RunConfig, ...]]:
    """One cell for each task."""
    return {task: each_seed(replace(run, task=task), settings.seeds) for task in settings.tasks}


def _comparisons(top: int) -> tuple[tuple[Label, Label], ...]:
    """The paper's rule, as printed and corrected, and truncation with all that could be done in their place."""
    printed, half = from_rank(PRINTED, top), from_rank(HALF, top)
    rivals = (LORA, RANDOM, SPARSEGPT, LLM_PRUNER, SKYLINE, TRUNCATED_BY_SVD, SVD)
    return (
        *((rule, rival) for rule in (printed, half) for rival in rivals),
        (half, printed),
        (LORA, SKYLINE),
        *((SVD, rival) for rival in (LORA, RANDOM, TRUNCATED_BY_SVD, SPARSEGPT)),
        (RANDOM, LORA),
        (CONT_SQUEEZE, TRUNCATED_BY_SVD),
        (truncated_by("svd_fisher"), TRUNCATED_BY_SVD),
    )
