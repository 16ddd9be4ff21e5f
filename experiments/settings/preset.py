"""Presets: which tables are made, of which rows, with which settings; read from YAML."""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeInt, PositiveFloat, PositiveInt

from experiments.settings.jobs import (
    Compression,
    CompressionMethod,
    OneShot,
    Refined,
    RunConfig,
    Seeds,
    changed,
)
from experiments.settings.validation import STRICT, read_yaml, validated

#: Rows of `Finetuning` besides LoRA.
Baseline = Literal["full", "rslora", "dora", "adalora", "cont_squeeze"]
Ranks = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Tasks = Annotated[tuple[str, ...], Field(min_length=1)]
Shares = Annotated[tuple[PositiveFloat, ...], Field(min_length=1)]
PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class Finetuning:
    """Fine-tuning a language model by every method, see `experiments.tables.rows`.

    Attributes:
        run: what all runs share.
        target_rank: rank that every compared adapter has in the end.
        initial_ranks: ranks from which pruning starts.
        baselines: rows besides LoRA.
        truncations: rules by which the skyline is truncated.
        criteria: pruning rules.
        corrected: whether the paper's rule has a second row, with half of its recovery.
        learning_rates: among which the validation loss chooses; the preset's for all rows if there are none.
        seeds: one run per row and seed.
        least_gain: points of accuracy by which the unpruned adapter must be ahead of the untuned model.
        events: of every schedule, from whatever rank; 0 for the interval and the components per event of the run.
        share_left: of the sum of all learning rates, after the last of so many events.
    """

    __pydantic_config__ = STRICT

    run: RunConfig
    target_rank: PositiveInt
    initial_ranks: Ranks
    baselines: tuple[Baseline, ...] = ("full", "rslora", "dora", "adalora", "cont_squeeze")
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
    corrected: bool = True
    learning_rates: tuple[PositiveFloat, ...] = ()
    seeds: Seeds = (0,)
    least_gain: float = 0.0
    events: NonNegativeInt = 0
    share_left: PositiveFloat = 0.3


@dataclass(frozen=True)
class Language(Finetuning):
    """The same on several tasks, pruned from the largest initial rank.

    Attributes:
        tasks: one column each; the learning rates are chosen on the first.
    """

    tasks: Tasks = field(kw_only=True)


@dataclass(frozen=True)
class Understanding:
    """Table 3: language understanding on several tasks, see `experiments.tables.table3`.

    Attributes:
        run: what all runs share.
        tasks: one column each; the learning rates are chosen on the first.
        target_rank: rank that every compared adapter has in the end.
        initial_ranks: from which the paper's rule prunes; the others from the largest.
        learning_rates: among which the validation loss chooses.
        seeds: one run per cell and seed.
        least_gain: points of accuracy by which the unpruned adapter must be ahead of the untuned model.
        events: of every schedule, from whatever rank; 0 for the interval and the components per event of the run.
        share_left: of the sum of all learning rates, after the last of so many events.
    """

    __pydantic_config__ = STRICT

    run: RunConfig
    tasks: Tasks
    target_rank: PositiveInt
    initial_ranks: Ranks
    learning_rates: tuple[PositiveFloat, ...]
    seeds: Seeds = (0,)
    least_gain: float = 0.0
    events: NonNegativeInt = 0
    share_left: PositiveFloat = 0.3


@dataclass(frozen=True)
class Ablations:
    """Tables and figures on one task that vary one thing each, see `experiments.tables.ablations`.

    Attributes:
        run: what all runs share, best on a task in which rank matters.
        target_rank: of all tables but Figure 3.
        initial_ranks: from which pruning starts; the largest where there is one only.
        schedule_rank: initial rank of Table 6.
        schedules: its (K1, K2).
        figure1_ranks: of Figure 1.
        figure3_targets: target ranks of Figure 3.
        events: of every schedule where a table does not vary it.
        shares: of the sum of all learning rates that are left after the last event: all in `when_to_prune`, the middle
            one elsewhere.
        learning_rates: among which the validation loss chooses, for every row and column.
        seeds: one run per cell and seed.
        margin: losses that differ by less are level, in the unit of the loss.
        least_gain: points of accuracy by which the unpruned adapter must be ahead of the untuned model; none on a task
            in which nothing is right or wrong.
    """

    __pydantic_config__ = STRICT

    run: RunConfig
    target_rank: PositiveInt
    initial_ranks: Ranks
    schedule_rank: PositiveInt
    schedules: tuple[tuple[PositiveInt, PositiveInt], ...]
    figure1_ranks: Ranks
    figure3_targets: Ranks
    events: PositiveInt
    shares: Shares
    learning_rates: tuple[PositiveFloat, ...]
    seeds: Seeds = (0,)
    margin: PositiveFloat = 0.02
    least_gain: float | None = None

    @property
    def share_left(self) -> float:
        """The middle one."""
        return _middle(self.shares)


