"""Rank of every module over training, where one budget is shared by all modules: PARA's run of Table 7.

``python -m paper_figures.rank_per_layer RESULT_FILE OUTPUT_FOLDER``
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
import seaborn as sns
from matplotlib import pyplot as plt

from paper_figures.style import save, set_style


def draw(run: Path, output: Path) -> list[Path]:
    """Draw the figure from the run's result file; writes PNG and PDF, returns their paths."""
    frame = ranks(json.loads(run.read_text()))
    set_style()
    figure, axes = plt.subplots(figsize=(6.0, 1.2 + 0.17 * len(frame)), layout="constrained")
    sns.heatmap(
        frame,
        ax=axes,
        cmap="viridis",
        vmin=0,
        yticklabels=True,
        cbar_kws={"label": "rank"},
        rasterized=True,
    )
    axes.set(xlabel="after the event at this step", ylabel="")
    axes.tick_params(axis="y", labelsize=6)
    return save(figure, output, "rank_per_layer")


def ranks(record: dict[str, Any]) -> pd.DataFrame:
    """Rank by module (lines) and step (columns): 0, where training starts, and every event."""
    events = record["result"]["events"]
    table = {0: dict.fromkeys(events[0]["ranks"], record["config"]["initial_rank"])}
    table |= {event["step"]: event["ranks"] for event in events}
    frame = pd.DataFrame(table)
    frame.index = frame.index.str.replace(r"^base_model\.model\.(?:bert|model)\.", "", regex=True)
    return frame


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
