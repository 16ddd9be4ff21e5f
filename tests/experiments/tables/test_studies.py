"""Which studies a preset has, and that each of their tables is sound."""

from dataclasses import replace
from typing import get_args

import pytest

from experiments.__main__ import Experiment
from experiments.settings.preset import PRESETS, load_preset
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged

TABLES = [
    pytest.param(build, name, id=f"{preset}-{name}")
    for preset in sorted(file.stem for file in PRESETS.glob("*.yaml"))
    for study in studies(load_preset(preset)).values()
    for name, build in study.tables.items()
]


def test_a_part_that_a_preset_lacks_has_no_study():
    preset = load_preset("smoke")
    parts = ["math", "understanding", "ablations", "language", "code", "verdict"]
    assert list(studies(preset)) == parts
    fewer = replace(preset, understanding=None, ablations=None, code=None, verdict=None)
    assert list(studies(fewer)) == ["math", "language"]


def test_every_table_can_be_asked_for_by_its_name():
    every = set()
    for preset in ("cpu", "gpu"):
        tables = [name for study in studies(load_preset(preset)).values() for name in study.tables]
        assert len(tables) == len(set(tables))
        every |= set(tables)
    assert set(get_args(Experiment)) == {*every, "table2", "table8", "one_shot", "theory"}


@pytest.mark.parametrize(("build", "name"), TABLES)
def test_rows_have_labels_of_their_own_and_only_rows_of_the_table_are_compared(build, name):
    table = build(unchanged)
    labels = [row.label for row in table.rows]
    assert table.name == name
    assert len(set(labels)) == len(labels)
    assert all(row.cells for row in table.rows)
    assert {label for pair in table.compare for label in pair} <= set(labels)
