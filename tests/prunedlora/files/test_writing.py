"""Whatever goes wrong while writing leaves nothing behind."""

import json
import multiprocessing
import os
import signal
from pathlib import Path

import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import save_file

from prunedlora import CompressConfig, compress_adapter
from prunedlora.errors import AdapterFileError, NonFiniteError, OutputError
from prunedlora.files.adapter_file import open_adapter
from tests.adapters_on_disk import edited, kohya, saved


def test_outputs_that_would_touch_something_are_refused(tmp_path):
    source = saved(tmp_path / "a")
    before = {p.name: p.read_bytes() for p in source.iterdir()}
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    for out in (source, source / "b", tmp_path / "dangling"):
        with pytest.raises(OutputError):
            compress_adapter(source, out, CompressConfig(rank=2))
    assert {p.name: p.read_bytes() for p in source.iterdir()} == before


@pytest.mark.parametrize("where", ["save_file", "load_file"])
@pytest.mark.parametrize("alone", [True, False])
def test_a_full_disk_leaves_nothing_behind(tmp_path, monkeypatch, where, alone):
    source = kohya(tmp_path / "a.safetensors") if alone else saved(tmp_path / "a")
    out = tmp_path / ("b.safetensors" if alone else "b")

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(f"prunedlora.files.writing.{where}", full)
    with pytest.raises(OutputError, match="No space left"):
        compress_adapter(source, out, CompressConfig(rank=2))
    assert [p.name for p in tmp_path.iterdir()] == [source.name]


def test_a_full_disk_at_the_last_step_leaves_nothing_behind(tmp_path, monkeypatch):
    source, rename = kohya(tmp_path / "a.safetensors"), Path.rename

    def full(self, target):
        if str(target).endswith("b.safetensors"):
            raise OSError(28, "No space left on device")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(OutputError, match="No space left"):
        compress_adapter(source, tmp_path / "b.safetensors", CompressConfig(rank=2))
    assert [p.name for p in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_file_that_differs_once_written_is_an_error(tmp_path, monkeypatch):
    def corrupt(tensors, file, metadata):
        save_file({k: v + 1e-6 for k, v in tensors.items()}, file, metadata)

    monkeypatch.setattr("prunedlora.files.writing.save_file", corrupt)
    with pytest.raises(OutputError, match="differs from memory"):
        compress_adapter(saved(tmp_path / "a"), tmp_path / "b", CompressConfig(rank=2))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_values_too_large_for_the_dtype_are_an_error(tmp_path):
    source = edited(tmp_path / "a", lambda t: [x.mul_(1e9) for x in t.values()])
    with pytest.raises(NonFiniteError, match="too large"):
        compress_adapter(source, tmp_path / "b", CompressConfig(rank=2, dtype="fp16"))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


def test_an_error_of_safetensors_is_one_of_the_output(tmp_path, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("No space left on device (os error 28)")

    monkeypatch.setattr("prunedlora.files.writing.save_file", full)
    with pytest.raises(OutputError, match="No space left"):
        compress_adapter(saved(tmp_path / "a"), tmp_path / "b", CompressConfig(rank=2))
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "loop/o", "a\nb"])
def test_a_name_that_the_system_refuses_is_an_error_for_both_ends(tmp_path, name):
    source = saved(tmp_path / "a")
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    with pytest.raises(OutputError, match="cannot write"):
        compress_adapter(source, f"{tmp_path}/{name}", CompressConfig(rank=2))
    with pytest.raises(AdapterFileError):
        open_adapter(f"{tmp_path}/{name}")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "loop"]


def race(source, out, rank, barrier, outcomes):
    torch.set_num_threads(1)
    barrier.wait()
    try:
        compress_adapter(source, out, CompressConfig(rank=rank))
        outcomes.put("written")
    except OutputError:
        outcomes.put("refused")


@pytest.mark.parametrize("alone", [True, False])
def test_of_two_runs_to_one_output_one_is_refused(tmp_path, alone):
    source = kohya(tmp_path / "a.safetensors") if alone else saved(tmp_path / "a")
    context = multiprocessing.get_context("fork")
    for turn in range(4):
        out = tmp_path / (f"{turn}.safetensors" if alone else str(turn))
        barrier, outcomes = context.Barrier(2), context.Queue()
        runs = [
            context.Process(target=race, args=(source, out, rank, barrier, outcomes))
            for rank in (1, 3)
        ]
        for run in runs:
            run.start()
        assert sorted(outcomes.get(timeout=60) for _ in runs) == ["refused", "written"]
        for run in runs:
            run.join()


def test_a_run_that_was_killed_between_its_two_files_can_be_repeated(tmp_path):
    source, out = kohya(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    child = os.fork()
    if child == 0:
        rename = Path.rename

        def killed(self, target):
            if str(target) == str(out):
                os.kill(os.getpid(), signal.SIGKILL)
            return rename(self, target)

        Path.rename = killed
        compress_adapter(source, out, CompressConfig(rank=2))
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert (tmp_path / "b.pruning_report.json").exists()
    assert not out.exists()
    report = compress_adapter(source, out, CompressConfig(rank=1))
    written = json.loads((tmp_path / "b.pruning_report.json").read_text())
    assert written["ranks"] == report.ranks


def test_a_file_of_the_user_in_the_place_of_the_report_is_not_replaced(tmp_path):
    source, report = kohya(tmp_path / "a.safetensors"), tmp_path / "b.pruning_report.json"
    report.write_text('{"mine": 1}')
    with pytest.raises(OutputError, match="exists already"):
        compress_adapter(source, tmp_path / "b.safetensors", CompressConfig(rank=2))
    assert report.read_text() == '{"mine": 1}'


def test_everything_is_on_the_disk_before_and_after_it_gets_its_name(tmp_path, monkeypatch):
    """Each rename stands between a flush of what is renamed and one of the folder."""
    steps = []
    flush, rename = os.fsync, Path.rename

    def flushed(descriptor):
        steps.append(("flush", str(Path(f"/proc/self/fd/{descriptor}").readlink())))
        flush(descriptor)

    def renamed(self, target):
        steps.append(("rename", str(self), str(target)))
        return rename(self, target)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(Path, "rename", renamed)
    compress_adapter(saved(tmp_path / "a"), tmp_path / "b", CompressConfig(rank=2))
    compress_adapter(
        kohya(tmp_path / "c.safetensors"), tmp_path / "d.safetensors", CompressConfig(rank=2)
    )
    renames = [i for i, step in enumerate(steps) if step[0] == "rename"]
    assert len(renames) == 3
    for i in renames:
        assert steps[i - 1] == ("flush", steps[i][1])
        assert steps[i + 1] == ("flush", str(tmp_path))
    assert ("flush", f"{steps[renames[0]][1]}/adapter_model.safetensors") in steps[: renames[0]]
