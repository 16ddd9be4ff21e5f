"""All benchmarks in one table: what was measured, the floor, the goal, and whether it is reached.

It is made from their result files, and stands in ``docs/reproduction/cost.md``.  A benchmark without a result file has
no row.  What is to be reached on a GPU is a table of its own, with a row for every goal, run or not.
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.folders import RESULTS
from experiments.reporting.goals import GOALS, Goal, shown

Row = dict[str, str]


def table(folder: Path = RESULTS) -> str:
    """The table in Markdown, for a document at the root of the repository.

    Args:
        folder: with the result files.
    """
    rows = []
    for name, of in ROWS.items():
        file = folder / f"benchmark_{name}.json"
        if file.exists():
            result = json.loads(file.read_text(encoding="utf-8"))
            link = f"[{name}](experiments/results/{file.name})"
            rows += [{"benchmark": link} | row for row in of(result)]
    return _markdown(rows)


def gpu_table(folder: Path = RESULTS) -> str:
    """Every goal for a GPU, with what was measured or "not run".

    Args:
        folder: with the result files.
    """
    rows = []
    for name, goals in GOALS.items():
        file = folder / f"benchmark_{name}_gpu.json"
        result = json.loads(file.read_text(encoding="utf-8")) if file.exists() else None
        where = f"[{name}](experiments/results/{file.name})" if result else f"`{name}`"
        rows += [{"benchmark": where} | _of_gpu(goal, result) for goal in goals]
    return _markdown(rows)


def _of_gpu(goal: Goal, result: dict[str, Any] | None) -> Row:
    value = None if result is None else goal.value(result)
    if result is None or value is None:
        return _row(goal.what, "not run", "", goal.asked, None)
    least = shown(goal.floor(result), goal.unit) if goal.floor else ""
    return _row(goal.what, shown(value, goal.unit), least, goal.asked, goal.reached(value))


def _markdown(rows: list[Row]) -> str:
    columns = ["left"] * 6
    return pd.DataFrame(rows).to_markdown(index=False, tablefmt="pipe", colalign=columns) + "\n"


def _compress(result: dict[str, Any]) -> Iterator[Row]:
    for name, case in result["cases"].items():
        yield _row(
            f"{name}: {_modules(case['modules'])}, rank {case['rank']} to {case['target_rank']}, "
            "against `peft.convert_to_lora`",
            f"{_seconds(case['seconds'])}, {case['ratio']:.0f} times as fast",
            "",
            f"{case['wanted_ratio']} times",
            case["reached"],
        )


def _truncation(result: dict[str, Any]) -> Iterator[Row]:
    setting = result["setting"]
    for name, row in result["rows"].items():
        # The goal is set for one rank.
        goal = f"{setting['aim']:g} times" if "reached" in row else ""
        yield _row(
            f"truncation of {_modules(setting['modules'])} of {setting['d']} x {setting['d']}, {name} "
            "to an eighth, against dense SVD",
            f"{_seconds(row['seconds'])}, {row['times_dense']:.1f} times as fast",
            _seconds(row["floor_seconds"]),
            goal,
            row.get("reached"),
        )


def _event(result: dict[str, Any]) -> Iterator[Row]:
    setting = result["setting"]
    modules = setting["shapes"].partition(",")[0]
    for name, row in result["rows"].items():
        if "reached" in row:
            yield _row(
                f"event of `{name}`, {modules}, rank {setting['rank']}, against the naive way",
                f"{_seconds(row['seconds'])}, {row['times_naive']:.0f} times as fast",
                _seconds(row["floor_seconds"]),
                f"{setting['aim']:g} times",
                row["reached"],
            )
    others = {
        n: r for n, r in result["rows"].items() if "floor_seconds" in r and "reached" not in r
    }
    if others:
        slowest = max(others, key=lambda name: others[name]["seconds"])
        yield _row(
            f"the same by the {len(others)} other rules; the slowest, `{slowest}`",
            _seconds(others[slowest]["seconds"]),
            _seconds(others[slowest]["floor_seconds"]),
            "",
            None,
        )


def _statistics(result: dict[str, Any]) -> Iterator[Row]:
    setting = result["setting"]
    by_limit: dict[float, dict[str, Any]] = {}
    for name, row in result["criteria"].items():
        if row["collects"]:
            by_limit.setdefault(row["limit"], {})[name] = row
    for limit, rows in sorted(by_limit.items()):
        yield _slowest(rows, f"small Llama, rank {setting['rank']}", limit, "within_limit")


def _step(result: dict[str, Any]) -> Iterator[Row]:
    setting = result["setting"]
    rows = dict(result["rows"])
    plain = rows.pop("LoRA")
    shape = f"{setting['layers']} blocks of SmolLM2's shape, rank {setting['rank']}"
    yield _row(
        f"step of LoRA, {shape}",
        f"{_seconds(plain['seconds'])}, {plain['tokens_per_second']:.0f} tokens/s",
        _seconds(plain["floor_seconds"]),
        "",
        None,
    )
    for goal in sorted({row["goal"] for row in rows.values()}):
        part = {n: r for n, r in rows.items() if r["goal"] == goal and r["collects"]}
        yield _slowest(part, shape, goal, "reached")


def _whole_run(result: dict[str, Any]) -> Iterator[Row]:
    setting = result["setting"]
    ranks = f"rank {setting['high']} to {setting['low']}"
    pruned = {name: row for name, row in result["rows"].items() if "goal" in row}
    for name, row in pruned.items():
        yield _row(
            f"{setting['steps']} steps with {setting['events']} events of `{name}`, {ranks}: time, "
            "relative to LoRA at the low rank",
            f"x {row['times_low']:.3f} (x {row['times_high']:.3f} of LoRA at the high one)",
            f"x {row['floor_times_low']:.3f}",
            f"x {row['goal']:g} of the high one",
            row["reached"],
        )
    most = max(pruned, key=lambda name: pruned[name]["held_times_low"])
    yield _row(
        "the same: memory held after the last event, relative to LoRA at the low rank; the most, "
        f"`{most}`",
        f"x {pruned[most]['held_times_low']:.2f}",
        "x 1.00",
        f"x {setting['goal_of_memory']:g}",
        all(row["falls"] for row in pruned.values()),
    )


def _svd_fisher(result: dict[str, Any]) -> Iterator[Row]:
    row = result["rows"]["whole"]
    what = f"`svd_fisher` with its statistics, {row['modules']} modules of SmolLM2, rank {row['rank']} to {row['to']}"
    yield _row(
        what,
        f"{_seconds(row['seconds'])}, {row['gibibytes_above_model']:.2f} GiB above the model",
        f"{_seconds(row['floor_seconds'])}, {row['floor_gibibytes']:.2f} GiB",
        _seconds(row["goal"]),
        row["reached"],
    )


def _decoding(result: dict[str, Any]) -> Iterator[Row]:
    setting, row = result["setting"], result["rows"]["whole"]
    yield _row(
        f"answers to {setting['problems']} sums of {setting['new_tokens']} tokens, SmolLM2",
        f"{_seconds(row['seconds'])}, {row['tokens_per_second']:.0f} tokens/s",
        _seconds(row["floor_seconds"]),
        "",
        None,
    )


def _together(result: dict[str, Any]) -> Iterator[Row]:
    row = result["rows"]["best"]
    yield _row(
        f"{row['trainings']} trainings of the tiny model at once, by the clock of a busy machine",
        shown(row["tokens_per_second"], "tokens/s"),
        "",
        "",
        None,
    )


def _slowest(rows: dict[str, Any], where: str, goal: float, key: str) -> Row:
    """The criterion, of those that share a goal, whose statistics cost most."""
    name = max(rows, key=lambda name: rows[name]["ratio"])
    row = rows[name]
    floor = f"x {row['floor_ratio']:.3f}" if "floor_ratio" in row else ""
    what = "gradients" if goal < 1.1 else "activations"
    return _row(
        f"step with statistics of {what} at every step, {where}; the slowest, `{name}`",
        f"x {row['ratio']:.3f}",
        floor,
        f"x {goal:g}",
        row[key],
    )


def _row(what: str, measured: str, floor: str, goal: str, reached: bool | None) -> Row:
    answer = {None: "", True: "yes", False: "**no**"}[reached]
    return {"what": what, "measured": measured, "floor": floor, "goal": goal, "reached": answer}


def _modules(count: int) -> str:
    return f"{count} module{'s' * (count != 1)}"


def _seconds(value: float) -> str:
    return f"{value:.2f} s" if value >= 1 else f"{1000 * value:.3g} ms"


#: By the name of the benchmark, which is in that of its file.
ROWS: dict[str, Callable[[dict[str, Any]], Iterator[Row]]] = {
    "step": _step,
    "statistics": _statistics,
    "event": _event,
    "whole_run": _whole_run,
    "truncation": _truncation,
    "compress": _compress,
    "svd_fisher": _svd_fisher,
    "decoding": _decoding,
    "together": _together,
}
