"""Language understanding with a language model, which answers by going on with the likelier label."""

from collections.abc import Callable
from dataclasses import asdict, replace

from experiments.reporting.table import Table, Tune
from experiments.settings.jobs import RunConfig, build
from experiments.settings.preset import Language, Preset
from experiments.tables import rows as finetuning
from experiments.tables.tuning import Tuning


def base(preset: Preset) -> RunConfig:
    """What all runs share."""
    settings = _settings(preset)
    run = build(RunConfig, asdict(preset.run) | settings.run, "language: run")
    return replace(run, task=settings.tasks[0], initial_rank=max(settings.initial_ranks))


def tuning(preset: Preset) -> Tuning:
    """Learning rates are chosen on the first task."""
    settings = _settings(preset)
    return Tuning(settings.learning_rates, settings.seeds, settings.tasks[0])


def language(preset: Preset, tune: Tune) -> Table:
    """The tasks of Table 3, from the largest initial rank."""
    settings, run = _settings(preset), base(preset)
    return Table(
        "language",
        f"Language understanding with a language model, rank {run.initial_rank} to {settings.target_rank}",
        finetuning.rows(settings, {task: replace(run, task=task) for task in settings.tasks}, tune, {}),
        finetuning.comparisons(settings),
        "The paper has an encoder-decoder only, see Table 3.",
    )


TABLES: dict[str, Callable[[Preset, Tune], Table]] = {"language": language}


def gated(preset: Preset, tune: Tune) -> tuple[list[RunConfig], float]:
    """What `experiments.tables.study.check_learnt` is told: on the first task."""
    return finetuning.gated(_settings(preset), base(preset), tune)


def heading(preset: Preset) -> str:
    """The setting, in a sentence."""
    return finetuning.heading(preset.name, _settings(preset), base(preset))


def _settings(preset: Preset) -> Language:
    assert preset.language is not None
    return preset.language
