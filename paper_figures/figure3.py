"""Figure 3: accuracy by target rank, one panel per initial rank, one line per rule, LoRA in each.

``python -m paper_figures.figure3 RESULTS_FOLDER OUTPUT_FOLDER``
"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from paper_figures.style import save, set_style

LORA = "LoRA at the target rank"


def draw(results: Path, output: Path) -> list[Path]:
    """Draw the figure from ``figure3.csv``; writes PNG and PDF, returns their paths."""
    frame = pd.read_csv(results / "figure3.csv")
    frame["target"] = frame["column"].str.extract(r"(\d+)")[0].astype(int)
    # Labels are "rule, from rank"; LoRA has no initial rank and belongs in every panel.
    parts = frame["method"].str.extract(r"^(.*), from (\d+)$")
    frame["rule"] = parts[0].fillna(LORA)
    frame["initial"] = parts[1].astype(float)
    set_style()
    initials = sorted(frame["initial"].dropna().unique())
    figure, panels = plt.subplots(
        1,
        len(initials),
        figsize=(2.6 * len(initials) + 1, 3.2),
        sharey=True,
        squeeze=False,
        layout="constrained",
    )
    for axes, initial in zip(panels[0], initials, strict=True):
        shown = frame[(frame["initial"] == initial) | (frame["rule"] == LORA)]
        for rule, part in shown.groupby("rule"):
            part = part.sort_values("target")
            style = {"linestyle": "--", "color": "0.4"} if rule == LORA else {}
            axes.plot(part["target"], 100 * part["accuracy"], marker="o", label=rule, **style)
        axes.set_xscale("log", base=2)
        targets = sorted(frame["target"].unique())
        axes.set_xticks(targets, [str(t) for t in targets])
        axes.set(xlabel="target rank", title=f"from rank {initial:.0f}")
    panels[0][0].set_ylabel("accuracy in %")
    panels[0][-1].legend(frameon=False, fontsize="small")
    return save(figure, output, "figure3")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
