"""What a preset will do before it begins: which runs and measurements are missing, and how long they take."""

from collections.abc import Sequence

from experiments.running import pieces
from experiments.running.progress import in_words
from experiments.running.runner import Runner
from experiments.settings.jobs import Compression, RunConfig
from experiments.settings.preset import Preset, Table8
from experiments.tables import table2
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged


def names(preset: Preset) -> list[str]:
    """The experiments that a preset has."""
    tables = [name for study in studies(preset).values() for name in study.tables]
    others = {
        "table2": preset.table2 is not None,
        "one_shot": bool(preset.one_shot),
        "table8": preset.table8 is not None,
    }
    return [*tables, *(name for name, there in others.items() if there)]


def text(preset: Preset, only: Sequence[str], runner: Runner) -> str:
    """A few lines for somebody who waits.

    Args:
        preset: the preset.
        only: its experiments that are asked for.
        runner: of the preset.
    """
    asked: dict[str, RunConfig] = {}
    for name in only:
        runs = (
            _to_train(preset, runner)
            if name == "one_shot"
            else pieces.expected_runs(preset, name, runner.known)
        )
        asked |= {run.key: run for run in runs}
    train, start = runner.to_do(list(asked.values()))
    todo = [*train, *start]
    runner.expect(todo)
    measurements = _measurements(preset, only, runner)
    if not todo and not measurements:
        return (
            f"Preset {preset.name}: all {len(asked)} runs are there, nothing is computed; "
            "--fresh does them again."
        )
    times = [_seconds(preset, run, runner) for run in todo]
    known = [seconds for seconds in times if seconds is not None]
    parts = [f"{len(todo)} of {len(asked)} runs are to be done"] if todo else []
    parts += [f"{measurements} measurements are to be made"] if measurements else []
    lines = [f"Preset {preset.name}: {' and '.join(parts)}, {runner.workers} at a time."]
    if known:
        of = f"of the {len(known)} runs like earlier ones" if len(known) < len(todo) else "of runs"
        lines.append(f"Training and evaluation {of}: about {in_words(sum(known))} in all.")
    if todo:
        lines.append("The search for learning rates may ask for more.")
    return "\n".join(lines)


def _seconds(preset: Preset, run: RunConfig, runner: Runner) -> float | None:
    """Of a run, shared among those that are done beside it; none if nothing is known."""
    if (earlier := runner.durations.of(run)) is not None:
        return earlier / runner.workers
    estimate = preset.estimates.get(run.model)
    return None if estimate is None else pieces.seconds(run, estimate) / runner.workers


def _to_train(preset: Preset, runner: Runner) -> list[RunConfig]:
    """The trainings without whose adapters a missing measurement of one-shot pruning cannot be made."""
    missing = [
        training
        for kind in preset.one_shot
        for training, _, file in (*runner.one_shot_jobs(kind), *runner.refined_jobs(kind))
        if runner.is_missing(file)
    ]
    return list({run.key: run for run in missing}.values())


def _measurements(preset: Preset, only: Sequence[str], runner: Runner) -> int:
    """How many results are missing that are not of runs."""
    files = []
    if "one_shot" in only:
        for kind in preset.one_shot:
            jobs = (*runner.one_shot_jobs(kind), *runner.refined_jobs(kind))
            files += [file for _, _, file in jobs]
    if "table2" in only and preset.table2 is not None:
        # Which rates the rows have makes no difference to what they cost.
        table = studies(preset)["math"].tables[preset.table2.of](unchanged)
        for label, cost in table2.costs(preset.table2, table).items():
            files += runner.cost_files(label, cost)
    if "table8" in only and preset.table8 is not None:
        files += runner.compressed_files(_compressions(preset.table8))
    return sum(runner.is_missing(file) for file in files)


def _compressions(table: Table8) -> list[Compression]:
    return [table.run, *(run for runs in table.rows.values() for run in runs)]
