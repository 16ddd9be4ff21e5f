"""What a worker makes of a run does not depend on what it did before; failures are reported, and workers replaced."""

import json
import os
from dataclasses import asdict, replace

import pytest

from experiments.running import determinism, isolation
from experiments.running.workers import Workers
from experiments.settings.preset import load_preset
from theory.records import to_json

SMOKE = load_preset("smoke")
#: A language model and an encoder, each with what its run could leave behind: a pruned adapter, all weights changed.
RUNS = {
    "pruned": replace(
        SMOKE.run,
        method="prune",
        criterion="prunedlora2025",
        initial_rank=6,
        target_rank=4,
        steps=8,
        interval=1,
    ),
    "full": replace(SMOKE.run, method="full", steps=4),
    "encoder": replace(
        SMOKE.understanding.run, method="prune", criterion="svd_kfac", initial_rank=4, target_rank=2
    ),
    "encoder, full": replace(SMOKE.understanding.run, method="full"),
}


@pytest.fixture
def workers():
    started = Workers(threads=1)
    yield started
    started.close()


def argv(folder, run):
    """Arguments of a run with a configuration of its own in a folder."""
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(to_json(asdict(run)))
    return [str(folder / name) for name in ("config.json", "result.json", "adapter")]


def result(folder):
    return json.loads((folder / "result.json").read_text())["result"]


def files(folder):
    """What a run has written besides its result, by name."""
    return {f.name: f.read_bytes() for f in (folder / "adapter").iterdir() if f.is_file()}


def test_a_run_is_the_same_alone_after_others_and_in_a_process_of_its_own(workers, tmp_path):
    order = ["encoder, full", "full", "pruned", "encoder", "pruned", "encoder", "full"]
    for i, name in enumerate(order):
        arguments = argv(tmp_path / f"{i} {name}", RUNS[name])
        assert workers.do("experiments.jobs.run", arguments).error == ""
    for name, run in RUNS.items():
        own = tmp_path / f"own {name}"
        assert isolation.do("experiments.jobs.run", argv(own, run), threads=1) == 0
        for i, done in enumerate(order):
            if done == name:
                shared = tmp_path / f"{i} {name}"
                assert determinism.differences(result(own), result(shared)) == []
                assert files(own) == files(shared)


def test_one_worker_does_all_jobs_and_memory_is_stored_only_where_it_is_the_runs(workers, tmp_path):
    seen = []
    for i in range(2):
        assert (
            workers.do("experiments.jobs.run", argv(tmp_path / str(i), RUNS["pruned"])).error == ""
        )
        (worker,) = [workers._idle.get_nowait()]
        seen.append(worker)
        workers._idle.put(worker)
        assert result(tmp_path / str(i))["peak_memory_bytes"] is None
    assert seen[0] is seen[1]
    isolation.do("experiments.jobs.run", argv(tmp_path / "own", RUNS["pruned"]), threads=1)
    assert result(tmp_path / "own")["peak_memory_bytes"] > 2**20


def test_a_failure_is_reported_and_its_worker_replaced(workers, tmp_path):
    missing = [str(tmp_path / name) for name in ("none.json", "result.json", "adapter")]
    outcome = workers.do("experiments.jobs.run", missing)
    assert "FileNotFoundError" in outcome.error
    assert not outcome.out_of_memory
    assert workers._idle.empty()
    assert workers.do("experiments.jobs.run", argv(tmp_path / "next", RUNS["full"])).error == ""


@pytest.mark.parametrize(
    ("ending", "said", "out_of_memory"),
    [
        ("os.kill(os.getpid(), 9)", "ended by SIGKILL", True),
        ("os._exit(3)", "ended with status 3", False),
        ("raise torch.OutOfMemoryError('no memory')", "no memory", True),
        ("raise RuntimeError('CUDA error: CUBLAS_STATUS_ALLOC_FAILED')", "CUBLAS", True),
        ("raise RuntimeError('shapes do not fit')", "do not fit", False),
    ],
)
def test_a_crash_is_reported_with_what_ended_the_process(
    workers, tmp_path, monkeypatch, ending, said, out_of_memory
):
    (tmp_path / "crash.py").write_text(f"import os, torch\ndef main(arguments):\n    {ending}\n")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    )
    outcome = workers.do("crash", [])
    assert said in outcome.error
    assert outcome.out_of_memory == out_of_memory
    assert workers._idle.empty()
