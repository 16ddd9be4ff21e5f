"""What refining after the cut gains, relative to truncation by the first criterion without it."""

from pathlib import Path
from typing import Any

import pandas as pd

from experiments.reporting.writing import write_csv
from experiments.settings.jobs import Refined, RunConfig
from theory.records import write_atomically


def write(
    preset: str,
    name: str,
    settings: Refined,
    run: RunConfig,
    records: list[dict[str, Any]],
    folder: Path,
) -> list[Path]:
    """Markdown and CSV, a row for each criterion with and without refining.

    Args:
        preset: name of the preset.
        name: of the one-shot experiment whose adapters are refined.
        settings: of the refining.
        run: that trained an adapter, of any seed.
        records: what was measured, for each adapter and criterion.
        folder: where the files go.
    """
    frame = increases(records)
    files = [folder / f"refined_{name}.{kind}" for kind in ("md", "csv")]
    seeds = len(settings.seeds)
    text = (
        f"# Refining after the cut, preset {preset}: {run.model} on {run.task}, rank {run.initial_rank}, "
        f"{seeds} seed{'s' * (seeds > 1)}\n\n"
        "Increase of the share of the planted change that is left over the unpruned adapter, on "
        f"{run.test_examples} test examples, mean over seeds. Refined: {settings.steps} steps of {run.batch_size} "
        f"of {settings.calibration_examples} examples, without their labels, towards the hidden states that the "
        f"unpruned adapter gives; rate and step chosen by {settings.held_out} others. Relative: what is lost, in the "
        f"last column the mean over ranks, divided by what {settings.criteria[0]} loses at the same rank.\n\n"
    )
    write_atomically(files[0], text + str(frame.to_markdown(index=False, floatfmt=".4f")) + "\n")
    write_csv(files[1], frame)
    return files


def increases(records: list[dict[str, Any]]) -> pd.DataFrame:
    """A row for each criterion with and without refining, a column for each rank, and all relative to the first row."""
    rows = pd.DataFrame([row for record in records for row in record["rows"]])
    ranks = list(dict.fromkeys(rows["rank"]))
    means = rows.groupby(["criterion", "rank"])[["cut_increase", "refined_increase"]].mean()
    lines = []
    for criterion in dict.fromkeys(rows["criterion"]):
        for label, column in (("", "cut_increase"), (", refined", "refined_increase")):
            losses = [means.loc[(criterion, rank), column] for rank in ranks]
            lines.append({"criterion": criterion + label} | dict(zip(ranks, losses, strict=True)))
    frame = pd.DataFrame(lines)
    relative = frame[ranks] / frame[ranks].iloc[0]
    frame = frame.assign(**{f"relative, rank {rank}": relative[rank] for rank in ranks})
    frame["relative"] = relative.mean(axis=1)
    return frame.rename(columns={rank: f"rank {rank}" for rank in ranks})
