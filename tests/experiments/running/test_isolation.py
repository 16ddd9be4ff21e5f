"""A run in a process of its own, and the check that another process opens its adapter."""

import json
import os
import subprocess
import sys
from dataclasses import asdict, replace

import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments.jobs import reload
from experiments.running import isolation
from experiments.running.isolation import launcher
from experiments.settings.preset import load_preset
from tests.paths import ROOT

RUN = replace(load_preset("smoke").run, method="lora", initial_rank=4, target_rank=4, steps=4)


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("isolated")
    (folder / "config.json").write_text(json.dumps(asdict(RUN)))
    argv = [str(folder / name) for name in ("config.json", "record.json", "adapter")]
    assert isolation.do("experiments.jobs.run", argv, threads=1) == 0
    return folder


def test_a_run_in_its_own_process_counts_once_another_has_opened_its_adapter(done):
    argv = [str(done / name) for name in ("config.json", "record.json", "adapter", "result.json")]
    assert isolation.do("experiments.jobs.reload", argv) == 0
    before, after = (
        json.loads((done / name).read_text()) for name in ("record.json", "result.json")
    )
    assert before["environment"]["threads"] == 1
    assert after["result"].pop("reload_max_difference") <= reload.TOLERANCE
    assert before == after


def test_an_adapter_that_is_not_what_was_trained_is_found(done, tmp_path):
    weights = load_file(done / "adapter" / "adapter_model.safetensors")
    folder = tmp_path / "adapter"
    folder.mkdir()
    for file in (done / "adapter").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    save_file(
        {name: 1.01 * w + 0.01 for name, w in weights.items()}, folder / "adapter_model.safetensors"
    )
    with pytest.raises(RuntimeError, match="reloaded logits differ"):
        reload.check_reload(RUN, folder)


def test_a_failure_has_a_status(tmp_path):
    assert (
        isolation.do(
            "experiments.jobs.run", [str(tmp_path / name) for name in ("none.json", "r.json", "f")]
        )
        == 1
    )


def test_a_job_ends_when_what_started_it_is_killed(tmp_path):
    (tmp_path / "sleeper.py").write_text(
        "import time\ndef main(arguments):\n    print('begun', flush=True)\n    time.sleep(600)\n"
    )
    paths = [str(tmp_path), str(ROOT)]
    program = """
from experiments.running import isolation
isolation.JOBS = ()  # nothing to import beforehand
if __name__ == "__main__":
    isolation.do("sleeper", [])
"""
    (tmp_path / "program.py").write_text(program)
    process = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py")],
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(paths)},
    )
    assert process.stdout.readline() == b"begun\n"
    process.kill()
    process.communicate(timeout=60)  # ends when nobody is left who could print


def test_nothing_is_forked_where_there_is_a_gpu(monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    assert isolation.process_context().get_start_method() == "spawn"


def test_a_gpu_each_is_left_to_accelerate(monkeypatch):
    assert launcher(1) == []
    assert launcher(2)[0] == "torch.distributed.run"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    command = launcher(8)
    assert command[0] == "accelerate.commands.launch"
    assert command[command.index("--num_processes") + 1] == "8"
    assert command[-1] == "-m"


def test_what_a_job_prints_goes_to_the_log_and_nothing_later_does(tmp_path, capfd):
    log = tmp_path / "folder" / "log.txt"
    for word in ("first", "second"):
        with isolation.printing_to(log):
            sys.stdout.write(f"{word} by print\n")
            os.write(2, f"{word} past Python\n".encode())
    with pytest.raises(ValueError, match="broken"), isolation.printing_to(log):
        raise ValueError("broken")
    sys.stdout.write("seen again\n")
    os.write(2, b"that too\n")
    said = capfd.readouterr()
    assert said.out == "seen again\n"
    assert said.err == "that too\n"
    for word in ("first", "second"):
        assert f"{word} by print" in log.read_text()
        assert f"{word} past Python" in log.read_text()


def test_a_process_prints_to_its_log(tmp_path, capfd):
    log = tmp_path / "log.txt"
    missing = [str(tmp_path / name) for name in ("none.json", "r.json", "f")]
    assert isolation.do("experiments.jobs.run", missing, log=log) == 1
    assert "FileNotFoundError" in log.read_text()
    assert capfd.readouterr().err == ""
