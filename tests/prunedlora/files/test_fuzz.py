"""Some damaged files, and whether the program that tries many would notice what is wrong."""

import json
import random

import pytest
import torch
from safetensors.torch import load_file, save_file

from prunedlora import CompressConfig, compress_adapter
from tests.prunedlora.files import fuzz
from tests.prunedlora.files.mutations import KINDS, make, mutate
from tests.prunedlora.files.oracle import what_is_wrong


@pytest.mark.parametrize("start", range(4))
@pytest.mark.parametrize("kind", range(len(KINDS)), ids=KINDS)
def test_a_damaged_file_is_refused_or_lowered_right(tmp_path, kind, start):
    """The same for many more: ``bash tests/run_long.sh``."""
    tried = fuzz.try_one(kind + len(KINDS) * start, tmp_path)
    assert not tried.outcome.startswith("WRONG"), tried


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_lowered_right_before_it_is_damaged(tmp_path, kind):
    adapter = make(kind, tmp_path, random.Random(3))
    out = tmp_path / ("out" if adapter.is_dir() else "out.safetensors")
    report, reads = fuzz._compressed(kind, adapter, out, CompressConfig(rank=2))
    wrong = what_is_wrong(adapter, out, report.ranks, report.excluded, bare=False, of=reads)
    assert wrong is None


def test_damaging_is_the_same_each_time(tmp_path):
    contents = []
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        random_ = random.Random(5)
        file = make("kohya", tmp_path / name, random_)
        stories = [mutate(file, random_) for _ in range(3)]
        contents.append((stories, file.read_bytes()))
    assert contents[0] == contents[1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda t: t.update({"x.lora_up.weight": t["x.lora_up.weight"] * 1.00001}), "x is off"),
        (lambda t: t.update({"x.alpha": t["x.alpha"] * 1.00001}), "x is off"),
        (lambda t: t.update({"norm": t["norm"] + 1e-7}), "carried over otherwise: ..norm"),
        (lambda t: t.pop("norm"), "carried over otherwise: ..norm"),
        (lambda t: t.update({"new": torch.ones(1)}), "carried over otherwise: ..new"),
        (lambda t: [t.pop("x.lora_up.weight"), t.pop("x.lora_down.weight")], "otherwise"),
    ],
)
def test_a_wrong_result_would_be_noticed(tmp_path, change, message):
    torch.manual_seed(0)
    adapter, out = tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    tensors = {"x.lora_down.weight": torch.randn(4, 9), "x.lora_up.weight": torch.randn(7, 4)}
    save_file({**tensors, "x.alpha": torch.tensor(2.0), "norm": torch.ones(3)}, adapter)
    compress_adapter(adapter, out, CompressConfig(rank=2))
    assert what_is_wrong(adapter, out, {"x": 2}, [], bare=False) is None
    assert what_is_wrong(adapter, out, {"x": 3}, [], bare=False).startswith("x is off")
    written = load_file(out)
    change(written)
    save_file(written, out)
    found = what_is_wrong(adapter, out, {"x": 2}, [], bare=False)
    assert message.replace("..", "['") in found


def test_a_run_that_was_stopped_goes_on_and_ends_alike(tmp_path, capsys):
    journal = tmp_path / "runs" / "fuzz.jsonl"
    whole = fuzz.run(0, 6, tmp_path / "whole.jsonl")
    fuzz.run(0, 4, journal)
    lines = journal.read_text()
    journal.write_text(lines[:-9])  # as if it had been killed while it wrote
    outcomes = [item.outcome for item in fuzz.run(0, 6, journal)]
    assert outcomes == [item.outcome for item in whole]
    assert len(journal.read_text().splitlines()) == 7
    # Other code begins anew.
    header, *rest = journal.read_text().splitlines()
    other = {**json.loads(header), "code": "other"}
    journal.write_text("\n".join([json.dumps(other), *rest]) + "\n")
    fuzz.run(0, 1, journal)
    assert len(journal.read_text().splitlines()) == 2


def test_what_takes_too_long_is_stopped_and_counted(tmp_path, monkeypatch):
    def slow(*_):
        while True:
            pass

    monkeypatch.setattr(fuzz, "SECONDS", 0.2)
    monkeypatch.setattr(fuzz, "compress_adapter", slow)
    tried = fuzz.try_one(1, tmp_path)
    assert tried.outcome.startswith("WRONG: more than")
    assert fuzz.summary([tried])["outcomes"] == {"WRONG": 1}


def test_memory_is_measured(tmp_path, monkeypatch):
    def large(*_):
        torch.ones(60_000_000)
        raise fuzz.PrunedLoRAError("refused")

    monkeypatch.setattr(fuzz, "compress_adapter", large)
    assert 200 < fuzz.try_one(1, tmp_path).megabytes < 500


def test_no_committed_file_ended_wrong():
    result = json.loads(fuzz.RESULT.read_text())
    assert result["files"] == sum(result["outcomes"].values())
    assert "WRONG" not in result["outcomes"]
    assert result["outcomes"]["right"] > 0.2 * result["files"]
    assert set(result["kinds"]) == set(KINDS)
    assert result["most seconds"]["value"] < fuzz.SECONDS
    assert result["most megabytes"]["value"] * 1e6 < fuzz.MEMORY
