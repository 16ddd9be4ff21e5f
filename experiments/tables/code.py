"""Code generation: functions of the standard library for training, HumanEval's problems for testing."""

from dataclasses import replace

from experiments.reporting.table import Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import Finetuning
from experiments.tables.labels import LORA, SKYLINE, UNTUNED
from experiments.tables.rows import comparisons, finetuning_rows, schedule_note
from experiments.tables.tuning import Tune

PASS = "pass@1"
#: What is trained on, by task.
TRAINING = {
    "human_eval": "functions of the standard library",
    "code_feedback": "answers of Code-Feedback",
}


def from_initial_rank(settings: Finetuning) -> RunConfig:
    """A run of LoRA at the initial rank; there is one."""
    return replace(settings.run, initial_rank=settings.initial_ranks[0])


def table(settings: Finetuning, tune: Tune) -> Table:
    """The untuned model, LoRA at both ranks, the skyline truncated, and pruning during training."""
    run = from_initial_rank(settings)
    rows = finetuning_rows(settings, {PASS: run}, tune, paper={})
    return Table(
        "code",
        f"Code generation: rank {run.initial_rank} to {settings.target_rank}",
        rows,
        tuple((row.label, UNTUNED) for row in rows[1:]) + comparisons(settings),
        "Accuracy is pass@1 of the greedy answer; the cross-entropy is that of HumanEval's own solutions, per token. "
        "Version 1 of the paper had this table, version 2 dropped it; its numbers are not known. "
        f"{schedule_note(settings, run)}",
        gate=(LORA, SKYLINE),
    )


def heading(preset: str, settings: Finetuning) -> str:
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
