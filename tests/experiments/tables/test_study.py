"""Nothing is compared where nothing was learnt."""

import pytest

from experiments.settings.preset import load_preset
from experiments.tables.studies import studies
from experiments.tables.study import Gate
from experiments.tables.tuning import unchanged


def test_the_gate_stops_where_nothing_was_learnt():
    gate = studies(load_preset("cpu"))["math"].gate(unchanged)
    assert (gate.untuned.method, gate.untuned.initial_rank) == ("untuned", 0)
    assert (gate.unpruned.method, gate.unpruned.initial_rank) == ("lora", 32)
    assert gate.unpruned.target_rank == 32
    results = {gate.untuned.key: {"accuracy": 0.5}, gate.unpruned.key: {"accuracy": 0.52}}
    with pytest.raises(SystemExit, match=r"\+2.0 points from the untuned model, less than 5: "):
        gate.check(results)
    Gate(gate.untuned, gate.unpruned, least_gain=1.5).check(results)


@pytest.mark.parametrize("part", ["math", "understanding", "language", "code"])
def test_the_gate_of_every_study_asks_for_the_rate_of_its_unpruned_adapter(part):
    study = studies(load_preset("smoke"))[part]
    gate = study.gate(unchanged)
    assert gate.unpruned.initial_rank == gate.unpruned.target_rank > 0
    assert gate.untuned.method == "untuned"
    asked = []
    study.gate(lambda run: asked.append(run) or run)
    assert asked == [gate.unpruned]
