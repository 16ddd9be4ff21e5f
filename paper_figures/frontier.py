"""Loss increase against rank by rule, one shot, no training after it; bars are standard errors.

``python -m paper_figures.frontier RESULTS_FOLDER OUTPUT_FOLDER NAME``
"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from paper_figures.style import label_ends, look, save, set_style

#: Rules whose lines lie on or beside those of others, and which are in the table only.
NOT_DRAWN = ("fisher", "adalora2023")


def draw(results: Path, output: Path, name: str) -> list[Path]:
    """Draw the figure from ``one_shot_NAME.csv``; writes PNG and PDF, returns their paths."""
    frame = pd.read_csv(results / f"one_shot_{name}.csv")
    frame = frame[~frame["criterion"].str.contains("literal|capped|damping")]
    frame = frame[~frame["criterion"].isin(NOT_DRAWN)]
    set_style()
    truncates = frame["criterion"].str.startswith("svd")
    # Recovery of B is kfac's own, so that it would be drawn twice.
    twice = (frame["criterion"] == "kfac") & (frame["recovery"] == "B by least squares")
    rest = frame[~truncates & ~twice & (frame["recovery"] != "none, masked")]
    recovery = rest["recovery"].replace(
        {"B by least squares": "B recovered", "own": "own recovery"}
    )
    shown = {"truncation family": (frame[truncates], frame[truncates]["criterion"])}
    if len(rest):
        labels = rest["criterion"] + ", " + recovery
        shown["choice among components, with recovery"] = (rest, labels)
    figure, panels = plt.subplots(
        1, len(shown), figsize=(4.6 * len(shown), 3.8), squeeze=False, layout="constrained"
    )
    for axes, (title, (part, labels)) in zip(panels[0], shown.items(), strict=True):
        axes.set(title=title, xlabel="rank", ylabel="increase of the test loss")
        axes.set_yscale("log" if (frame["test"] > 0).all() else "symlog")
        _lines(axes, part, labels)
    return save(figure, output, f"frontier_{name}")


def _lines(axes: Axes, frame: pd.DataFrame, labels: pd.Series) -> None:
    """One line for each label, named at its end; ranks fall from left to right, as they do in pruning."""
    ends = {}
    for i, (label, part) in enumerate(frame.groupby(labels)):
        part = part.sort_values("rank", ascending=False)
        style = look(i)
        axes.errorbar(part["rank"], part["test"], yerr=part["±"], capsize=2, **style)
        ends[str(label)] = float(part["test"].iloc[-1]), style["color"]
    ranks = sorted(frame["rank"].unique())
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(r) for r in ranks])
    axes.invert_xaxis()
    label_ends(axes, ends)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