@dataclass(frozen=True)
class Verdict:
    """The fair study: choice, recovery and schedule, every row at its own rate; see `experiments.tables.verdict`.

    Attributes:
        run: what all runs share, on a task in which rank matters.
        initial_rank: from which pruning starts.
        target_ranks: to which it goes; each has a column in the middle schedule, the least one in all schedules.
        shares: of the sum of all learning rates that are left after the last event, one schedule for each.
        events: of every schedule.
        control: what is different in the runs of a task in which rank does not matter; no such column if empty.
        control_learning_rates: those of that task, which may learn at others.
        learning_rates: among which the validation loss chooses, for every row and column.
        seeds: one run per cell and seed.
        margin: losses that differ by less are level, in the unit of the loss.
        lower_initial_ranks: from which pruning starts besides, see `experiments.tables.initial_rank`.
        phase_tasks: tasks of the phase diagram, see `experiments.tables.phase`.
        phase_steps: its numbers of steps.
    """

    __pydantic_config__ = STRICT

    run: RunConfig
    initial_rank: PositiveInt
    target_ranks: Ranks
    shares: Shares
    events: PositiveInt
    learning_rates: tuple[PositiveFloat, ...]
    seeds: Seeds
    margin: PositiveFloat
    lower_initial_ranks: Ranks
    phase_tasks: Tasks
    phase_steps: Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
    control: dict[str, Any] = field(default_factory=dict)
    control_learning_rates: tuple[PositiveFloat, ...] = ()

    @property
    def share_left(self) -> float:
        """The middle one."""
        return _middle(self.shares)


@dataclass(frozen=True)
class Table8:
    """Table 8: perplexity after one-shot compression.

    Attributes:
        run: that of the dense model, whose settings all rows share.
        max_perplexity: of the dense model; above it, nothing is compressed.
        methods: rows besides the dense model.
        seeds: one run per row and seed.
    """

    __pydantic_config__ = STRICT

    run: Compression
    max_perplexity: PositiveFloat
    methods: tuple[CompressionMethod, ...] = (
        "random",
        "magnitude",
        "sparsegpt",
        "wanda",
        "gradient",
        "gradient_squared",
    )
    seeds: Seeds = (0,)

    @property
    def rows(self) -> dict[str, list[Compression]]:
        """The runs of every compressed row, by method."""
        return {
            method: [replace(self.run, method=method, seed=seed) for seed in self.seeds]
            for method in self.methods
        }


@dataclass(frozen=True)
class Table2:
    """Table 2: the cost of the runs of a table.

    Attributes:
        of: the table; all initial ranks are in Table 5.
        run: settings that make a run short but have it do all its events.
        block: optimiser steps that are timed together; the first block is not counted.
    """

    __pydantic_config__ = STRICT

    run: dict[str, Any]
    block: PositiveInt
    of: Literal["table1", "table5"] = "table5"


@dataclass(frozen=True)
class Modelled:
    """Numbers from which the time of a run is computed, where nothing has been measured.

    Attributes:
        tokens_per_example: in training, on average.
        generated_tokens: in evaluation, per example.
        flops_per_second: that training reaches on the machine.
        bytes_per_second: of weights read in decoding.
    """

    __pydantic_config__ = STRICT

    tokens_per_example: PositiveInt
    generated_tokens: NonNegativeInt
    flops_per_second: PositiveFloat
    bytes_per_second: PositiveFloat


@dataclass(frozen=True)
class Measured:
    """Seconds that runs took beside each other.

    Attributes:
        step_seconds: of an optimiser step.
        step_seconds_alone: the same of a run beside which there is no other.
        evaluation_seconds: of all scores of a run.
        together: runs at the same time, of which each took so long.
        where: device, versions and date.
    """

    __pydantic_config__ = STRICT

    step_seconds: PositiveFloat
    step_seconds_alone: PositiveFloat
    evaluation_seconds: PositiveFloat
    together: PositiveInt
    where: str


@dataclass(frozen=True)
class Estimate:
    """Numbers for the estimate of ``--dry-run``, where the model is too large to be looked at.

    Attributes:
        parameters: of the base model.
        adapted_width: sum of d_out + d_in over the adapted layers: parameters of an adapter for each rank.
        time: what is known of the time that runs take.
    """

    __pydantic_config__ = STRICT

    parameters: PositiveInt
    adapted_width: PositiveInt
    time: Modelled | Measured


