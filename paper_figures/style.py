"""What all figures share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Least distance of two labels at the ends of lines, as a share of the height.
APART = 0.055
#: Lines that can be told apart in a panel, at most.
MOST_LINES = 8
_MARKS = "os^Dv<>P"
_DASHES = ("-", (0, (5, 1.5)), (0, (1, 1)), (0, (4, 1, 1, 1)))


def set_style() -> None:
    """Fonts and colours for print; no display is needed."""
    mpl.use("agg")
    sns.set_theme(context="paper", style="ticks", palette="colorblind")


def look(i: int) -> dict[str, Any]:
    """Colour, mark and dashes of a line, so that it is known in grey too.

    Args:
        i: which line; from `MOST_LINES` on they are the same again.
    """
    i %= MOST_LINES
    colours = sns.color_palette("colorblind", MOST_LINES).as_hex()
    return {
        "color": colours[i],
        "marker": _MARKS[i],
        "linestyle": _DASHES[i % len(_DASHES)],
        "markersize": 3.5,
    }


def scores(frame: pd.DataFrame) -> tuple[pd.Series, Any, str]:
    """What a figure shows of rows of a table.

    Args:
        frame: of a table's CSV.

    Returns:
        The accuracy in % where there is one, else the loss; how far its interval or its standard deviation over seeds
        reaches below and above, 2 × rows; and the label of the axis.
    """
    if frame["accuracy"].notna().all():
        reach = [frame["accuracy"] - frame["low"], frame["high"] - frame["accuracy"]]
        return 100 * frame["accuracy"], 100 * np.array(reach), "accuracy in %, 95 % interval"
    spread = frame["spread"].fillna(0.0)
    return frame["loss"], np.array([spread, spread]), "loss, ± sd over seeds"


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Names beside the ends of lines, moved apart where they would overlap.

    Args:
        axes: with the lines; its limits are final.
        ends: height and colour of each end, by name.
    """
    # In shares of the height, whatever the scale is.
    to_share = axes.transData + axes.transAxes.inverted()
    heights = {name: float(to_share.transform((1.0, y))[1]) for name, (y, _) in ends.items()}
    free = -float("inf")
    for name, height in sorted(heights.items(), key=lambda item: item[1]):
        free = max(height, free + APART)
        axes.annotate(
            name,
            (1.02, free),
            xycoords="axes fraction",
            va="center",
            color=ends[name][1],
            fontsize="small",
        )


def save(figure: Figure, output: Path, name: str) -> list[Path]:
    """Write a figure as PNG and PDF and close it; returns their paths."""
    sns.despine(figure)
    output.mkdir(parents=True, exist_ok=True)
    files = [output / f"{name}.png", output / f"{name}.pdf"]
    figure.savefig(files[0], dpi=200)
    figure.savefig(files[1], metadata={"CreationDate": None})
    plt.close(figure)
    return files
