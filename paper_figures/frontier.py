"""Loss increase against rank for every rule, one shot, no training after it; bars are standard errors.

``python -m paper_figures.frontier RESULTS_FOLDER OUTPUT_FOLDER NAME``
"""

import sys
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from paper_figures.style import save, set_style


def draw(results: Path, output: Path, name: str) -> list[Path]:
    """Draw the figure from ``one_shot_NAME.csv``; writes PNG and PDF, returns their paths."""
    frame = pd.read_csv(results / f"one_shot_{name}.csv")
    frame = frame[~frame["criterion"].str.contains("literal|capped|damping")]
    set_style()
    truncates = frame["criterion"].str.startswith("svd")
    # Recovery of B is kfac's own, so that it would be drawn twice.
    twice = (frame["criterion"] == "kfac") & (frame["recovery"] == "B by least squares")
    rest = frame[~truncates & ~twice & (frame["recovery"] != "none, masked")]
    recovery = rest["recovery"].str.replace("B by least squares", "of B")
    shown = {"truncation family": (frame[truncates], frame[truncates]["criterion"])}
    if len(rest):
        labels = rest["criterion"] + ", recovery " + recovery
        shown["choice among components, with recovery"] = (rest, labels)
    figure, panels = plt.subplots(
        1, len(shown), figsize=(4.25 * len(shown), 4.2), squeeze=False, layout="constrained"
    )
    for axes, (title, (part, labels)) in zip(panels[0], shown.items(), strict=True):
        _lines(axes, part, labels)
        axes.set(title=title, xlabel="rank", ylabel="increase of the test loss")
        axes.set_yscale("log" if (frame["test"] > 0).all() else "symlog")
        axes.legend(frameon=False, fontsize="x-small")
    return save(figure, output, f"frontier_{name}")


def _lines(axes: Axes, frame: pd.DataFrame, labels: pd.Series) -> None:
    """One line for each label; dashed once the colours are used up."""
    colours = len(mpl.rcParams["axes.prop_cycle"])
    for i, (label, part) in enumerate(frame.groupby(labels)):
        part = part.sort_values("rank")
        style: dict[str, Any] = {
            "marker": "o",
            "markersize": 3,
            "capsize": 2,
            "linestyle": "-" if i < colours else "--",
        }
        axes.errorbar(part["rank"], part["test"], yerr=part["±"], label=label, **style)
    ranks = sorted(frame["rank"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(r) for r in ranks])


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
