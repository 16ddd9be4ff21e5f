"""Training that several processes share gives what one gives."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch

from experiments.finetuning.processes import Processes
from experiments.jobs.run import run
from experiments.running.isolation import launcher
from experiments.settings.preset import load_preset
from tests.paths import ROOT

#: In float64 nothing but the order of sums differs; adapters are float32, so that is what remains.
PRUNED = replace(
    load_preset("smoke").run,
    method="prune",
    criterion="kfac",
    initial_rank=6,
    target_rank=4,
    steps=8,
    interval=2,
)


def test_two_processes_train_what_one_does(tmp_path):
    single = run(PRUNED, tmp_path / "one")
    (tmp_path / "config.json").write_text(json.dumps(asdict(PRUNED)))
    names = ("config.json", "result.json", "two")
    command = [
        sys.executable,
        "-m",
        *launcher(2),
        "experiments.jobs.run",
        *(str(tmp_path / name) for name in names),
    ]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    record = json.loads((tmp_path / "result.json").read_text())
    shared = record["result"]
    assert record["environment"]["processes"] == 2
    assert shared["train_loss"] == pytest.approx(single["train_loss"], rel=1e-3)
    assert [e["removed"] for e in shared["events"]] == [e["removed"] for e in single["events"]]
    assert shared["cross_entropy"] == pytest.approx(single["cross_entropy"], rel=1e-3)
    assert shared["rank"] == single["rank"] == 4


def test_every_example_of_a_batch_has_one_process():
    parts = [Processes(rank, 3, torch.device("cpu")).share(list(range(8))) for rank in range(3)]
    assert sorted(i for part in parts for i in part) == list(range(8))
    with pytest.raises(SystemExit, match="cannot be shared by 3"):
        Processes(0, 3, torch.device("cpu")).share([1, 2])