@dataclass(frozen=True)
class Preset:
    """What one preset runs: settings shared by all runs, and the tables.

    Attributes:
        name: of its file.
        run: settings shared by all runs; those of a part come before them.
        math: Tables 1 and 5.
        low_rank: the same from every initial rank to a lower one.
        one_shot: experiments of one-shot pruning, by name.
        refined: what is refined of their adapters, by the same names.
        understanding: Table 3.
        ablations: tables and figures on one task that vary one thing each.
        language: language understanding with a language model.
        code: fine-tuning on code.
        verdict: the fair study of choice, recovery and schedule.
        table2: cost of training.
        table8: compression of the pretrained model.
        estimates: numbers for the estimate of ``--dry-run``, by model.
        pieces: experiments that are asked for together where time comes in pieces, in this order.
        isolated: whether every run has a process of its own, so that its peak memory is its own; starting one takes
            longer than a run of a tiny model.
        processes: among which ``accelerate launch`` shares the training of every run, one for each GPU.
    """

    __pydantic_config__ = STRICT

    name: str
    run: RunConfig
    isolated: bool = field(default=True, kw_only=True)
    processes: PositiveInt = field(default=1, kw_only=True)
    math: Finetuning = field(kw_only=True)
    low_rank: Finetuning | None = None
    one_shot: dict[str, OneShot] = field(default_factory=dict)
    refined: dict[str, Refined] = field(default_factory=dict)
    understanding: Understanding | None = None
    ablations: Ablations | None = None
    language: Language | None = None
    code: Finetuning | None = None
    verdict: Verdict | None = None
    table2: Table2 | None = None
    table8: Table8 | None = None
    estimates: dict[str, Estimate] = field(default_factory=dict)
    pieces: tuple[tuple[str, ...], ...] = ()


#: Parts that have settings of runs; what they leave out is as in the preset's.
WITH_RUNS = ("math", "low_rank", "understanding", "ablations", "language", "code", "verdict")


def _middle(shares: tuple[float, ...]) -> float:
    return sorted(shares)[len(shares) // 2]


def load_preset(name: str) -> Preset:
    """The preset of that name, from ``experiments/settings/presets``.

    Raises:
        ValueError: there is none, or its file has unknown or missing keys or values that do not fit; the message
            names file, part and key.
    """
    file = PRESETS / f"{name}.yaml"
    if not file.exists():
        known = sorted(path.stem for path in PRESETS.glob("*.yaml"))
        raise ValueError(f"no preset {name!r}; there are: {', '.join(known)}")
    return read_preset(name, file.read_text(), file.name)


def read_preset(name: str, text: str, where: str) -> Preset:
    """A preset from YAML.

    Args:
        name: of the preset.
        text: its content.
        where: the text comes from, for errors.

    Raises:
        ValueError: see `load_preset`.
    """
    values = read_yaml(text, where)
    # The shared settings alone, so that an error in them is reported once and not for every part.
    validated(RunConfig, values.get("run", {}), f"{where}: run")
    values |= {part: _with_run(values[part], values["run"]) for part in WITH_RUNS if part in values}
    if "table8" in values:
        values["table8"] = _with_run(values["table8"], {}, method="dense")
    preset = validated(Preset, values | {"name": name}, where)
    # What stays a mapping, since it changes settings that come from elsewhere, is checked by doing so.
    for kind in preset.one_shot:
        one_shot_runs(preset, kind, where)
    for kind, refined in preset.refined.items():
        _check_refined(preset, kind, refined, f"{where}: refined: {kind}")
    if preset.verdict is not None:
        changed(preset.verdict.run, preset.verdict.control, f"{where}: verdict: control")
    if preset.table2 is not None:
        changed(preset.math.run, preset.table2.run, f"{where}: table2: run")
    return preset


def _with_run(part: Any, shared: dict[str, Any], **fixed: Any) -> Any:
    """A part of a preset whose run has the shared settings where it has none of its own, and some that are fixed.

    What is not a mapping stays as it is, to be refused with its place.
    """
    run = part.get("run", {}) if isinstance(part, dict) else None
    if not isinstance(run, dict):
        return part
    return part | {"run": shared | run | fixed}


def _check_refined(preset: Preset, kind: str, refined: Refined, where: str) -> None:
    """Refuse what no adapter is trained for.

    Raises:
        ValueError: the experiment does not exist, or has no adapter of a seed.
    """
    if kind not in preset.one_shot:
        raise ValueError(f"{where}: there is no one-shot experiment of that name")
    lacking = sorted(set(refined.seeds) - set(preset.one_shot[kind].seeds))
    if lacking:
        raise ValueError(f"{where}: seeds: the experiment has no adapter of {lacking}")


def one_shot_runs(preset: Preset, name: str, where: str = "") -> list[RunConfig]:
    """The training runs whose adapters a one-shot experiment starts from, one for each seed.

    Args:
        preset: with the experiment.
        name: of the experiment.
        where: the preset comes from, for errors; its name by default.

    Raises:
        ValueError: settings that do not fit.
    """
    one_shot = preset.one_shot[name]
    run = changed(preset.run, one_shot.run, f"{where or preset.name}: one_shot: {name}: run")
    return [replace(run, method="lora", seed=seed) for seed in one_shot.seeds]
