"""The table of benchmarks says what their files hold."""

import json

import pytest

from experiments.folders import RESULTS
from experiments.reporting import benchmarks
from experiments.reporting.goals import GOALS, judged

FILES = sorted(f for f in RESULTS.glob("benchmark_*.json") if not f.stem.endswith("_gpu"))


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


def test_every_goal_for_a_gpu_has_a_row_that_says_not_run_where_there_is_no_result(folder):
    lines = benchmarks.gpu_table(folder).splitlines()[2:]
    goals = [goal for of_one in GOALS.values() for goal in of_one]
    assert len(lines) == len(goals)
    for line, goal in zip(lines, goals, strict=True):
        assert goal.what in line
        assert "not run" in line
        assert goal.asked in line
        assert "yes" not in line
        assert "**no**" not in line


@pytest.mark.parametrize(("seconds", "answer"), [(59.9, "yes"), (60.1, "**no**")])
def test_a_result_of_a_gpu_is_judged_by_its_goals(folder, seconds, answer):
    row = {
        "seconds": seconds,
        "floor_seconds": 3.0,
        "gibibytes_above_model": 7.5,
        "floor_gibibytes": 4.0,
    }
    result = {"rows": {"whole": row}}
    (folder / "benchmark_svd_fisher_gpu.json").write_text(json.dumps(result))
    first, second, *others = benchmarks.gpu_table(folder).splitlines()[2:]
    assert f"| {seconds} s" in first
    assert answer in first
    assert "[svd_fisher](experiments/results/benchmark_svd_fisher_gpu.json)" in first
    assert "| 7.5 GiB" in second
    assert "yes" in second
    assert all("not run" in line for line in others)
    assert [goal["reached"] for goal in judged("svd_fisher", result)] == [seconds <= 60, True]


def test_a_figure_that_a_result_does_not_have_is_not_run(folder):
    rows = {"svd": {"seconds": 0.5, "floor_seconds": 0.1}}
    (folder / "benchmark_event_gpu.json").write_text(json.dumps({"rows": rows}))
    lines = [line for line in benchmarks.gpu_table(folder).splitlines() if "[event]" in line]
    assert ["not run" in line for line in lines] == [True, False, True]
    assert [goal["value"] for goal in judged("event", {"rows": rows})] == [0.5]


def test_goals_read_what_the_benchmarks_write():
    """Results of a CPU have the same form."""
    for name, goals in GOALS.items():
        result = json.loads((RESULTS / f"benchmark_{name}.json").read_text())
        if name == "event":
            result["rows"]["prunedlora2025"].setdefault("times_published", 1.0)
        for goal in goals:
            assert goal.read(result) > 0
            assert goal.floor is None or goal.floor(result) > 0


def test_a_goal_of_at_least_is_missed_below_it():
    (goal,) = GOALS["together"]
    assert [goal.reached(value) for value in (149_999, 150_000, 200_000)] == [False, True, True]
    assert goal.asked == "at least 150,000 tokens/s"
    assert GOALS["event"][0].asked == "at most 40 ms"
