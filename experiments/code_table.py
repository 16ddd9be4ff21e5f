"""Code generation: functions of the standard library for training, HumanEval's problems for testing."""

from dataclasses import asdict, replace
from typing import Any

from experiments.config import Preset, RunConfig, build
from experiments.tables import CUT, LORA, PRUNED, SKYLINE, UNTUNED, Row, Table

PASS = "pass@1"


def base(preset: Preset) -> RunConfig:
    """What all runs share."""
    assert preset.code is not None
    return build(RunConfig, asdict(preset.run) | preset.code.run, "code: run")


def table(preset: Preset) -> Table:
    """The untuned model, LoRA at both ranks, the skyline truncated, and pruning during training."""
    code, run = preset.code, base(preset)
    assert code is not None
    top, k = code.initial_rank, code.target_rank

    def row(label: str, **changes: Any) -> Row:
        changed = replace(run, **changes)
        return Row(label, {PASS: tuple(replace(changed, seed=seed) for seed in code.seeds)})

    rows = [
        row(UNTUNED, method="untuned"),
        row(LORA, method="lora", initial_rank=k, target_rank=k),
        row(SKYLINE, method="lora", initial_rank=top, target_rank=top),
        *(
            row(CUT.format(c), method="truncate", criterion=c, initial_rank=top, target_rank=k)
            for c in code.truncations
        ),
        *(row(PRUNED.format(c), method="prune", criterion=c, initial_rank=top, target_rank=k) for c in code.criteria),
    ]
    return Table(
        "code",
        f"Code generation: rank {top} to {k}",
        tuple(rows),
        tuple((row.label, UNTUNED) for row in rows[1:])
        + tuple((PRUNED.format(c), rival) for c in code.criteria for rival in (LORA, CUT.format(code.truncations[0]))),
        "Accuracy is pass@1 of the greedy answer; the cross-entropy is that of HumanEval's own solutions, per token. "
        "Version 1 of the paper had this table, version 2 dropped it; its numbers are not known.",
    )


def heading(preset: Preset) -> str:
    """The setting, in a sentence."""
    run, code = base(preset), preset.code
    assert code is not None
    return (
        f"Preset {preset.name}: {run.model}, adapters on {', '.join(run.target_modules)}, {run.steps} steps of "
        f"{run.batch_size} functions of the standard library, learning rate {run.learning_rate:g}, "
        f"{len(code.seeds)} seed(s), {run.test_examples} problems."
    )
