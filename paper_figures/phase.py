"""When starting high pays: the loss of pruned adapters less that of LoRA at the target rank, against the steps.

``python -m paper_figures.phase RESULTS_FOLDER OUTPUT_FOLDER``
"""

import sys
from itertools import cycle
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt

from paper_figures.style import save, set_style

#: The row that all others are drawn beside.
ZERO = "LoRA at the target rank"
#: Line styles of the rules, in the order of the table.
STYLES = ("-", ":")
#: Marks of the target ranks, in turn.
MARKS = "os^Dv"


def draw(results: Path, output: Path) -> list[Path]:
    """Draw the figure from ``phase_differences.csv``; writes PNG and PDF, returns their paths."""
    frame = pd.read_csv(results / "phase_differences.csv")
    frame = frame[frame["against"] == ZERO].copy()
    frame[["task", "steps", "target"]] = frame["column"].str.extract(
        r"^(.*), (\d+) steps, to (\d+)$"
    )
    frame = frame.astype({"steps": int, "target": int})
    set_style()
    tasks = list(dict.fromkeys(frame["task"]))
    targets = sorted(frame["target"].unique())
    colours = dict(zip(targets, sns.color_palette("colorblind", len(targets)), strict=True))
    marks = dict(zip(targets, cycle(MARKS), strict=False))
    styles = dict(zip(dict.fromkeys(frame["method"]), STYLES, strict=True))
    figure, panels = plt.subplots(
        1,
        len(tasks),
        figsize=(3.2 * len(tasks) + 1.4, 3.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, task in zip(panels[0], tasks, strict=True):
        axes.axhline(0.0, color="0.6", linewidth=0.8)
        for (method, target), part in frame[frame["task"] == task].groupby(["method", "target"]):
            part = part.sort_values("steps")
            spread = [part["mean"] - part["low"], part["high"] - part["mean"]]
            axes.errorbar(
                part["steps"],
                part["mean"],
                yerr=spread if part["low"].notna().all() else None,
                color=colours[target],
                linestyle=styles[method],
                marker=marks[target],
                markersize=3,
                capsize=2,
                label=f"{method}, to {target}",
            )
        axes.set_xscale("log")
        steps = sorted(frame["steps"].unique())
        axes.set_xticks(steps, [str(s) for s in steps])
        axes.minorticks_off()
        axes.set(xlabel="optimiser steps", title=task.replace("_", " "))
    panels[0][0].set_ylabel("loss less that of LoRA at the target rank")
    figure.legend(
        *panels[0][0].get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        fontsize="small",
    )
    return save(figure, output, "phase")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
