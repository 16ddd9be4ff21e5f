"""The studies of a preset: for each of its parts which tables there are, and how they are run."""

from dataclasses import replace
from functools import partial

from experiments.settings.preset import (
    Ablations,
    Finetuning,
    Language,
    Preset,
    Understanding,
    Verdict,
)
from experiments.tables import (
    ablations,
    code,
    figure1,
    figure3,
    initial_rank,
    language,
    math,
    one_budget,
    phase,
    rows,
    table3,
    table4,
    table6,
    table7,
    verdict,
    when_to_prune,
)
from experiments.tables.study import Study
from experiments.tables.tuning import Tuning


def studies(preset: Preset) -> dict[str, Study]:
    """One for each part that the preset has, by its name there, in the order in which they are run."""
    parts = {"math": _math(preset.name, preset.math)}
    if preset.low_rank is not None:
        parts["low_rank"] = _low_rank(preset.name, preset.low_rank)
    if preset.understanding is not None:
        parts["understanding"] = _understanding(preset.name, preset.understanding)
    if preset.ablations is not None:
        parts["ablations"] = _ablations(preset.name, preset.ablations)
    if preset.language is not None:
        parts["language"] = _language(preset.name, preset.language)
    if preset.code is not None:
        parts["code"] = _code(preset.name, preset.code)
    if preset.verdict is not None:
        parts["verdict"] = _verdict(preset.name, preset.verdict)
    return parts


def _math(preset: str, settings: Finetuning) -> Study:
    return Study(
        heading=rows.heading(preset, settings),
        tuning=Tuning(settings.learning_rates, settings.seeds),
        gate=partial(rows.gate, settings, math.from_largest_rank(settings)),
        tables={
            "table1": partial(math.table1, settings),
            "table5": partial(math.table5, settings),
            "figure2": partial(math.figure2, settings),
        },
    )


def _low_rank(preset: str, settings: Finetuning) -> Study:
    tables = {"low_rank": partial(math.low_rank, settings)}
    return replace(_math(preset, settings), tables=tables)


def _understanding(preset: str, settings: Understanding) -> Study:
    return Study(
        heading=table3.heading(preset, settings),
        tuning=Tuning(settings.learning_rates, settings.seeds, settings.tasks[0]),
        gate=partial(table3.gate, settings),
        tables={"table3": partial(table3.table, settings)},
    )


def _ablations(preset: str, settings: Ablations) -> Study:
    return Study(
        heading=ablations.heading(preset, settings),
        tuning=Tuning(settings.learning_rates, settings.seeds),
        gate=None
        if settings.least_gain is None
        else partial(ablations.gate, settings, settings.least_gain),
        tables={
            "table4": partial(table4.table, settings),
            "table6": partial(table6.table, settings),
            "table7": partial(table7.table, settings),
            "figure1": partial(figure1.table, settings),
            "figure3": partial(figure3.table, settings),
            "when_to_prune": partial(when_to_prune.table, settings),
        },
    )


def _language(preset: str, settings: Language) -> Study:
    return Study(
        heading=rows.heading(preset, settings),
        tuning=Tuning(settings.learning_rates, settings.seeds, settings.tasks[0]),
        gate=partial(rows.gate, settings, language.on_first_task(settings)),
        tables={"language": partial(language.table, settings)},
    )


def _code(preset: str, settings: Finetuning) -> Study:
    return Study(
        heading=code.heading(preset, settings),
        tuning=Tuning(settings.learning_rates, settings.seeds),
        gate=partial(rows.gate, settings, code.from_initial_rank(settings)),
        tables={"code": partial(code.table, settings)},
    )


def _verdict(preset: str, settings: Verdict) -> Study:
    return Study(
        heading=verdict.heading(preset, settings),
        tuning=Tuning(
            settings.learning_rates,
            settings.seeds,
            others={settings.control["task"]: settings.control_learning_rates}
            if settings.control
            else {},
        ),
        gate=None,
        tables={
            "verdict": partial(verdict.table, settings),
            "phase": partial(phase.table, settings),
            "initial_rank": partial(initial_rank.table, settings),
            "one_budget": partial(one_budget.table, settings),
        },
    )
