"""Which runs are done, and which again."""

import shutil
from dataclasses import replace

import pytest

from experiments.running import runner as runner_module
from experiments.running.runner import MOST_ON_GPU, Runner, _memory_kind
from experiments.running.workers import Outcome
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import load_preset
from theory.records import write_atomically


def test_what_is_truncated_is_made_again_with_what_it_is_made_from(tmp_path, monkeypatch):
    runner, done = Runner(load_preset("smoke"), False, 1), []
    runner.folder, runner.artifacts = tmp_path / "results", tmp_path / "artifacts"

    def do(run):
        done.append(run.key)
        write_atomically(runner.file(run), '{"result": {}}')
        (runner.artifacts / run.key).mkdir(parents=True, exist_ok=True)

    monkeypatch.setattr(runner, "_run", do)
    svd = RunConfig("tiny", "arithmetic", "truncate", 8, 4, "svd")
    other = replace(svd, criterion="para2026")
    runner.results([svd])
    assert done == [svd.source.key, svd.key]
    shutil.rmtree(runner.artifacts)  # results alone, as in a fresh clone
    runner.results([svd])
    assert len(done) == 2
    runner.results([svd, other])
    assert done[2] == svd.source.key
    assert set(done[3:]) == {svd.key, other.key}
    runner.file(svd.source).unlink()
    runner.results([svd.source, svd])
    assert done[5:] == [svd.source.key, svd.key]


def in_folders(preset, folder, **settings):
    """A runner whose results and artifacts lie in a folder of the test."""
    runner = Runner(preset, False, **settings)
    runner.folder, runner.artifacts = folder / "results", folder / "artifacts"
    return runner


def test_workers_do_runs_and_another_process_checks_what_they_export(tmp_path):
    preset = load_preset("smoke")
    runner = in_folders(replace(preset, isolated=True), tmp_path, workers=2)
    lora = replace(preset.run, initial_rank=4, target_rank=4, steps=4)
    svd = replace(lora, method="truncate", criterion="svd", target_rank=2)
    other = replace(lora, seed=1)
    results = runner.results([svd, other])
    assert results[svd.key]["rank"] == 2
    assert all(r["reload_max_difference"] <= 1e-5 for r in results.values())
    assert not list(runner.artifacts.glob("*.unchecked.json"))


def test_a_run_that_found_too_little_memory_is_done_again_alone(tmp_path, monkeypatch):
    runner = in_folders(load_preset("smoke"), tmp_path, workers=2)
    outcomes = [Outcome("no memory left", True), Outcome(peak_bytes=5)]
    alone = []

    def do(module, config, record, folder, *source):
        alone.append(runner._admission.is_held_alone)
        assert not folder.exists()
        folder.mkdir(parents=True)  # what a run leaves that fails halfway
        outcome = outcomes.pop(0)
        if not outcome.error:
            write_atomically(record, '{"result": {"accuracy": 1}}')
        return outcome

    monkeypatch.setattr(runner, "_do", do)
    untuned = RunConfig("tiny", "arithmetic", "untuned")
    assert runner.results([untuned])[untuned.key] == {"accuracy": 1}
    assert alone == [False, True]


def test_a_failure_names_its_run_and_stops(tmp_path, monkeypatch):
    runner = in_folders(load_preset("smoke"), tmp_path, workers=1)
    monkeypatch.setattr(runner, "_do", lambda *_: Outcome("no memory left", True))
    untuned = RunConfig("tiny", "arithmetic", "untuned")
    with pytest.raises(SystemExit, match=rf"(?s)no memory left.*{untuned.key}.*failed"):
        runner.results([untuned])


def test_auto_fills_the_cores_of_a_cpu_and_the_memory_of_a_gpu(monkeypatch):
    preset = load_preset("gpu")
    monkeypatch.setattr("os.cpu_count", lambda: 16)
    on_cpu = Runner(preset, False, None)
    assert (on_cpu._workers, on_cpu._threads) == (16, 1)
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr(runner_module, "free_memory", lambda: 80 * 2**30)
    on_gpu = Runner(preset, False, None)
    assert (on_gpu._workers, on_gpu._threads) == (MOST_ON_GPU, 2)
    assert 70 * 2**30 < on_gpu._admission._capacity < 80 * 2**30
    # A number is taken as it is.
    assert Runner(preset, False, 3)._workers == 3


def test_runs_that_take_about_as_much_memory_are_of_one_kind():
    run = replace(load_preset("gpu").run, initial_rank=128, target_rank=64)
    alike = (replace(run, seed=1), replace(run, initial_rank=512), replace(run, learning_rate=1.0))
    others = (
        replace(run, method="full"),
        replace(run, method="untuned"),
        replace(run, method="truncate", criterion="svd"),
        replace(run, method="truncate", criterion="svd_kfac"),
        replace(run, batch_size=32),
        replace(run, model="minilm"),
    )
    assert {_memory_kind(r) for r in alike} == {_memory_kind(run)}
    assert len({_memory_kind(r) for r in (run, *others)}) == len(others) + 1
