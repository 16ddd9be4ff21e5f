"""Presets: which tables are made, of which rows, with which settings; read from YAML, unknown keys refused."""

from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import yaml

from experiments.settings.jobs import Compression, OneShot, RunConfig, build

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Finetuning:
    """Fine-tuning a language model by every method, see `experiments.tables.rows`.

    Attributes:
        run: what all runs share.
        target_rank: rank that every compared adapter has in the end.
        initial_ranks: ranks from which pruning starts.
        baselines: rows besides LoRA, of ``full``, ``rslora``, ``dora``, ``adalora`` and ``cont_squeeze``.
        truncations: rules by which the skyline is truncated.
        criteria: pruning rules.
        learning_rates: among which the validation loss chooses; the preset's for all rows if there are none.
        seeds: one run per row and seed.
        least_gain: points of accuracy by which the unpruned adapter must be ahead of the untuned model.
    """

    run: RunConfig
    target_rank: int
    initial_ranks: tuple[int, ...]
    baselines: tuple[str, ...] = ("full", "rslora", "dora", "adalora", "cont_squeeze")
    truncations: tuple[str, ...] = ("svd", "para2026", "svd_kfac", "svd_fisher")
    criteria: tuple[str, ...] = (
        "random",
        "magnitude",
        "sparsegpt2023",
        "llmpruner2023",
        "prunedlora2025",
        "kfac",
        "svd",
        "para2026",
    )
    learning_rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0,)
    least_gain: float = 0.0


@dataclass(frozen=True)
class Language(Finetuning):
    """The same on several tasks, pruned from the largest initial rank.

    Attributes:
        tasks: one column each; the learning rates are chosen on the first.
    """

    tasks: tuple[str, ...] = field(kw_only=True)


@dataclass(frozen=True)
class Encoder:
    """The tables and figures that are made on an encoder, see `experiments.tables.encoder`.

    Attributes:
        run: what all runs share.
        tasks: of Table 3; the first is that of all other tables.
        target_rank: of all tables but Figure 3.
        initial_ranks: from which pruning starts; the largest where there is one only.
        schedule_rank: initial rank of Table 6.
        schedules: its (K1, K2).
        figure1_ranks: of Figure 1.
        figure3_targets: target ranks of Figure 3.
        tails: of `when_to_prune`, the shares of the steps that are left after one-shot pruning.
        when_criteria: its rules.
        learning_rates: among which the validation loss chooses.
        seeds: of Table 7, and of Table 3 on the first task, one run per cell and seed.
        ablation_seeds: of all else.
        least_gain: points of accuracy by which the unpruned adapter must be ahead of the untuned model.
    """

    run: RunConfig
    tasks: tuple[str, ...]
    target_rank: int
    initial_ranks: tuple[int, ...]
    schedule_rank: int
    schedules: tuple[tuple[int, int], ...]
    figure1_ranks: tuple[int, ...]
    figure3_targets: tuple[int, ...]
    tails: tuple[float, ...]
    when_criteria: tuple[str, ...]
    learning_rates: tuple[float, ...]
    seeds: tuple[int, ...] = (0,)
    ablation_seeds: tuple[int, ...] = (0,)
    least_gain: float = 0.0


@dataclass(frozen=True)
class Code:
    """Fine-tuning on code: functions of the standard library, tested on HumanEval.

    Attributes:
        run: what all runs share.
        target_rank: rank that every compared adapter has in the end.
        initial_rank: from which pruning starts.
        criteria: pruning rules.
        truncations: rules by which the skyline is truncated.
        learning_rates: among which the validation loss chooses; the preset's for all rows if there are none.
        seeds: one run per row and seed.
        least_gain: points of pass@1 by which the unpruned adapter must be ahead of the untuned model; a small model
            may well lose by training, so that this is a floor.
    """

    run: RunConfig
    target_rank: int
    initial_rank: int
    criteria: tuple[str, ...] = ("magnitude", "llmpruner2023", "prunedlora2025")
    truncations: tuple[str, ...] = ("svd",)
    learning_rates: tuple[float, ...] = ()
    seeds: tuple[int, ...] = (0,)
    least_gain: float = -10.0


@dataclass(frozen=True)
class Table8:
    """Table 8: perplexity after one-shot compression.

    Attributes:
        run: that of the dense model, whose settings all rows share.
        max_perplexity: of the dense model; above it, nothing is compressed.
        methods: rows besides the dense model.
        seeds: one run per row and seed.
    """

    run: Compression
    max_perplexity: float
    methods: tuple[str, ...] = (
        "random",
        "magnitude",
        "sparsegpt",
        "wanda",
        "gradient",
        "gradient_squared",
    )
    seeds: tuple[int, ...] = (0,)

    @property
    def rows(self) -> dict[str, list[Compression]]:
        """The runs of every compressed row, by method."""
        return {
            method: [replace(self.run, method=method, seed=seed) for seed in self.seeds]
            for method in self.methods
        }


