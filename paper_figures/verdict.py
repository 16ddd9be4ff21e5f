"""Choice, recovery or schedule: the loss against the share of the learning rate left after the last event.

``python -m paper_figures.verdict RESULTS_FOLDER OUTPUT_FOLDER``
"""

import sys
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt

from paper_figures.style import label_ends, save, set_style

#: Rows that are drawn, and what they are called at the end of their lines.
SHOWN = {
    "prunedlora2025, both factors recovered as printed": "PrunedLoRA as printed",
    "random, no recovery": "random, masked",
    "prunedlora2025, no recovery (published code)": "PrunedLoRA's choice, masked",
    "kfac": "kfac",
    "prunedlora2025, half of both": "PrunedLoRA, half recovered",
    "LoRA at the target rank": "LoRA at the target rank",
    "svd": "svd",
}


def draw(results: Path, output: Path) -> list[Path]:
    """Draw the figure from ``verdict.csv``; writes PNG and PDF, returns their paths."""
    frame = pd.read_csv(results / "verdict.csv")
    parts = frame["column"].str.extract(r"^to (\d+), (\d+)% left$")
    frame["target"], frame["left"] = parts[0].astype(float), parts[1].astype(float)
    frame = frame[frame["target"] == frame["target"].min()]
    set_style()
    figure, axes = plt.subplots(figsize=(5.6, 3.4), layout="constrained")
    ends = {}
    colours = sns.color_palette("colorblind", len(SHOWN)).as_hex()
    for (row, label), colour in zip(SHOWN.items(), colours, strict=True):
        part = frame[frame["method"] == row].sort_values("left", ascending=False)
        plain = label.startswith("LoRA")
        axes.errorbar(
            part["left"],
            part["loss"],
            yerr=part["spread"],
            marker="o",
            markersize=3,
            capsize=2,
            color="0.4" if plain else colour,
            linestyle="--" if plain else "-",
        )
        ends[label] = float(part["loss"].iloc[-1]), "0.4" if plain else colour
    shares = sorted(frame["left"].unique(), reverse=True)
    axes.set_xticks(shares, [f"{share:.0f} %" for share in shares])
    axes.invert_xaxis()
    axes.set(
        xlabel="learning rate left after the last event", ylabel="loss, of the untuned model's"
    )
    label_ends(axes, ends)
    return save(figure, output, "verdict")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
