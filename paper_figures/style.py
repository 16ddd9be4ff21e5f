"""What all figures share."""

from pathlib import Path

import matplotlib as mpl
import seaborn as sns
from matplotlib import pyplot as plt
from matplotlib.figure import Figure


def set_style() -> None:
    """Fonts and colours for print; no display is needed."""
    mpl.use("agg")
    sns.set_theme(context="paper", style="ticks", palette="colorblind")


def save(figure: Figure, output: Path, name: str) -> list[Path]:
    """Write a figure as PNG and PDF and close it; returns their paths."""
    sns.despine(figure)
    output.mkdir(parents=True, exist_ok=True)
    files = [output / f"{name}.png", output / f"{name}.pdf"]
    figure.savefig(files[0], dpi=200)
    figure.savefig(files[1], metadata={"CreationDate": None})
    plt.close(figure)
    return files