@dataclass(frozen=True)
class Table2:
    """Table 2: the cost of the runs of Table 5.

    Attributes:
        run: settings that make a run short but have it do all its events.
        block: optimiser steps that are timed together; the first block is not counted.
    """

    run: dict[str, Any]
    block: int


@dataclass(frozen=True)
class Estimate:
    """What ``--dry-run`` reckons with where the model is too large to look at.

    Attributes:
        parameters: of the base model.
        adapted_width: sum of d_out + d_in over the adapted layers: parameters of an adapter for each rank.
        tokens_per_example: in training, on average.
        generated_tokens: in evaluation, per example.
        flops_per_second: that training reaches on the machine.
        bytes_per_second: of weights read in decoding.
    """

    parameters: int
    adapted_width: int
    tokens_per_example: int
    generated_tokens: int
    flops_per_second: float
    bytes_per_second: float


@dataclass(frozen=True)
class Preset:
    """What one preset runs: settings shared by all runs, and the tables.

    Attributes:
        name: of its file.
        run: settings shared by all runs; those of a part come before them.
        math: Tables 1 and 5.
        one_shot: experiments of one-shot pruning, by name.
        encoder: the tables that are made on an encoder.
        language: language understanding with a language model.
        code: fine-tuning on code.
        table2: cost of training.
        table8: compression of the pretrained model.
        estimates: what ``--dry-run`` reckons with, by model.
        isolated: whether every run has a process of its own, so that its peak memory is its own; starting one takes
            longer than a run of a tiny model.
        processes: among which ``accelerate launch`` shares the training of every run, one for each GPU.
    """

    name: str
    run: RunConfig
    isolated: bool = field(default=True, kw_only=True)
    processes: int = field(default=1, kw_only=True)
    math: Finetuning = field(kw_only=True)
    one_shot: dict[str, OneShot] = field(default_factory=dict)
    encoder: Encoder | None = None
    language: Language | None = None
    code: Code | None = None
    table2: Table2 | None = None
    table8: Table8 | None = None
    estimates: dict[str, Estimate] = field(default_factory=dict)


def load_preset(name: str) -> Preset:
    """The preset of that name, from ``experiments/presets``.

    Raises:
        ValueError: there is none, or its file has unknown or missing keys.
    """
    file = PRESETS / f"{name}.yaml"
    if not file.exists():
        raise ValueError(
            f"no preset {name!r}; there are: {', '.join(sorted(p.stem for p in PRESETS.glob('*.yaml')))}"
        )
    values = yaml.safe_load(file.read_text())
    kinds: dict[str, type] = {
        "math": Finetuning,
        "language": Language,
        "encoder": Encoder,
        "code": Code,
        "table2": Table2,
        "table8": Table8,
    }
    unknown = sorted(
        set(values) - {*kinds, "run", "one_shot", "estimates", "isolated", "processes"}
    )
    if unknown:
        raise ValueError(f"{file.name}: unknown key {', '.join(unknown)}")
    run = build(RunConfig, values["run"], f"{file.name}: run")
    for key in set(values) & {"math", "language", "encoder", "code"}:
        own = values[key].get("run", {})
        values[key]["run"] = build(RunConfig, asdict(run) | own, f"{file.name}: {key}: run")
    if "table8" in values:
        dense = {**values["table8"]["run"], "method": "dense"}
        values["table8"]["run"] = build(Compression, dense, f"{file.name}: table8: run")
    built = {
        key: build(kinds[key], values[key], f"{file.name}: {key}") for key in kinds if key in values
    }
    one_shot = {
        kind: build(OneShot, settings, f"{file.name}: one_shot: {kind}")
        for kind, settings in values.get("one_shot", {}).items()
    }
    estimates = {
        model: build(Estimate, numbers, f"{file.name}: estimates: {model}")
        for model, numbers in values.get("estimates", {}).items()
    }
    plain = {key: values[key] for key in ("isolated", "processes") if key in values}
    return Preset(name, run, one_shot=one_shot, estimates=estimates, **plain, **built)


def one_shot_runs(preset: Preset, name: str) -> list[RunConfig]:
    """The training runs whose adapters a one-shot experiment starts from, one for each seed."""
    one_shot = preset.one_shot[name]
    settings = asdict(preset.run) | one_shot.run | {"method": "lora"}
    return [build(RunConfig, settings | {"seed": seed}, "one_shot: run") for seed in one_shot.seeds]
