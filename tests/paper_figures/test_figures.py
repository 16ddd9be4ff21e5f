"""Figures of tables of runs."""

import pytest
from matplotlib import pyplot as plt

from experiments.reporting.writing import write
from experiments.settings.preset import load_preset
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged
from paper_figures import figure1, figure3, phase, verdict
from tests.experiments.made_up import result


@pytest.mark.parametrize(
    ("study", "name", "figure"),
    [
        ("ablations", "figure1", figure1),
        ("ablations", "figure3", figure3),
        ("verdict", "phase", phase),
        ("verdict", "verdict", verdict),
    ],
)
def test_figures_are_drawn_from_the_tables(study, name, figure, tmp_path):
    table = studies(load_preset("cpu"))[study].tables[name](unchanged)
    write(table, {run.key: result(0.7, 0.5) for run in table.runs}, tmp_path, "")
    for file in figure.draw(tmp_path, tmp_path / "figures"):
        assert file.stat().st_size > 5_000


def test_the_phase_diagram_has_one_point_for_each_number_of_steps(tmp_path, monkeypatch):
    """Rules that are compared with each other, too, have no line of their own."""
    settings = load_preset("cpu").verdict
    table = studies(load_preset("cpu"))["verdict"].tables["phase"](unchanged)
    write(table, {run.key: result(0.7, 0.5) for run in table.runs}, tmp_path, "")
    drawn = []
    monkeypatch.setattr(phase, "save", lambda figure, *_: drawn.append(figure) or [])
    phase.draw(tmp_path, tmp_path / "figures")
    lines = [line[0] for axes in drawn[0].axes for line in axes.containers]
    assert len(lines) == 2 * len(settings.phase_tasks) * len(settings.target_ranks)
    assert {tuple(line.get_xdata()) for line in lines} == {settings.phase_steps}
    plt.close(drawn[0])
