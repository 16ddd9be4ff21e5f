import pytest

from experiments.settings.preset import load_preset
from experiments.tables import math as math_tables
from experiments.tables.study import check_learnt
from experiments.tables.tuning import unchanged


def test_the_gate_stops_where_nothing_was_learnt():
    untuned, skyline = math_tables.gated(load_preset("cpu"), unchanged)[0]
    assert (untuned.method, skyline.method, skyline.initial_rank) == ("untuned", "lora", 32)
    with pytest.raises(SystemExit, match=r"\+2.0 points"):
        check_learnt({"accuracy": 0.5}, {"accuracy": 0.52}, least_gain=5)
    check_learnt({"accuracy": 0.5}, {"accuracy": 0.6}, least_gain=5)
