"""What the notebook of results computes is what the tables say."""

import pandas as pd
import pytest

from experiments.reporting import explore

TABLE, COLUMN, AGAINST = "verdict", "to 8, 50% left", "LoRA at the target rank"


def test_all_seeds_give_the_committed_differences():
    committed = pd.read_csv(explore.FOLDER / f"{TABLE}_differences.csv")
    committed = committed[(committed["column"] == COLUMN) & (committed["against"] == AGAINST)]
    committed = committed.set_index("method")
    found = explore.differences(TABLE, COLUMN, AGAINST, list(committed.index))
    for name in ("mean", "low", "high"):
        assert found[name].tolist() == pytest.approx(committed[name].tolist(), abs=1e-9)
    assert found["seeds"].tolist() == committed["seeds"].tolist()


def test_fewer_seeds_say_less():
    every = explore.differences(TABLE, COLUMN, AGAINST)
    two = explore.differences(TABLE, COLUMN, AGAINST, seeds=(0, 1))
    assert set(two["seeds"]) == {2}
    assert (two["high"] - two["low"]).mean() > (every["high"] - every["low"]).mean()
    assert AGAINST not in every.index
    one = explore.differences(TABLE, COLUMN, AGAINST, seeds=(3,))
    assert set(one["verdict"]) == {"not decided"}


def test_every_table_can_be_looked_at():
    assert TABLE in explore.tables()
    for table in explore.tables():
        column = explore.columns(table)[0]
        own = explore.losses(table)
        rows = own[own["column"] == column]["method"].unique()
        assert len(explore.differences(table, column, rows[0])) == len(rows) - 1


def test_what_is_not_there_is_named():
    with pytest.raises(ValueError, match=r"no table 'table9'; there are: .*verdict"):
        explore.losses("table9")
    with pytest.raises(ValueError, match=r"it has: .*LoRA at the target rank"):
        explore.differences(TABLE, COLUMN, "chance")
    with pytest.raises(ValueError, match="verdict has the seeds 0, 1, 2, 3, 4"):
        explore.differences(TABLE, COLUMN, AGAINST, seeds=(7,))


def test_the_picture_names_its_axis_and_marks_every_row():
    figure = explore.picture(TABLE, COLUMN, AGAINST, ["svd", "kfac"])
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["svd", "kfac"]
    assert "share of the change that is left" in axes.get_xlabel()
    assert AGAINST in axes.get_xlabel()
    assert explore.unit("table1", explore.columns("table1")[0]) == "nats"
