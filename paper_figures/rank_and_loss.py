"""Rank and training loss against the step, one line per run.

``python -m paper_figures.rank_and_loss OUTPUT_FOLDER RESULT_FILE...``
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt

from paper_figures.style import save, set_style

NAME = "rank_and_loss"
SMOOTHING = 10


def draw(runs: list[Path], output: Path) -> list[Path]:
    """Draw the figure from result files, those without training left out; writes PNG and PDF, returns their paths."""
    frame = pd.concat([_curve(json.loads(file.read_text())) for file in sorted(runs)])
    set_style()
    figure, axes = plt.subplots(
        2, 1, sharex=True, figsize=(5.5, 5.0), height_ratios=(1, 2), layout="constrained"
    )
    line = {
        "data": frame,
        "x": "step",
        "hue": "run",
        "style": "run",
        "dashes": True,
        "errorbar": None,
    }
    sns.lineplot(y="rank", ax=axes[0], legend=False, drawstyle="steps-post", **line)
    sns.lineplot(y="loss", ax=axes[1], **line)
    axes[0].set_ylabel("rank per module")
    axes[0].set_ylim(bottom=0)
    axes[1].set(
        xlabel="optimiser step",
        ylabel=f"training loss\n(mean of {SMOOTHING} steps, nats per token)",
        yscale="log",
    )
    axes[1].yaxis.set_major_formatter("{x:g}")
    axes[1].yaxis.set_minor_formatter("{x:g}")
    axes[1].legend(title=None, frameon=False, fontsize="small")
    return save(figure, output, NAME)


def _curve(file: dict[str, Any]) -> pd.DataFrame:
    """Step, rank in use at that step, and smoothed loss of one run; empty if it was not trained."""
    config = file["config"]
    result = file["result"]
    losses = pd.Series(result["train_loss"], dtype=float).rolling(SMOOTHING, min_periods=1).mean()
    steps = pd.RangeIndex(1, len(losses) + 1)
    rank = pd.Series(float(config["initial_rank"]), index=steps)
    for event in result["events"]:
        each = list(event["ranks"].values())
        rank.loc[event["step"] :] = sum(each) / len(each)
    name = f"LoRA {config['initial_rank']}"
    if config["criterion"]:
        name = f"{config['criterion']} {config['initial_rank']}→{config['target_rank']}"
    columns = {"step": steps, "rank": rank.to_numpy(), "loss": losses.to_numpy(), "run": name}
    return pd.DataFrame(columns)


if __name__ == "__main__":
    draw([Path(file) for file in sys.argv[2:]], Path(sys.argv[1]))
