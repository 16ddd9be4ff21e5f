"""All benchmarks in order, within given minutes; and what the three that use real data measure, in a small form."""

import json
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

from experiments.benchmarks import __main__ as everything
from experiments.benchmarks import decoding, svd_fisher, together
from experiments.benchmarks.machine import machine, most_memory, result_file, write
from experiments.offline.bundle import PROBLEMS
from experiments.settings.jobs import RunConfig
from prunedlora.adapters.modules import find_lora_modules
from prunedlora.statistics import measurement

ABLE = {"bytes_per_second": 1e9, "flops_per_second": 1e9}
TINY = RunConfig("tiny", "arithmetic", initial_rank=6, target_rank=2, batch_size=4, steps=40)


@pytest.fixture
def able(monkeypatch):
    for module in (decoding, svd_fisher, together):
        monkeypatch.setattr(module, "capability", lambda *_: ABLE)


@pytest.fixture
def done(tmp_path):
    """A folder with results of this commit, of another, and of another device."""
    here = machine("cpu")
    for name, changes in (
        ("event", {}),
        ("step", {"commit": "another"}),
        ("truncation", {"device": "another"}),
    ):
        content = {"environment": here | changes}
        (tmp_path / f"benchmark_{name}.json").write_text(json.dumps(content))
    return tmp_path


def test_what_is_of_this_commit_and_device_is_not_measured_again(done):
    asked = ("truncation", "compress", "event", "step")
    assert everything.missing(asked, "cpu", done) == ["truncation", "step", "compress"]
    assert everything.missing(("event",), "cpu", done, fresh=True) == ["event"]


def test_a_result_of_a_cpu_is_none_of_a_gpu(done, monkeypatch):
    monkeypatch.setattr(everything, "machine", lambda device: machine("cpu"))
    assert everything.missing(("event", "compress"), "cuda", done) == ["event"]
    assert result_file("event", "cuda:0", done) != result_file("event", "cpu", done)


def test_minutes_that_are_over_begin_nothing(monkeypatch, capsys):
    monkeypatch.setattr(everything, "measure", lambda *_: pytest.fail("begun"))
    asked = everything.Arguments("cpu", minutes=0.1, only=("event", "step"), fresh=True)
    assert everything.main(asked) == 1
    assert capsys.readouterr().out.count("not begun") == 2


def test_each_is_given_the_time_that_is_left_and_five_minutes_at_most(monkeypatch, capsys):
    given = []

    def measure(name, device, seconds):
        given.append((name, device, seconds))
        return "measured" if name == "event" else "failed with status 1"

    monkeypatch.setattr(everything, "measure", measure)
    asked = everything.Arguments("cpu", minutes=60, only=("step", "event"), fresh=True)
    assert everything.main(asked) == 1
    assert given == [("event", "cpu", 300.0), ("step", "cpu", 300.0)]
    given.clear()
    everything.main(replace(asked, minutes=1))
    assert [0 < seconds <= 60 for *_, seconds in given] == [True, True]
    assert "failed with status 1" in capsys.readouterr().out


def test_a_benchmark_that_takes_too_long_ends_with_what_it_started(monkeypatch, tmp_path):
    program = tmp_path / "slow.py"
    program.write_text(
        "import subprocess, sys, pathlib, time\n"
        "child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(100)'])\n"
        f"pathlib.Path({str(tmp_path / 'pid')!r}).write_text(str(child.pid))\n"
        "time.sleep(100)\n"
    )
    popen = subprocess.Popen
    monkeypatch.setattr(
        everything.subprocess,
        "Popen",
        lambda _, **options: popen([sys.executable, str(program)], **options),
    )
    assert everything.measure("event", "cpu", 3.0) == "ended after 3 s"
    state = popen(["ps", "-o", "stat=", "-p", (tmp_path / "pid").read_text()], stdout=-1)
    assert state.communicate()[0].strip() in (b"", b"Z")


