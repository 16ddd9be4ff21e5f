"""Code generation: functions of the standard library for training, HumanEval's problems for testing."""

from dataclasses import replace
from typing import Any

from experiments.reporting.table import Label, Row, Table
from experiments.settings.preset import Code
from experiments.tables.labels import LORA, SKYLINE, UNTUNED, pruned_by, truncated_by
from experiments.tables.rows import seeded
from experiments.tables.study import Gate
from experiments.tables.tuning import Tune

PASS = "pass@1"
#: What is trained on, by task.
TRAINING = {
    "human_eval": "functions of the standard library",
    "code_feedback": "answers of Code-Feedback",
}


def table(settings: Code, tune: Tune) -> Table:
    """The untuned model, LoRA at both ranks, the skyline truncated, and pruning during training."""
    top, k = settings.initial_rank, settings.target_rank

    def row(label: Label, **changes: Any) -> Row:
        run = tune(replace(settings.run, **changes))
        return Row(label, {PASS: seeded(run, settings.seeds)})

    rows = [
        row(UNTUNED, method="untuned"),
        row(LORA, method="lora", initial_rank=k, target_rank=k),
        row(SKYLINE, method="lora", initial_rank=top, target_rank=top),
        *(
            row(truncated_by(c), method="truncate", criterion=c, initial_rank=top, target_rank=k)
            for c in settings.truncations
        ),
        *(
            row(pruned_by(c), method="prune", criterion=c, initial_rank=top, target_rank=k)
            for c in settings.criteria
        ),
    ]
    rivals = (LORA, truncated_by(settings.truncations[0]))
    return Table(
        "code",
        f"Code generation: rank {top} to {k}",
        tuple(rows),
        tuple((row.label, UNTUNED) for row in rows[1:])
        + tuple((pruned_by(c), rival) for c in settings.criteria for rival in rivals),
        "Accuracy is pass@1 of the greedy answer; the cross-entropy is that of HumanEval's own solutions, per token. "
        "Version 1 of the paper had this table, version 2 dropped it; its numbers are not known.",
    )


def gate(settings: Code, tune: Tune) -> Gate:
    """At the initial rank, on the first seed; points are of pass@1."""
    run = replace(settings.run, seed=settings.seeds[0])
    top = settings.initial_rank
    unpruned = tune(replace(run, method="lora", initial_rank=top, target_rank=top))
    return Gate(replace(run, method="untuned"), unpruned, settings.least_gain)


def heading(preset: str, settings: Code) -> str:
    """The setting, in a sentence."""
    run = settings.run
    rates = (
        ", ".join(f"{rate:g}" for rate in settings.learning_rates) or f"{run.learning_rate:g} only"
    )
    return (
        f"Preset {preset}: {run.model}, adapters on {', '.join(run.target_modules)}, {run.steps} steps of "
        f"{run.batch_size} {TRAINING[run.task]}, learning rates chosen from {rates}, "
        f"{run.test_examples} problems."
    )
