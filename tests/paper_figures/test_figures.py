"""Figures of the tables of encoders."""

import pytest

from experiments.reporting.table import write
from experiments.settings.preset import load_preset
from experiments.tables import encoder
from experiments.tables.tuning import unchanged
from paper_figures import figure1, figure3
from tests.experiments.made_up import result


@pytest.mark.parametrize(("build", "figure"), [(encoder.figure1, figure1), (encoder.figure3, figure3)])
def test_figures_are_drawn_from_the_tables(build, figure, tmp_path):
    table = build(load_preset("cpu"), unchanged)
    write(table, {run.key: result(0.7, 0.5) for run in table.runs}, tmp_path, "")
    for file in figure.draw(tmp_path, tmp_path / "figures"):
        assert file.stat().st_size > 5_000