def test_a_result_says_commit_and_load_and_no_goals_of_a_cpu(monkeypatch, tmp_path):
    monkeypatch.setattr(
        "experiments.benchmarks.machine.result_file", lambda name, device: tmp_path / name
    )
    write("event", "what", {"rank": 1}, {"row": {"seconds": 1.0}}, "cpu")
    found = json.loads((tmp_path / "event").read_text())
    assert "goals" not in found
    assert {"commit", "load", "packages"} <= found["environment"].keys()


def test_the_most_memory_is_that_of_the_call():
    def call():
        assert torch.ones(2**24).sum() > 0

    # Some pages may have been there before.
    assert 0.9 * 2**26 <= most_memory(call, "cpu") < 2**27


def test_svd_fisher_is_measured_to_the_rank_that_is_asked_for(able, monkeypatch):
    models = []
    adapted = svd_fisher.adapted

    def watched(*arguments):
        models.append(adapted(*arguments))
        return models[0]

    monkeypatch.setattr(svd_fisher, "adapted", watched)
    setting = svd_fisher.Setting(replace(TINY, target_modules=("all-linear",)), examples=12)
    whole = svd_fisher.measure(setting, "cpu")["whole"]
    model, batches = models[0]
    modules = find_lora_modules(model)
    assert {m.rank for m in modules} == {2}
    assert whole["modules"] == len(modules) == 14
    assert whole["samples"] == 12
    assert whole["tokens"] == sum(int(b["attention_mask"].sum()) for b in batches)
    assert 0 < whole["targets"] < whole["tokens"]
    assert whole["floor_seconds"] > 0
    assert whole["reached"]


def test_the_floor_of_svd_fisher_counts_two_passes_where_the_core_is_smaller():
    work = svd_fisher.Work(
        tokens=10, targets=4, modules=3, rank=512, to=64, samples=8, width=20, blocks=30, head=5
    )
    one_pass = 4 * 10 * 30 + 4 * 4 * 5 + 6 * 10 * 20 * 512
    assert work.passes_flops() == 2 * one_pass
    assert work.fitted == 8 * measurement.MAX_CORE**2
    assert work.kept_bytes() == 3 * (8 * 128**2 * 2 + 16 * 512**2)
    low = replace(work, rank=32, to=8)
    assert low.passes_flops() == 4 * 10 * 30 + 4 * 4 * 5 + 6 * 10 * 20 * 32
    assert low.kept_bytes() == 3 * (8 * 32**2 * 4 + 16 * 32**2)


def test_answers_are_timed(able):
    run = replace(TINY, initial_rank=4, target_rank=4)
    row = decoding.measure(decoding.Setting(run, problems=3), "cpu")["whole"]
    assert row["tokens_per_second"] == pytest.approx(3 * 6 / row["seconds"])
    assert row["floor_seconds"] > 0


def test_trainings_take_their_steps_at_once(able, tmp_path):
    setting = together.Setting(TINY, counts=(2,), seconds=0.5)
    rows = together.measure(setting, "cpu")
    assert rows["best"]["trainings"] == 2
    assert rows["best"]["tokens_per_second"] == rows["2 at once"]["tokens_per_second"] > 0


def test_a_training_that_the_others_do_not_join_is_an_error(tmp_path):
    together.meet(tmp_path / "a.json", 1)
    with pytest.raises(TimeoutError, match="not ready within 0 s"):
        together.meet(tmp_path / "a.json", 2, seconds=0.05)


def test_trainings_that_do_not_overlap_are_an_error():
    early, late = {"times": [0.0, 1.0], "tokens": [1]}, {"times": [2.0, 3.0], "tokens": [1]}
    with pytest.raises(RuntimeError, match="same time"):
        together.tokens_per_second([early, late])


def test_a_bundle_holds_the_problems_that_the_benchmarks_ask_for():
    settings = together.ON_CPU.run, together.ON_GPU.run
    asked = [run.steps * run.batch_size for run in settings]
    asked += [setting.examples for setting in (svd_fisher.ON_CPU, svd_fisher.ON_GPU)]
    # Those that are kept for testing are left out.
    assert max(asked) <= PROBLEMS - 2_000
