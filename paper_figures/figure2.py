"""Figure 2: the loop of pruning during training, and the mask that columns of B and rows of A share.

``python -m paper_figures.figure2 RESULT_FILE OUTPUT_FOLDER``
"""

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from paper_figures.style import save, set_style

NAME = "figure2"


def draw(run: Path, output: Path) -> list[Path]:
    """Draw the figure from the result file of a run that was pruned; writes PNG and PDF, returns their paths.

    Raises:
        ValueError: nothing was pruned in the run.
    """
    record = json.loads(run.read_text())
    if not record["result"]["events"]:
        raise ValueError(f"{run}: nothing was pruned in this run")
    set_style()
    figure, axes = plt.subplots(
        1, 2, figsize=(7.5, 3.4), width_ratios=(1, 1.2), layout="constrained"
    )
    _loop(axes[0], record["config"])
    _mask(axes[1], record)
    return save(figure, output, NAME)


def alive(record: dict[str, Any], module: str) -> tuple[list[int], Bool[np.ndarray, "events rank"]]:
    """Steps of the events of a run, from 0 for its start, and the components of a module that are there after each."""
    rank = record["config"]["initial_rank"]
    events = record["result"]["events"]
    mask = np.ones((len(events) + 1, rank), dtype=bool)
    for i, event in enumerate(events, start=1):
        mask[i:, event["removed"][module]] = False
    return [0, *(event["step"] for event in events)], mask


def _loop(axes: Axes, config: dict[str, Any]) -> None:
    """Boxes from top to bottom, and an arrow that leads back."""
    boxes = (
        f"LoRA at rank {config['initial_rank']},\n{config['warmup_steps']} steps",
        f"K$_1$ = {config['interval']} steps of AdamW,\ngradients of B and A averaged",
        f"score all components of a module,\nremove K$_2$ = {config['per_event']} of them",
        "columns of B and rows of A to zero,\nthe others move to make up for them",
        f"at rank {config['target_rank']}: cut the tensors,\ntrain to step {config['steps']}",
    )
    heights = np.linspace(0.9, 0.1, len(boxes))
    for text, y in zip(boxes, heights, strict=True):
        frame = {"boxstyle": "round,pad=0.4", "facecolor": "0.95", "edgecolor": "0.4"}
        axes.text(0.45, y, text, ha="center", va="center", fontsize=7.5, bbox=frame)
    down = {"arrowstyle": "-|>", "color": "0.3"}
    for above, below in pairwise(heights):
        axes.annotate("", (0.45, below + 0.075), (0.45, above - 0.075), arrowprops=down)
    # Back from the fourth box to the second, while there is something to prune.
    right = 1.0
    axes.plot([0.88, right, right], [heights[3], heights[3], heights[1]], color="0.3", linewidth=1)
    axes.annotate("", (0.82, heights[1]), (right, heights[1]), arrowprops=down | {"shrinkA": 0})
    until = f"until rank {config['target_rank']}"
    axes.text(right + 0.04, heights[2], until, rotation=90, ha="left", va="center", fontsize=7.5)
    axes.set(xlim=(0, 1.15), ylim=(0, 1))
    axes.axis("off")


def _mask(axes: Axes, record: dict[str, Any]) -> None:
    """Components of the first module, a line for each event, with a white grid between them."""
    module = next(iter(record["result"]["events"][0]["removed"]))
    steps, mask = alive(record, module)
    axes.imshow(mask, aspect="auto", cmap="Blues", vmin=0, vmax=1.4, interpolation="none")
    axes.set_yticks(range(len(steps)), [str(step) for step in steps])
    axes.set(
        xlabel="component: column of B and row of A",
        ylabel="after the event at step",
        title=module.partition("model.")[2].removeprefix("model."),
    )
    axes.set_xticks(np.arange(mask.shape[1] + 1) - 0.5, minor=True)
    axes.set_yticks(np.arange(mask.shape[0] + 1) - 0.5, minor=True)
    axes.grid(which="minor", color="white", linewidth=0.6)
    axes.grid(which="major", visible=False)
    axes.tick_params(which="minor", length=0)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(sys.argv[2]))
