"""A preset in pieces of a few minutes, each a command; and how long they take, by what runs took before."""

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from experiments.jobs.one_shot import variants
from experiments.settings.jobs import Compression, RunConfig
from experiments.settings.preset import Estimate, Measured, Preset, one_shot_runs
from experiments.tables import table2
from experiments.tables.studies import studies
from experiments.tables.study import Study
from experiments.tables.tuning import unchanged

#: Within which a piece must be over.
MINUTES = 8.75
#: Seconds until the first run trains, and after the last one.
OVERHEAD = 30
#: Validation loss that no run has: one that has not been done is not taken for the best.
FAR = 1e6


def seconds(run: RunConfig, estimate: Estimate) -> float:
    """Of training and evaluation: measured beside others, or computed.

    Training takes 4 flops per parameter and token (frozen weights need no gradient of their own), 6 if all are trained.
    In evaluation the weights are read once for each token of a batch.
    """
    time = estimate.time
    if isinstance(time, Measured):
        return run.trains * run.steps * time.step_seconds + time.evaluation_seconds
    tokens = time.tokens_per_example * run.steps * run.batch_size
    flops = (6 if run.method == "full" else 4) * estimate.parameters * tokens
    batches = -(-run.test_examples // run.eval_batch_size)
    reading = 2 * estimate.parameters * time.generated_tokens * batches / time.bytes_per_second
    return run.trains * flops / time.flops_per_second + reading


def lines(preset: Preset, only: Sequence[str] | None = None) -> Iterator[str]:
    """The pieces of a preset: what to type, how many times, and for how many minutes in all.

    Runs that several experiments share are counted where they come first.  Benchmarks are a piece of every preset that
    has pieces, the first, unless only some experiments are asked for.
    """
    everything = {name for names in preset.pieces for name in names}
    if everything and (only is None or everything <= set(only)):
        yield f"1 x python -m experiments.benchmarks --minutes {MINUTES - OVERHEAD / 60:.1f}: all benchmarks"
    done: dict[str, RunConfig] = {}
    total = 0
    for names in preset.pieces:
        asked = [name for name in names if only is None or name in only]
        if not asked:
            continue
        runs = {run.key: run for name in asked for run in expected_runs(preset, name)}
        new = [run for key, run in runs.items() if key not in done]
        done |= runs
        minutes = (_together(preset, new) + sum(_alone(preset, name) for name in asked)) / 60
        longest = max((_of(preset, run) for run in new), default=0.0) / 60
        count = math.ceil(minutes / (MINUTES - OVERHEAD / 60))
        total += count
        yield (
            f"{count} x python -m experiments --preset {preset.name} --workers auto "
            f"--minutes {MINUTES - longest:.1f} --only {' '.join(asked)}: {minutes:.0f} min, {len(new)} runs"
        )
    if total:
        yield (
            f"{total} pieces of less than nine minutes, if the first three learning rates of every row hold its best. "
            "Times by runs that were done beside each other: "
            + "; ".join(f"{name}: {_where(e)}" for name, e in preset.estimates.items())
        )


def nothing(run: RunConfig) -> dict[str, Any] | None:
    """No result of any run."""
    return None


def expected_runs(
    preset: Preset, name: str, known: Callable[[RunConfig], dict[str, Any] | None] = nothing
) -> list[RunConfig]:
    """The runs of an experiment, those of its search included.

    Args:
        preset: with the experiment.
        name: of the experiment.
        known: the result of a run that has been done; of all others, those at the rate tried first are taken for the
            best.
    """
    if name == "one_shot":
        return [run for kind in preset.one_shot for run in one_shot_runs(preset, kind)]
    parts = studies(preset)
    if name == "table2":
        assert preset.table2 is not None
        return _searched(parts["math"], preset.table2.of, known)
    study = next((study for study in parts.values() if name in study.tables), None)
    return [] if study is None else _searched(study, name, known)


def _searched(
    study: Study, name: str, known: Callable[[RunConfig], dict[str, Any] | None]
) -> list[RunConfig]:
    build = study.tables[name]
    asking = [build] if study.gate is None else [build, study.gate]
    runs: dict[str, RunConfig] = {}
    results: dict[str, dict[str, Any]] = {}
    while missing := study.tuning.missing(results, *asking):
        for run in missing:
            distance = abs(math.log(run.learning_rate / study.tuning.first(run)))
            pretended = {"validation": {"cross_entropy": FAR + distance}}
            results[run.key] = known(run) or pretended
            runs[run.key] = run
    tune = study.tuning.chooser(results)
    gate = [] if study.gate is None else [study.gate(tune).untuned, study.gate(tune).unpruned]
    return list({run.key: run for run in (*runs.values(), *gate, *build(tune).runs)}.values())


def _where(estimate: Estimate) -> str:
    return estimate.time.where if isinstance(estimate.time, Measured) else "computed"


def _together(preset: Preset, runs: list[RunConfig]) -> float:
    """Seconds of runs that are done beside each other."""
    return sum(_of(preset, run) / _measured(preset, run).together for run in runs)


def _of(preset: Preset, run: RunConfig) -> float:
    """Seconds of a run beside others."""
    _measured(preset, run)
    return seconds(run, preset.estimates[run.model])


def _alone(preset: Preset, name: str) -> float:
    """Seconds of what an experiment measures one after the other."""
    if name == "one_shot":
        # Every variant at every rank is an evaluation.
        count = len(list(variants()))
        return sum(
            _measured(preset, run).evaluation_seconds * len(settings.ranks) * count
            for kind, settings in preset.one_shot.items()
            for run in one_shot_runs(preset, kind)
        )
    if name == "table2" and preset.table2 is not None:
        table = studies(preset)["math"].tables[preset.table2.of](unchanged)
        # Each is timed beside its reference, and trained once more for its memory.
        costs = table2.costs(preset.table2, table).values()
        return sum(3 * c.run.steps * _measured(preset, c.run).step_seconds_alone for c in costs)
    if name == "table8" and preset.table8 is not None:
        # Every row is a compression and an evaluation, of a model that the preset also trains.
        count = 1 + sum(map(len, preset.table8.rows.values()))
        return count * _measured(preset, preset.table8.run).evaluation_seconds
    return 0.0


def _measured(preset: Preset, run: RunConfig | Compression) -> Measured:
    """What was measured of runs with the model of this one.

    Raises:
        ValueError: nothing was.
    """
    estimate = preset.estimates.get(run.model)
    if estimate is None or not isinstance(estimate.time, Measured):
        raise ValueError(f"{preset.name}: pieces need measured times of {run.model} in estimates")
    return estimate.time
