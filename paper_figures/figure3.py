"""Figure 3: accuracy or loss by target rank, one panel per initial rank, one line per rule, LoRA in each.

``python -m paper_figures.figure3 RESULTS_FOLDER OUTPUT_FOLDER``
"""

import sys
from pathlib import Path

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt

from paper_figures.style import label_ends, save, scores, set_style

LORA = "LoRA at the target rank"
#: Rules, and what they are called at the end of their lines.
RULES = {
    "sparsegpt2023": "SparseGPT",
    "llmpruner2023, no recovery": "LLM-Pruner",
    "prunedlora2025, both factors recovered as printed": "PrunedLoRA as printed",
    "prunedlora2025, half of both": "PrunedLoRA, half recovered",
    "random, no recovery": "random, masked",
    "svd": "svd",
}


def draw(results: Path, output: Path) -> list[Path]:
    """Draw the figure from ``figure3.csv``; writes PNG and PDF, returns their paths."""
    frame = pd.read_csv(results / "figure3.csv")
    frame["target"] = frame["column"].str.extract(r"(\d+)")[0].astype(int)
    # Labels are "rule, from rank"; LoRA has no initial rank and belongs in every panel.
    parts = frame["method"].str.extract(r"^(.*), from (\d+)$")
    frame["rule"] = parts[0].fillna(frame["method"])
    frame["initial"] = parts[1].astype(float)
    frame["height"], reach, label = scores(frame)
    frame["below"], frame["above"] = reach
    set_style()
    initials = sorted(frame["initial"].dropna().unique())
    figure, panels = plt.subplots(
        1,
        len(initials),
        figsize=(2.3 * len(initials) + 1.6, 3.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    palette = sns.color_palette("colorblind", len(RULES)).as_hex()
    colours = dict(zip(RULES, palette, strict=True)) | {LORA: "#666666"}
    ends = {}
    for axes, initial in zip(panels[0], initials, strict=True):
        shown = frame[(frame["initial"] == initial) | (frame["rule"] == LORA)]
        for rule, part in shown.groupby("rule"):
            part = part.sort_values("target")
            axes.errorbar(
                part["target"],
                part["height"],
                yerr=part[["below", "above"]].to_numpy().T,
                marker="o",
                markersize=3,
                capsize=2,
                color=colours[rule],
                linestyle="--" if rule == LORA else "-",
            )
            ends[RULES.get(str(rule), LORA)] = float(part["height"].iloc[-1]), colours[rule]
        axes.set_xscale("log", base=2)
        targets = sorted(frame["target"].unique())
        axes.set_xticks(targets, [str(t) for t in targets])
        axes.minorticks_off()
        axes.set(xlabel="target rank", title=f"from rank {initial:.0f}")
    panels[0][0].set_ylabel(label)
    # The ends of the last panel, which has every line.
    label_ends(panels[0][-1], ends)
    return save(figure, output, "figure3")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
