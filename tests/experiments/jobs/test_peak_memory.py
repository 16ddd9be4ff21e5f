import json
from dataclasses import asdict, replace

from experiments.jobs import peak_memory, step_cost
from experiments.settings.preset import load_preset
from theory.records import to_json

SMOKE = load_preset("smoke")


def test_memory_is_measured_of_a_run_alone(tmp_path, monkeypatch):
    run = replace(
        SMOKE.run,
        method="prune",
        criterion="svd",
        initial_rank=8,
        target_rank=4,
        steps=8,
        interval=1,
    )
    trained = []
    monkeypatch.setattr(
        peak_memory, "training", lambda *asked: map(trained.append, step_cost.training(*asked))
    )
    config, result = tmp_path / "config.json", tmp_path / "result.json"
    config.write_text(to_json(asdict(run)))
    peak_memory.main([str(config), str(result)])
    assert len(trained) == run.steps
    assert json.loads(result.read_text())["result"]["peak_memory_bytes"] > 2**20
