"""Which factor makes up for what is removed: the paper's choice with every recovery, beside random choice."""

from dataclasses import replace

from experiments.finetuning.learning_rate import cosine_with_warmup
from experiments.reporting.table import Label, Row, Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Encoder
from experiments.tables.encoder import ONE_RATE, at_one_rate, each_seed
from experiments.tables.labels import LORA, PRUNED_BY_SVD, RANDOM, SKYLINE
from experiments.tables.tuning import Tune
from prunedlora.training.learning_rate import share_left
from prunedlora.training.schedule import Schedule

#: The rule's option, by the label of its row; what is printed needs none.
RECOVERIES = {
    Label("both factors, as printed"): {},
    Label("half of both"): {"recovery": "half"},
    Label("B alone"): {"recovery": "B"},
    Label("A alone"): {"recovery": "A"},
    Label("no recovery"): {"recovery": "none"},
}
#: In the other column every event removes so many times as much, and the last comes the earlier.
FASTER = 4


def table(settings: Encoder, tune: Tune) -> Table:
    """From the largest initial rank, with events until late and with events that are over early."""
    top = max(settings.initial_ranks)
    k = settings.target_rank
    run = replace(at_one_rate(settings, tune), initial_rank=top, target_rank=k)
    late, early = run, replace(run, per_event=FASTER * run.per_event)
    columns = {f"last event at step {_last_event(r)}": r for r in (late, early)}

    def row(label: Label, **changes: object) -> Row:
        cells = {name: replace(r, **changes) for name, r in columns.items()}  # type: ignore[arg-type]
        return Row(label, {n: each_seed(r, settings.ablation_seeds) for n, r in cells.items()})

    def constant(label: Label, unpruned: RunConfig) -> Row:
        seeds = each_seed(unpruned, settings.ablation_seeds)
        return Row(label, dict.fromkeys(columns, seeds))

    rows = [
        row(label, method="prune", criterion="prunedlora2025", options=options)
        for label, options in RECOVERIES.items()
    ]
    rows.append(row(RANDOM, method="prune", criterion="random"))
    rows.append(row(PRUNED_BY_SVD, method="prune", criterion="svd"))
    # What is not pruned stands in every column.
    rows.append(constant(LORA, replace(run, method="lora", initial_rank=k)))
    rows.append(constant(SKYLINE, replace(run, method="lora", target_rank=top)))
    printed, *others = RECOVERIES
    shares = " and ".join(f"{_left(r):.1%}" for r in columns.values())
    return Table(
        "recovery",
        f"What makes up for what is removed: {top} to {k}, {run.steps} steps in all",
        tuple(rows),
        (
            *((other, printed) for other in others),
            (RANDOM, printed),
            *((other, LORA) for other in (printed, *others, RANDOM)),
            *((other, RANDOM) for other in others),
        ),
        "The choice of components is that of the paper's rule, except in the rows named random, which has no "
        f"recovery, and svd. After the last event {shares} of the sum of all learning rates is left. {ONE_RATE}.",
    )


def _last_event(run: RunConfig) -> int:
    schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
    return schedule.events(run.initial_rank)[-1][0]


def _left(run: RunConfig) -> float:
    """Share of the sum of all learning rates that is left after the last event."""
    factor = cosine_with_warmup(run.steps)
    return share_left([factor(step) for step in range(run.steps)], _last_event(run))
