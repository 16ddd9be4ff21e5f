"""The rows of tables in which a language model is fine-tuned by every method, whatever the columns are."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from experiments.reporting.table import (
    ADALORA,
    CUT,
    DORA,
    FULL,
    LORA,
    PRUNED,
    RSLORA,
    SKYLINE,
    UNTUNED,
    Row,
)
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Finetuning
from experiments.tables.study import Gate
from experiments.tables.tuning import Tune

OURS = PRUNED.format("prunedlora2025")
#: LoRA-Squeeze (arXiv:2602.10993) has three forms; one of them trains on for a while at the target rank.
CONT_SQUEEZE_TAIL = 0.1
CONT_SQUEEZE = f"truncated by svd, then {CONT_SQUEEZE_TAIL:.0%} of the steps (Cont-Squeeze)"
SQUEEZE_NOTE = (
    f"{CUT.format('svd')} is Post-Squeeze, {PRUNED.format('svd')} is In-Squeeze on the schedule of all rules, "
    f"{CUT.format('para2026')} is PARA."
)


def finetuning_rows(
    settings: Finetuning, columns: Mapping[str, RunConfig], tune: Tune, paper: Mapping[str, str]
) -> tuple[Row, ...]:
    """All rows of a table.

    Args:
        settings: which rows there are, and seeds.
        columns: by name, a run of LoRA at the initial rank of the column, on its task.
        tune: chooses the learning rate of a run.
        paper: what the paper prints, by the label of the row.
    """
    k = settings.target_rank
    baselines: dict[str, tuple[str, Callable[[RunConfig], RunConfig]]] = {
        "full": (FULL, lambda run: replace(run, method="full", initial_rank=0)),
        "rslora": (RSLORA, lambda run: replace(run, initial_rank=k, target_rank=k, rslora=True)),
        "dora": (DORA, lambda run: replace(run, method="dora", initial_rank=k, target_rank=k)),
        "adalora": (
            ADALORA,
            lambda run: replace(run, method="adalora", initial_rank=k, target_rank=k),
        ),
        "cont_squeeze": (
            CONT_SQUEEZE,
            lambda run: pruned_once(_pruned("prune", "svd", k)(run), CONT_SQUEEZE_TAIL),
        ),
    }
    kinds = [
        (UNTUNED, lambda run: replace(run, method="untuned", initial_rank=0)),
        (LORA, lambda run: replace(run, initial_rank=k, target_rank=k)),
        *(baselines[name] for name in settings.baselines),
        (SKYLINE, lambda run: replace(run, target_rank=run.initial_rank)),
        *((CUT.format(c), _pruned("truncate", c, k)) for c in settings.truncations),
        *((PRUNED.format(c), _pruned("prune", c, k)) for c in settings.criteria),
    ]
    made = []
    for label, change in kinds:
        cells = {name: seeded(tune(change(run)), settings.seeds) for name, run in columns.items()}
        made.append(Row(label, cells, paper.get(label, "")))
    return tuple(made)


def seeded(run: RunConfig, seeds: tuple[int, ...]) -> tuple[RunConfig, ...]:
    """One run a seed; one that stands for all of the untuned language model, in which nothing is drawn."""
    return tuple(
        replace(run, seed=seed) for seed in (seeds[:1] if run.method == "untuned" else seeds)
    )


def pruned_once(run: RunConfig, tail: float) -> RunConfig:
    """A run that prunes at one event, with a share of its steps to go."""
    steps = run.steps - round(tail * run.steps)
    return replace(
        run,
        method="prune",
        warmup_steps=0,
        interval=steps,
        per_event=run.initial_rank - run.target_rank,
    )


def comparisons(settings: Finetuning) -> tuple[tuple[str, str], ...]:
    """The rows that the text under a table compares: the paper's rule with all others, and what it left out."""
    cuts, pruned = (tuple(map(label.format, names)) for label, names in _named(settings))
    plain = (LORA, RSLORA) if "rslora" in settings.baselines else (LORA,)
    full = (FULL,) if "full" in settings.baselines else ()
    rivals = (*plain, *full, SKYLINE, *cuts, *(rule for rule in pruned if rule != OURS))
    own = tuple((OURS, rival) for rival in rivals) if OURS in pruned else ()
    both = [c for c in settings.criteria if c in settings.truncations]
    dynamic = ((PRUNED.format(c), CUT.format(c)) for c in both)
    beside = ((rule, rival) for rule in (*cuts, *pruned) if rule != OURS for rival in (LORA, *full))
    return (
        *own,
        *((row, SKYLINE) for row in plain),
        *((SKYLINE, row) for row in full),
        *beside,
        *dynamic,
    )


def gate(settings: Finetuning, column: RunConfig, tune: Tune) -> Gate:
    """In one column of a table, on the first seed.

    Args:
        settings: of the table.
        column: a run of LoRA at the initial rank of the column, on its task.
        tune: chooses the learning rate of a run.
    """
    run = replace(column, seed=settings.seeds[0])
    unpruned = tune(replace(run, target_rank=run.initial_rank))
    return Gate(replace(run, method="untuned", initial_rank=0), unpruned, settings.least_gain)


def heading(preset: str, settings: Finetuning) -> str:
    """The setting, in a sentence."""
    run = settings.run
    rates = (
        ", ".join(f"{rate:g}" for rate in settings.learning_rates) or f"{run.learning_rate:g} only"
    )
    return (
        f"Preset {preset}: {run.model}, adapters on {', '.join(run.target_modules)}, {run.steps} steps of "
        f"{run.batch_size} examples, s = {run.scaling:g}, learning rates chosen from "
        f"{rates}, {run.test_examples} test examples."
    )


def _pruned(method: str, criterion: str, k: int) -> Callable[[RunConfig], RunConfig]:
    return lambda run: replace(run, method=method, criterion=criterion, target_rank=k)  # type: ignore[arg-type]


def _named(settings: Finetuning) -> tuple[tuple[str, tuple[str, ...]], ...]:
    return (CUT, settings.truncations), (PRUNED, settings.criteria)
