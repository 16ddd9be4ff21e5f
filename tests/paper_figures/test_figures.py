"""Figures of the tables of encoders."""

import pytest

from experiments.reporting.writing import write
from experiments.settings.preset import load_preset
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged
from paper_figures import figure1, figure3, phase, verdict
from tests.experiments.made_up import result


@pytest.mark.parametrize(
    ("study", "name", "figure"),
    [
        ("encoder", "figure1", figure1),
        ("encoder", "figure3", figure3),
        ("verdict", "phase", phase),
        ("verdict", "verdict", verdict),
    ],
)
def test_figures_are_drawn_from_the_tables(study, name, figure, tmp_path):
    table = studies(load_preset("cpu"))[study].tables[name](unchanged)
    write(table, {run.key: result(0.7, 0.5) for run in table.runs}, tmp_path, "")
    for file in figure.draw(tmp_path, tmp_path / "figures"):
        assert file.stat().st_size > 5_000
