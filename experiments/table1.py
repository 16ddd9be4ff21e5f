"""Table 1: accuracy at one target rank, by method; rows, table and the text under it."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from experiments.config import Preset, RunConfig
from experiments.tables import CUT, LORA, PRUNED, SKYLINE, UNTUNED
from theory.files import write_atomically

TRUNCATED = CUT.format("SVD")


@dataclass(frozen=True)
class Row:
    """One row of a table: a label, and one run per seed."""

    label: str
    runs: tuple[RunConfig, ...]


def rows(preset: Preset) -> list[Row]:
    """The rows of Table 1, in the order in which they are run."""
    table, base = preset.table1, preset.run
    target = table.target_rank

    def row(label: str, **changes: Any) -> Row:
        return Row(label, tuple(replace(base, seed=seed, **changes) for seed in table.seeds))

    out = [
        Row(UNTUNED, (replace(base, method="untuned", seed=table.seeds[0]),)),
        row(LORA, method="lora", initial_rank=target, target_rank=target),
    ]
    for initial in table.initial_ranks:
        out.append(row(SKYLINE, method="lora", initial_rank=initial, target_rank=initial))
        out.append(row(TRUNCATED, method="truncate", criterion="svd", initial_rank=initial, target_rank=target))
        out += [
            row(PRUNED.format(c), method="prune", criterion=c, initial_rank=initial, target_rank=target)
            for c in table.criteria
        ]
    return out


def table(preset: Preset, results: dict[str, dict[str, Any]]) -> pd.DataFrame:
    """One line per row, averaged over seeds; `results` maps the key of a configuration to its result."""
    frame = pd.DataFrame([_line(row, [results[run.key] for run in row.runs]) for row in rows(preset)])
    return frame.astype({"initial rank": "Int64", "rank": "Int64"})


def findings(preset: Preset, results: dict[str, dict[str, Any]]) -> str:
    """What the numbers say, as sentences."""
    ordered = rows(preset)
    by_label = {(row.label, row.runs[0].initial_rank): row for row in ordered}
    untuned = results[ordered[0].runs[0].key]["accuracy"]
    worst = min((row for row in ordered[1:]), key=lambda row: _mean(row, results, "accuracy"))
    gain = 100 * (_mean(worst, results, "accuracy") - untuned)
    text = [f"The weakest trained row, {_name(worst)}, is {gain:+.1f} points from the untuned model."]
    for initial in preset.table1.initial_ranks:
        contest = [by_label[PRUNED.format(c), initial] for c in preset.table1.criteria]
        best = max(contest, key=lambda row: _mean(row, results, "accuracy"))
        text.append(f"From rank {initial}, the best criterion in accuracy is {best.runs[0].criterion}.")
        rivals = [ordered[1], by_label[SKYLINE, initial], by_label[TRUNCATED, initial]]
        own = by_label.get((PRUNED.format("prunedlora2025"), initial))
        text += [_compare(own, rival, results) for rival in rivals if own]
    if len(preset.table1.seeds) == 1:
        text.append("One seed: the intervals are over test examples and say nothing about other seeds.")
    return "\n\n".join(text) + "\n"


def write(preset: Preset, results: dict[str, dict[str, Any]], folder: Path) -> list[Path]:
    """Table 1 as Markdown, with what it says in words, and as CSV."""
    frame, run = table(preset, results), preset.run
    title = (
        f"Table 1, preset {preset.name}: {run.model} on {run.task}, {run.steps} steps of {run.batch_size} examples, "
        f"learning rate {run.learning_rate:g}, s = {run.scaling:g}, {run.test_examples} test examples"
    )
    markdown = frame.astype(object).where(frame.notna(), "").to_markdown(index=False)
    files = [folder / "table1.md", folder / "table1.csv"]
    write_atomically(files[0], f"# {title}\n\n{markdown}\n\n{findings(preset, results)}")
    write_atomically(files[1], frame.to_csv(index=False))
    return files


def _line(row: Row, results: list[dict[str, Any]]) -> dict[str, Any]:
    first, low, high = row.runs[0], *_interval(results)
    trained = bool(results[0]["train_loss"])
    return {
        "method": row.label,
        "initial rank": first.initial_rank or None,
        "rank": results[0].get("rank"),
        "accuracy %": round(100 * float(np.mean([r["accuracy"] for r in results])), 1),
        "95 % interval": f"{100 * low:.1f}–{100 * high:.1f}",
        "cross-entropy": round(float(np.mean([r["cross_entropy"] for r in results])), 4),
        "training loss": round(float(np.mean([_final_loss(r) for r in results])), 4) if trained else None,
        "adapter MB": round(results[0]["adapter_bytes"] / 1e6, 2) if "adapter_bytes" in results[0] else None,
        "training s": round(float(np.mean([r["train_seconds"] for r in results])), 1) if trained else None,
        "training peak GiB": round(max(r["peak_memory_bytes"] for r in results) / 2**30, 2) if trained else None,
        "seeds": len(results),
    }


def _interval(results: list[dict[str, Any]]) -> tuple[float, float]:
    """Over test examples for one seed (Wilson), over seeds for several (bootstrap)."""
    if len(results) == 1:
        return tuple(results[0]["interval"])
    sample = np.array([r["accuracy"] for r in results])
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    found = bootstrap((sample,), np.mean, method="percentile", rng=np.random.default_rng(0))
    return float(found.confidence_interval.low), float(found.confidence_interval.high)


def _compare(own: Row, rival: Row, results: dict[str, dict[str, Any]]) -> str:
    """Difference in accuracy on the same examples, with its paired bootstrap interval."""
    mine, theirs = _correct(own, results), _correct(rival, results)
    difference = 100 * (mine - theirs)
    if np.ptp(difference) == 0:
        low = high = float(difference[0])
    else:
        found = bootstrap((difference,), np.mean, method="percentile", rng=np.random.default_rng(0))
        low, high = found.confidence_interval
    sides = "above" if low > 0 else "below" if high < 0 else "not distinguishable from"
    return (
        f"{_name(own)} is {sides} {_name(rival)}: {difference.mean():+.1f} points of accuracy, "
        f"95 % interval over examples {low:+.1f} to {high:+.1f}; cross-entropy "
        f"{_mean(own, results, 'cross_entropy'):.4f} against {_mean(rival, results, 'cross_entropy'):.4f}."
    )


def _correct(row: Row, results: dict[str, dict[str, Any]]) -> np.ndarray:
    return np.concatenate([np.array(list(results[run.key]["correct"])).astype(float) for run in row.runs])


def _mean(row: Row, results: dict[str, dict[str, Any]], what: str) -> float:
    return float(np.mean([results[run.key][what] for run in row.runs]))


def _final_loss(result: dict[str, Any]) -> float:
    """Mean training loss over the last tenth of the steps."""
    losses = result["train_loss"]
    return float(np.mean(losses[-max(1, len(losses) // 10) :]))


def _name(row: Row) -> str:
    first = row.runs[0]
    ranks = (
        f"{first.initial_rank}→{first.target_rank}" if first.initial_rank != first.target_rank else first.target_rank
    )
    return f"{row.label} ({ranks})"
