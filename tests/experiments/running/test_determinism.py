"""The same configuration gives the same result, and a difference is found."""

import json
from dataclasses import asdict, replace

import pytest

from experiments.jobs.record import provenance
from experiments.jobs.run import run
from experiments.running import determinism
from experiments.settings.preset import load_preset
from theory.records import to_json

RUN = replace(
    load_preset("smoke").run,
    method="prune",
    criterion="prunedlora2025",
    initial_rank=6,
    target_rank=4,
    steps=8,
)


def test_a_run_gives_the_same_again_and_a_changed_number_is_found(tmp_path, capsys):
    result = run(RUN, tmp_path / "run")
    record = {"config": asdict(RUN), "environment": provenance(), "result": result}
    file = tmp_path / "result.json"
    file.write_text(to_json(record))
    assert determinism.check(file) == []
    record["result"]["losses"][3] += 1e-5
    file.write_text(to_json(record))
    (found,) = determinism.check(file)
    assert found.startswith("result.losses[3]: ")
    record["environment"]["device"] = "another processor"
    file.write_text(to_json(record))
    assert determinism.main([file]) == 1
    printed = capsys.readouterr().out
    assert "result.json: differs" in printed
    assert f"it was made with another processor, this is {provenance()['device']}" in printed
    assert "torch" not in printed


def test_what_needs_another_run_is_refused(tmp_path):
    file = tmp_path / "result.json"
    file.write_text(json.dumps({"config": asdict(replace(RUN, method="truncate"))}))
    with pytest.raises(SystemExit, match="another run trained"):
        determinism.check(file)
