"""Code generation: functions of the standard library for training, HumanEval's problems for testing."""

from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

from experiments.reporting.table import CUT, LORA, PRUNED, SKYLINE, UNTUNED, Row, Table, Tune
from experiments.settings.jobs import RunConfig, build
from experiments.settings.preset import Preset
from experiments.tables.rows import seeded
from experiments.tables.tuning import Tuning

PASS = "pass@1"
#: What is trained on, by task.
TRAINING = {"human_eval": "functions of the standard library", "code_feedback": "answers of Code-Feedback"}


def base(preset: Preset) -> RunConfig:
    """What all runs share."""
    assert preset.code is not None
    return build(RunConfig, asdict(preset.run) | preset.code.run, "code: run")


def tuning(preset: Preset) -> Tuning:
    """How learning rates are chosen."""
    assert preset.code is not None
    return Tuning(preset.code.learning_rates, preset.code.seeds)


def code(preset: Preset, tune: Tune) -> Table:
    """The untuned model, LoRA at both ranks, the skyline truncated, and pruning during training."""
    settings, run = preset.code, base(preset)
    assert settings is not None
    top, k = settings.initial_rank, settings.target_rank

    def row(label: str, **changes: Any) -> Row:
        return Row(label, {PASS: seeded(tune(replace(run, **changes)), settings.seeds)})

    rows = [
        row(UNTUNED, method="untuned"),
        row(LORA, method="lora", initial_rank=k, target_rank=k),
        row(SKYLINE, method="lora", initial_rank=top, target_rank=top),
        *(
            row(CUT.format(c), method="truncate", criterion=c, initial_rank=top, target_rank=k)
            for c in settings.truncations
        ),
        *(
            row(PRUNED.format(c), method="prune", criterion=c, initial_rank=top, target_rank=k)
            for c in settings.criteria
        ),
    ]
    rivals = (LORA, CUT.format(settings.truncations[0]))
    return Table(
        "code",
        f"Code generation: rank {top} to {k}",
        tuple(rows),
        tuple((row.label, UNTUNED) for row in rows[1:])
        + tuple((PRUNED.format(c), rival) for c in settings.criteria for rival in rivals),
        "Accuracy is pass@1 of the greedy answer; the cross-entropy is that of HumanEval's own solutions, per token. "
        "Version 1 of the paper had this table, version 2 dropped it; its numbers are not known.",
    )


TABLES: dict[str, Callable[[Preset, Tune], Table]] = {"code": code}


def gated(preset: Preset, tune: Tune) -> tuple[list[RunConfig], float]:
    """The untuned model, the unpruned adapter, and the points of pass@1 that must lie between them."""
    settings, run = preset.code, base(preset)
    assert settings is not None
    run, top = replace(run, seed=settings.seeds[0]), settings.initial_rank
    skyline = tune(replace(run, method="lora", initial_rank=top, target_rank=top))
    return [replace(run, method="untuned"), skyline], settings.least_gain


def heading(preset: Preset) -> str:
    """The setting, in a sentence."""
    run, settings = base(preset), preset.code
    assert settings is not None
    rates = ", ".join(f"{rate:g}" for rate in settings.learning_rates) or f"{run.learning_rate:g} only"
    return (
        f"Preset {preset.name}: {run.model}, adapters on {', '.join(run.target_modules)}, {run.steps} steps of "
        f"{run.batch_size} {TRAINING[run.task]}, learning rates chosen from {rates}, "
        f"{run.test_examples} problems."
    )
