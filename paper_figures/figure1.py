"""Figure 1: accuracy or loss of plain LoRA by rank, with full fine-tuning as a line.

``python -m paper_figures.figure1 RESULTS_FOLDER OUTPUT_FOLDER``
"""

import sys
from pathlib import Path

import pandas as pd
from matplotlib import pyplot as plt

from paper_figures.style import save, scores, set_style


def draw(results: Path, output: Path) -> list[Path]:
    """Draw the figure from ``figure1.csv``; writes PNG and PDF, returns their paths."""
    frame = pd.read_csv(results / "figure1.csv")
    lora = frame[frame["method"].str.startswith("LoRA")]
    full = frame[frame["method"] == "full fine-tuning"].iloc[0]
    ranks = lora["method"].str.extract(r"(\d+)")[0].astype(int)
    set_style()
    figure, axes = plt.subplots(figsize=(4.5, 3.2), layout="constrained")
    heights, reach, label = scores(lora)
    axes.errorbar(ranks, heights, yerr=reach, marker="o", capsize=3, label="LoRA")
    line = float(scores(frame)[0][full.name])
    axes.axhline(line, linestyle="--", color="0.4", label="full fine-tuning")
    axes.set_xscale("log", base=2)
    axes.set_xticks(ranks, [str(r) for r in ranks])
    axes.set(xlabel="rank", ylabel=label)
    axes.legend(frameon=False, ncols=2, loc="lower center", bbox_to_anchor=(0.5, 1.0))
    return save(figure, output, "figure1")


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
