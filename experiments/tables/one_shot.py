"""The ranking of all criteria by one-shot loss increase, over the seeds of a preset, and what it says in words."""

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.reporting.comparison import Difference, difference
from experiments.reporting.writing import write_csv
from experiments.settings.jobs import OneShot, RunConfig
from experiments.tasks import TASKS
from theory.intervals import interval, ratio_of_means
from theory.records import to_json, write_atomically

RECOVERY = {"own": "own", "none": "none, masked", "C_z": "B by least squares"}


def write(
    preset: str,
    name: str,
    settings: OneShot,
    run: RunConfig,
    records: list[dict[str, Any]],
    folder: Path,
) -> list[Path]:
    """Markdown and CSV of the ranking, and the paired comparisons as JSON.

    Args:
        preset: name of the preset.
        name: of the experiment in the preset.
        settings: of the experiment.
        run: that trained an adapter, of any seed.
        records: what was measured of each adapter.
        folder: where the files go.
    """
    frame = ranking(records)
    compared = comparisons(records)
    files = [folder / f"one_shot_{name}.{kind}" for kind in ("md", "csv", "json")]
    first = records[0]
    unpruned = {k: np.mean([r["unpruned"][k] for r in records]) for k in first["unpruned"]}
    scored = first["sentences"]
    planted = TASKS[run.task].planted is not None
    loss = "share of the planted change that is left" if planted else "cross-entropy"
    title = (
        f"# One-shot pruning, preset {preset}: {run.model} on {run.task}, {first['modules']} modules of "
        f"rank {run.initial_rank}, {run.steps} steps, {len(records)} seed{'s' * (len(records) > 1)}\n\n"
        f"Increase of the {loss} over the unpruned adapter ({unpruned['test']:.4f} on {scored['test']} test "
        f"examples, {unpruned['calibration']:.4f} on {scored['calibration']} of the "
        f"{settings.calibration_examples} calibration examples), mean over seeds; ± is the "
        "standard error over test examples. No training follows.\n"
    )
    parts = [title]
    for rank in sorted(set(frame["rank"]), reverse=True):
        part = frame[frame["rank"] == rank].drop(columns="rank")
        parts.append(f"## Rank {rank}\n\n{part.to_markdown(index=False, floatfmt='.4f')}\n")
    parts.append("## Truncation at every rank\n\n" + by_rank(frame) + "\n")
    parts.append("## What was found\n\n" + "\n\n".join(sentences(frame, compared)) + "\n")
    write_atomically(files[0], "\n".join(parts))
    write_csv(files[1], frame)
    write_atomically(files[2], to_json(compared))
    return files


def ranking(records: list[dict[str, Any]]) -> pd.DataFrame:
    """One line per criterion, recovery and rank; within a rank, the least loss first."""
    rows = pd.DataFrame(
        [{**row, "seed": i} for i, record in enumerate(records) for row in record["rows"]]
    )
    rows["criterion"] = [_named(row) for _, row in rows.iterrows()]
    rows["recovery"] = rows["recovery"].map(RECOVERY)
    columns = ["test_increase", "test_standard_error", "calibration_increase"]
    means = rows.groupby(["rank", "criterion", "recovery"])[columns].mean().reset_index()
    means = means.sort_values(["rank", "test_increase"], ascending=[False, True], ignore_index=True)
    means["test_standard_error"] /= len(records) ** 0.5
    return means.rename(
        columns={
            "test_increase": "test",
            "test_standard_error": "±",
            "calibration_increase": "calibration",
        }
    )


def by_rank(frame: pd.DataFrame) -> str:
    """The increase of the test loss by the rules that truncate, and its mean over the ranks, the area under the curve.

    Args:
        frame: of `ranking`.
    """
    truncating = frame[frame["criterion"].str.startswith("svd")]
    curves = truncating.pivot(index="criterion", columns="rank", values="test")
    curves.columns = [f"rank {rank}" for rank in curves.columns]
    mean = curves.mean(axis=1)
    curves = curves.assign(mean=mean, relative=mean / mean["svd"]).sort_values("mean")
    renamed = curves.rename(columns={"relative": "relative to svd"})
    return str(renamed.reset_index().to_markdown(index=False, floatfmt=".4f"))


def comparisons(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """`svd_kfac` and `svd_fisher` against `svd`, paired by sentence; increases are averaged over the seeds."""
    increases: dict[tuple[str, int], list[list[float]]] = {}
    for record in records:
        for row in record["rows"]:
            if "test_increases" in row:
                of_seeds = increases.setdefault((row["criterion"], row["rank"]), [])
                of_seeds.append(row["test_increases"])
    compared = []
    for (criterion, rank), of_seeds in increases.items():
        if criterion == "svd":
            continue
        own = np.array(of_seeds)
        others = np.array(increases["svd", rank])
        mine = own.mean(axis=0)
        plain = others.mean(axis=0)
        compared.append(
            {
                "criterion": criterion,
                "rank": rank,
                "increase": float(mine.mean()),
                "increase_of_svd": float(plain.mean()),
                "difference": difference(own, others)._asdict(),
                "ratio": float(mine.mean() / plain.mean()),
                "ratio_interval": list(interval(ratio_of_means, mine, plain)),
            }
        )
    return sorted(compared, key=lambda c: (c["criterion"], c["rank"]))


def sentences(frame: pd.DataFrame, compared: list[dict[str, Any]]) -> list[str]:
    """What the numbers say."""
    text = []
    for rank, part in frame.groupby("rank", sort=False):
        best = part.iloc[0]
        worst = part.iloc[-1]
        text.append(
            f"Rank {rank}: least loss with {best['criterion']} ({best['test']:+.4f}), most with {worst['criterion']}, "
            f"recovery {worst['recovery']} ({worst['test']:+.4f})."
        )
    for c in compared:
        change = Difference(**c["difference"])
        verdict = {-1: "less than", 0: "not distinguishably from", 1: "more than"}[change.sign]
        text.append(
            f"{c['criterion']} at rank {c['rank']} loses {verdict} svd: {c['increase']:+.4f} against "
            f"{c['increase_of_svd']:+.4f}, difference {change.mean:+.4f} (95 % bootstrap over test examples "
            f"{change.low:+.4f} to {change.high:+.4f}; {change.agree} of {change.seeds} seeds), ratio {c['ratio']:.2f} "
            f"({c['ratio_interval'][0]:.2f} to {c['ratio_interval'][1]:.2f})."
        )
    return text


def _named(row: pd.Series) -> str:
    options = ", ".join(f"{k} {v}" for k, v in row["options"].items())
    return f"{row['criterion']} ({options})" if options else row["criterion"]
