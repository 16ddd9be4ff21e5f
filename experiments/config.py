"""Settings of runs and presets: frozen dataclasses, read from JSON and YAML, unknown keys refused."""

import hashlib
import json
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any, Literal

import yaml

Method = Literal["untuned", "lora", "truncate", "prune"]
PRESETS = Path(__file__).parent / "presets"


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
        return hashlib.sha256(json.dumps(asdict(self), sort_keys=True).encode()).hexdigest()[:12]

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
class Preset:
    """What one preset runs: settings shared by all runs, and the tables."""

    name: str
    run: RunConfig
    table1: Table1 = field(kw_only=True)


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
    unknown = sorted(set(values) - {"run", "table1"})
    if unknown:
        raise ValueError(f"{file.name}: unknown key {', '.join(unknown)}")
    return Preset(
        name,
        build(RunConfig, values["run"], f"{file.name}: run"),
        table1=build(Table1, values["table1"], f"{file.name}: table1"),
    )
