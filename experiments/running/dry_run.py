"""Is a preset sound, and what will it take?  Nothing is loaded, downloaded or trained."""

from collections.abc import Sequence
from dataclasses import replace

from experiments.finetuning.controls import register_controls
from experiments.finetuning.learning_rate import cosine_with_warmup
from experiments.finetuning.models import classifies, matches
from experiments.pretrained.pruning import Pattern
from experiments.running import pieces
from experiments.running.pieces import seconds
from experiments.settings.jobs import Refined, RunConfig, rule_options
from experiments.settings.preset import Estimate, Preset, Table8, one_shot_runs
from experiments.tables import table2
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged
from experiments.tasks import TASKS
from prunedlora import PruneConfig, Schedule, available_criteria
from prunedlora.training.learning_rate import share_left

#: Bytes for each trained number: weight, gradient and two moments, all float32.
TRAINED_BYTES = 16


def check(preset: Preset, only: Sequence[str] | None = None) -> list[RunConfig]:
    """All runs of a preset, or of some of its experiments, each once; with every learning rate that may be tried.

    Raises:
        ValueError: an unknown task or criterion, a hub name without a full commit, or a schedule that does not fit.
    """

    def asked(name: str) -> bool:
        return only is None or name in only

    runs: list[RunConfig] = []
    if asked("one_shot"):
        runs += [run for name in preset.one_shot for run in one_shot_runs(preset, name)]
        for name, refined in preset.refined.items():
            _check_refined(refined, one_shot_runs(preset, name)[0])
    parts = studies(preset)
    # Whatever rates will be chosen: the whole grid of each study, and its tables at the rates of the preset.
    for study in parts.values():
        tables = [build for name, build in study.tables.items() if asked(name)]
        runs += study.tuning.grid(*tables)
        runs += [run for table in tables for run in table(unchanged).runs]
    if preset.table8 is not None and asked("table8"):
        _check_compression(preset.table8)
    if preset.table2 is not None and asked("table2"):
        measured = parts["math"].tables[preset.table2.of](unchanged)
        runs += [cost.run for cost in table2.costs(preset.table2, measured).values()]
    for run in runs:
        _check_names(run)
        if run.method == "prune":
            PruneConfig(
                target_rank=run.target_rank,
                criterion=run.criterion,
                options=rule_options(run.criterion, run.options),
            )
            schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
            schedule.check(run.initial_rank, run.steps)
    return list({run.key: run for run in runs}.values())


def report(preset: Preset, only: Sequence[str] | None = None) -> str:
    """What a preset, or some of its experiments, will do; and time and memory, for models that it has estimates of."""
    register_controls()
    runs = check(preset, only)
    lines = [f"Preset {preset.name}: {len(runs)} runs; names, schedules and revisions are sound."]
    known = [(run, preset.estimates[run.model]) for run in runs if run.model in preset.estimates]
    if not known:
        return "\n".join([*lines, "No estimate: the preset has no numbers for its models."])
    hours = [seconds(*pair) / 3600 for pair in known]
    sizes = [_gigabytes(*pair) for pair in known]
    for (run, _), duration, size in zip(known, hours, sizes, strict=True):
        what = f"{run.model.partition('@')[0]}: {run.method} {run.criterion}".strip()
        ranks = f" {run.initial_rank} to {run.target_rank}" if run.initial_rank else ""
        rate = f", learning rate {run.learning_rate:g}" if run.trains else ""
        lines.append(
            f"  {what}{ranks}{rate}, seed {run.seed}: {60 * duration:.1f} min, {size:.1f} GB"
        )
    lines.append(
        f"Estimated at most {sum(hours):.0f} h on one such GPU in all (one after the other, with every learning rate), "
        f"up to {max(sizes):.0f} GB of weights, adapters and optimiser state; activations come on top."
    )
    if len(known) < len(runs):
        lines.append(
            f"{len(runs) - len(known)} runs are of models that the preset has no numbers for."
        )
    return "\n".join([*lines, *pieces.lines(preset, only)])


def share_left_by(run: RunConfig) -> float:
    """Share of the sum of all learning rates that a run leaves after its last event."""
    factor = cosine_with_warmup(run.steps)
    schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
    last, _ = schedule.events(run.initial_rank)[-1]
    return share_left([factor(step) for step in range(run.steps)], last)


def _check_names(run: RunConfig) -> None:
    if run.task not in TASKS:
        raise ValueError(f"unknown task {run.task!r}; there are: {', '.join(TASKS)}")
    if run.criterion and run.criterion not in available_criteria():
        raise ValueError(
            f"unknown criterion {run.criterion!r}; there are: {', '.join(available_criteria())}"
        )
    _check_pinned(run.model)
    if classifies(run.model) and not (TASKS[run.task].labels or matches(run)):
        raise ValueError(f"{run.model} classifies, but {run.task} has no labels")


def _check_refined(refined: Refined, run: RunConfig) -> None:
    for criterion in refined.criteria:
        _check_names(replace(run, criterion=criterion))
    if not matches(run):
        raise ValueError(f"{run.task} is not a planted task; only their adapters are refined here")


def _check_compression(table: Table8) -> None:
    run = table.run
    for pattern in run.patterns:
        Pattern.parse(pattern)
    for name in (run.model, run.text):
        _check_pinned(name)


def _check_pinned(name: str) -> None:
    if "/" in name and not _is_commit(name.partition("@")[2]):
        raise ValueError(f"{name}: pin it to a full commit, as organisation/name@40 hex digits")


def _is_commit(revision: str) -> bool:
    return len(revision) == 40 and set(revision) <= set("0123456789abcdef")


def _gigabytes(run: RunConfig, e: Estimate) -> float:
    trained = e.parameters if run.method == "full" else e.adapted_width * run.initial_rank
    return (e.parameters * (2 if run.dtype == "bfloat16" else 4) + trained * TRAINED_BYTES) / 1e9
