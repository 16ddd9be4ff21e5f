"""The table of benchmarks says what their files hold."""

import json

import pytest

from experiments.folders import RESULTS
from experiments.reporting import benchmarks

FILES = sorted(RESULTS.glob("benchmark_*.json"))


@pytest.fixture
def folder(tmp_path):
    for file in FILES:
        (tmp_path / file.name).write_text(file.read_text())
    return tmp_path


def test_every_committed_benchmark_has_rows_and_every_row_a_file():
    names = {file.stem.removeprefix("benchmark_") for file in FILES}
    assert names == set(benchmarks.ROWS)
    table = benchmarks.table()
    for file in FILES:
        assert f"](experiments/results/{file.name})" in table
    for line in table.splitlines()[2:]:
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        # Whether it is reached is said where there is a goal, and nowhere else.
        assert len(cells) == 6
        assert (cells[4] == "") == (cells[5] == "")


def test_a_goal_that_is_missed_is_said_in_bold(folder):
    file = folder / "benchmark_compress.json"
    result = json.loads(file.read_text())
    before = benchmarks.table(folder)
    result["cases"]["smollm2"] |= {"reached": False, "ratio": 12.3}
    file.write_text(json.dumps(result))
    changed = set(benchmarks.table(folder).splitlines()) - set(before.splitlines())
    (line,) = (line for line in changed if "smollm2" in line)
    assert "12 times as fast" in line
    assert "**no**" in line


def test_a_benchmark_without_a_file_has_no_row(folder):
    (folder / "benchmark_event.json").unlink()
    assert "[event]" not in benchmarks.table(folder)
    assert "[step]" in benchmarks.table(folder)


def test_the_slowest_statistics_of_a_goal_are_shown(folder):
    file = folder / "benchmark_step.json"
    result = json.loads(file.read_text())
    result["rows"]["kfac"]["ratio"] = 7.5
    result["rows"]["fisher"]["ratio"] = 5.5
    file.write_text(json.dumps(result))
    lines = [line for line in benchmarks.table(folder).splitlines() if "[step]" in line]
    assert [("`fisher`" in a, "x 5.500" in a) for a in lines if "gradients" in a] == [(True, True)]
    assert [("`kfac`" in a, "x 7.500" in a) for a in lines if "activations" in a] == [(True, True)]
