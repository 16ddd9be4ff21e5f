"""Settings of runs and presets: frozen dataclasses, read from JSON and YAML, unknown keys refused."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

Method = Literal["untuned", "lora", "truncate", "prune"]
PRESETS = Path(__file__).parent / "presets"


def digest(settings: dict[str, Any]) -> str:
    """A short hash of settings, whatever their order."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:12]


@dataclass(frozen=True)
class RunConfig:
    """One run: everything that its result depends on.

    Attributes:
        model: ``smollm2``, ``tiny``, a local folder, or ``organisation/name@revision`` on the hub.
        task: see `experiments.tasks.TASKS`.
        method: the untuned model, plain LoRA at the initial rank, that adapter truncated by SVD, or pruning.
        initial_rank: rank in training; 0 for the untuned model.
        target_rank: rank at the end; equal to the initial rank where nothing is pruned.
        criterion: pruning rule, for ``prune``.
        scaling: s in ``W0 + s B A``; alpha is s times the rank.
        target_modules: names of the adapted layers.
        steps: optimiser steps.
        batch_size: examples per step.
        learning_rate: peak, after a linear warm-up over 3 % of the steps, then cosine to zero.
        interval: K1, steps between pruning events.
        per_event: K2, components removed per module at an event.
        warmup_steps: steps before the interval starts to count.
        max_length: longest example in tokens; longer ones are left out.
        test_examples: examples of the test split that are scored.
        eval_batch_size: examples decoded together.
        dtype: of the base model; the adapter is always float32.
        seed: of initialisation, order of the data and random pruning.
    """

    model: str
    task: str
    method: Method = "lora"
    initial_rank: int = 0
    target_rank: int = 0
    criterion: str = ""
    scaling: float = 1.0
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")
    steps: int = 100
    batch_size: int = 16
    learning_rate: float = 1e-3
    interval: int = 10
    per_event: int = 2
    warmup_steps: int = 10
    max_length: int = 512
    test_examples: int = 200
    eval_batch_size: int = 64
    dtype: Literal["float32", "bfloat16"] = "float32"
    seed: int = 0

    @property
    def key(self) -> str:
        """Hash of all settings; names the result file."""
        return digest(asdict(self))

    @property
    def source(self) -> "RunConfig":
        """For ``truncate``: the run that trained the adapter which is truncated."""
        return replace(self, method="lora", target_rank=self.initial_rank)


@dataclass(frozen=True)
class Table1:
    """Table 1: accuracy at one target rank.

    Attributes:
        target_rank: rank that every compared adapter has in the end.
        initial_ranks: ranks from which pruning starts.
        criteria: pruning rules.
        seeds: one run per row and seed.
    """

    target_rank: int
    initial_ranks: tuple[int, ...]
    criteria: tuple[str, ...] = ("magnitude", "llmpruner2023", "prunedlora2025")
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class OneShot:
    """One-shot pruning of a trained adapter by every criterion.

    Attributes:
        run: settings of the training run, where they differ from the preset's.
        ranks: ranks to which the criteria that choose among components prune.
        truncation_ranks: the same for the truncation family.
        calibration_examples: training examples from which statistics are collected.
        calibration_scored: the first so many of them, on which the loss is measured too.
        seeds: one adapter for each.
    """

    run: dict[str, Any]
    ranks: tuple[int, ...]
    truncation_ranks: tuple[int, ...]
    calibration_examples: int
    calibration_scored: int
    seeds: tuple[int, ...] = (0,)


@dataclass(frozen=True)
class Preset:
    """What one preset runs: settings shared by all runs, and the tables."""

    name: str
    run: RunConfig
    table1: Table1 = field(kw_only=True)
    one_shot: OneShot | None = None


def build(kind: type, values: dict[str, Any], where: str) -> Any:
    """A dataclass from a mapping; lists become tuples.

    Raises:
        ValueError: unknown or missing keys, named with their place.
    """
    known = {f.name for f in fields(kind)}
    unknown = sorted(set(values) - known)
    if unknown:
        raise ValueError(f"{where}: unknown key {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from None


def load_preset(name: str) -> Preset:
    """The preset of that name, from ``experiments/presets``.

    Raises:
        ValueError: there is none, or its file has unknown or missing keys.
    """
    file = PRESETS / f"{name}.yaml"
    if not file.exists():
        raise ValueError(f"no preset {name!r}; there are: {', '.join(sorted(p.stem for p in PRESETS.glob('*.yaml')))}")
    values = yaml.safe_load(file.read_text())
    unknown = sorted(set(values) - {"run", "table1", "one_shot"})
    if unknown:
        raise ValueError(f"{file.name}: unknown key {', '.join(unknown)}")
    return Preset(
        name,
        build(RunConfig, values["run"], f"{file.name}: run"),
        table1=build(Table1, values["table1"], f"{file.name}: table1"),
        one_shot=build(OneShot, values["one_shot"], f"{file.name}: one_shot") if "one_shot" in values else None,
    )


def one_shot_runs(preset: Preset) -> list[RunConfig]:
    """The training runs whose adapters one-shot pruning starts from, one for each seed."""
    if preset.one_shot is None:
        return []
    settings = asdict(preset.run) | preset.one_shot.run | {"method": "lora"}
    return [build(RunConfig, settings | {"seed": seed}, "one_shot: run") for seed in preset.one_shot.seeds]
