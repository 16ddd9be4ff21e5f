"""What all figures share."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

#: Lines that can be told apart in a panel, at most.
MOST_LINES = 8
#: Least distance of two labels, as a share of the height.
APART = 0.055
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


def label_ends(axes: Axes, ends: Mapping[str, tuple[float, str]]) -> None:
    """Names to the right of the panel beside the ends of its lines, moved apart where they would overlap.

    Args:
        axes: the panel, with limits that stay.
        ends: by the name, where its line ends and its colour.
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
