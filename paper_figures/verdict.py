"""Choice, recovery or schedule: the loss against the share of the learning rate left after the last event.

``python -m paper_figures.verdict RESULTS_FOLDER OUTPUT_FOLDER``
"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from paper_figures.style import label_ends, look, save, set_style

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
    for i, (row, label) in enumerate(SHOWN.items()):
        part = frame[frame["method"] == row].sort_values("left", ascending=False)
        style = look(i) | ({"color": "0.4"} if label.startswith("LoRA") else {})
        axes.errorbar(part["left"], part["loss"], yerr=part["spread"], capsize=2, **style)
        ends[label] = float(part["loss"].iloc[-1]), style["color"]
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
