"""The rows of tables in which a language model is fine-tuned by every method, whatever the columns are."""

from collections.abc import Callable, Mapping
from dataclasses import replace

from experiments.reporting.table import Label, Row
from experiments.settings.jobs import Method, RunConfig
from experiments.settings.preset import Finetuning
from experiments.tables.labels import (
    ADALORA,
    CONT_SQUEEZE,
    CONT_SQUEEZE_TAIL,
    CORRECTED,
    DORA,
    FULL,
    LORA,
    PRUNED_BY_OURS,
    PRUNED_BY_SVD,
    RSLORA,
    SKYLINE,
    TRUNCATED_BY_SVD,
    UNTUNED,
    pruned_by,
    truncated_by,
)
from experiments.tables.runs import left_after_events, pruned_once, scheduled
from experiments.tables.study import Gate
from experiments.tables.tuning import Tune

#: The label of a row, and what becomes of LoRA at the initial rank in it.
Kind = tuple[Label, Callable[[RunConfig], RunConfig]]

SQUEEZE_NOTE = (
    f"{TRUNCATED_BY_SVD} is Post-Squeeze, {PRUNED_BY_SVD} is In-Squeeze on the schedule of all "
    f"rules, {truncated_by('para2026')} is PARA."
)


def finetuning_rows(
    settings: Finetuning, columns: Mapping[str, RunConfig], tune: Tune, paper: Mapping[Label, str]
) -> tuple[Row, ...]:
    """All rows of a table.

    Args:
        settings: which rows there are, and seeds.
        columns: by name, a run of LoRA at the initial rank of the column, on its task.
        tune: chooses the learning rate of a run.
        paper: what the paper prints, by the label of the row.
    """
    k = settings.target_rank
    baselines: dict[str, Kind] = {
        "full": (FULL, lambda run: replace(run, method="full", initial_rank=0)),
        "rslora": (RSLORA, lambda run: replace(run, initial_rank=k, target_rank=k, rslora=True)),
        "dora": (DORA, lambda run: replace(run, method="dora", initial_rank=k, target_rank=k)),
        "adalora": (
            ADALORA,
            lambda run: replace(run, method="adalora", initial_rank=k, target_rank=k),
        ),
        "cont_squeeze": (
            CONT_SQUEEZE,
            lambda run: pruned_once(_lowered("prune", "svd", k)(run), CONT_SQUEEZE_TAIL),
        ),
    }
    kinds: list[Kind] = [
        (UNTUNED, lambda run: replace(run, method="untuned", initial_rank=0)),
        (LORA, lambda run: replace(run, initial_rank=k, target_rank=k)),
        *(baselines[name] for name in settings.baselines),
        (SKYLINE, lambda run: replace(run, target_rank=run.initial_rank)),
        *((truncated_by(c), _lowered("truncate", c, k)) for c in settings.truncations),
        *(kind for c in settings.criteria for kind in _pruned(settings, c)),
    ]
    rows = []
    for label, change in kinds:
        cells = {name: seeded(tune(change(run)), settings.seeds) for name, run in columns.items()}
        rows.append(Row(label, cells, paper.get(label, "")))
    return tuple(rows)


def schedule_note(settings: Finetuning, column: RunConfig) -> str:
    """What the schedule of a column leaves, in a sentence.

    Args:
        settings: of the table.
        column: a run of LoRA at the initial rank of the column.
    """
    run = gradually(settings, settings.criteria[0])(column)
    return (
        f"After the last event {left_after_events(run):.0%} of the sum of all learning rates is left, from rank "
        f"{run.initial_rank}."
    )


def seeded(run: RunConfig, seeds: tuple[int, ...]) -> tuple[RunConfig, ...]:
    """One run a seed; one that stands for all of the untuned language model, in which nothing is drawn."""
    return tuple(
        replace(run, seed=seed) for seed in (seeds[:1] if run.method == "untuned" else seeds)
    )


def _pruned(settings: Finetuning, criterion: str) -> list[Kind]:
    """The row of a rule, and of the paper's another in which what is removed is made up for once, not twice."""
    change = gradually(settings, criterion)
    kinds: list[Kind] = [(pruned_by(criterion), change)]
    if criterion == "prunedlora2025" and settings.corrected:
        kinds.append((CORRECTED, lambda run: replace(change(run), options={"recovery": "half"})))
    return kinds


def gradually(settings: Finetuning, criterion: str) -> Callable[[RunConfig], RunConfig]:
    """From LoRA at the initial rank to a run that a rule prunes to the target rank, by the schedule of the settings."""
    lowered = _lowered("prune", criterion, settings.target_rank)
    if not settings.events:
        return lowered
    return lambda run: scheduled(lowered(run), settings.events, settings.share_left)


def comparisons(settings: Finetuning) -> tuple[tuple[Label, Label], ...]:
    """The rows that the text under a table compares: the paper's rule with all others, and what it left out."""
    plain = (LORA, RSLORA) if "rslora" in settings.baselines else (LORA,)
    full = (FULL,) if "full" in settings.baselines else ()
    truncated = [truncated_by(c) for c in settings.truncations]
    pruned = [pruned_by(c) for c in settings.criteria]
    others = [*truncated, *(rule for rule in pruned if rule != PRUNED_BY_OURS)]
    # The paper's rule with everything else in the table.
    rivals = (*plain, *full, SKYLINE, *others)
    own = ((PRUNED_BY_OURS, rival) for rival in rivals if PRUNED_BY_OURS in pruned)
    # What a high rank is worth, every other rule beside plain training, and pruning beside truncation.
    ranks = (*((row, SKYLINE) for row in plain), *((SKYLINE, row) for row in full))
    beside = ((rule, rival) for rule in others for rival in (LORA, *full))
    both = [c for c in settings.criteria if c in settings.truncations]
    dynamic = ((pruned_by(c), truncated_by(c)) for c in both)
    corrected = (
        (CORRECTED, rival)
        for rival in (PRUNED_BY_OURS, *rivals)
        if PRUNED_BY_OURS in pruned and settings.corrected
    )
    return (*own, *corrected, *ranks, *beside, *dynamic)


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


def _lowered(method: Method, criterion: str, k: int) -> Callable[[RunConfig], RunConfig]:
    return lambda run: replace(run, method=method, criterion=criterion, target_rank=k)
