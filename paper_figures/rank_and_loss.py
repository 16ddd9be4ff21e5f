"""Rank and training loss against the step by rule: the mean over seeds, and at the end its standard deviation.

``python -m paper_figures.rank_and_loss OUTPUT_FOLDER RESULT_FILE...``
"""

import json
import sys
from pathlib import Path
from typing import Any

import pandas as pd
from matplotlib import pyplot as plt

from paper_figures.style import label_ends, look, save, set_style

NAME = "rank_and_loss"
SMOOTHING = 10
#: Rules that are in the table only: more lines could not be told apart.
NOT_DRAWN = ("magnitude", "para2026")
#: Of the marks along a line, in steps.
MARKS_APART = 15


def draw(runs: list[Path], output: Path) -> list[Path]:
    """Draw the figure from result files of all seeds; writes PNG and PDF, returns their paths.

    Runs without training are left out, and those of `NOT_DRAWN`.
    """
    records = [json.loads(file.read_text()) for file in sorted(runs)]
    drawn = [record for record in records if record["config"]["criterion"] not in NOT_DRAWN]
    frame = pd.concat([_curve(record) for record in drawn])
    set_style()
    figure, (ranks, losses) = plt.subplots(
        2, 1, sharex=True, figsize=(6.0, 4.6), height_ratios=(1, 2.4), layout="constrained"
    )
    losses.set_yscale("log")
    last = int(frame["step"].max())
    ends = {}
    for i, (name, part) in enumerate(frame.groupby("run")):
        by_step = part.groupby("step")
        loss = by_step["loss"].mean()
        style = look(i)
        line = {key: style[key] for key in ("color", "linestyle")}
        ranks.step(loss.index, by_step["rank"].mean(), where="post", **line)
        marks = {"markevery": (2 * i, MARKS_APART), **style}
        losses.plot(loss.index, loss, linewidth=1.2, **marks)
        # Side by side beyond the last step, where they do not hide each other.
        spread = by_step["loss"].std().get(last)
        if pd.notna(spread):
            place = last + 2 + 1.5 * i
            losses.errorbar(
                place, loss[last], spread, color=style["color"], capsize=1.5, linewidth=1
            )
        ends[str(name)] = float(loss[last]), style["color"]
    ranks.set(ylabel="rank per module", ylim=(0, None))
    losses.set(
        xlabel="optimiser step",
        ylabel=f"training loss, mean of\n{SMOOTHING} steps (nats per token)",
    )
    losses.yaxis.set_major_formatter("{x:g}")
    losses.yaxis.set_minor_formatter("{x:g}")
    losses.tick_params(which="minor", labelsize="x-small")
    label_ends(losses, ends)
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
        options = "".join(f", {key} {value}" for key, value in config["options"].items())
        ranks = f"{config['initial_rank']}→{config['target_rank']}"
        name = f"{config['criterion']}{options} {ranks}"
    columns = {"step": steps, "rank": rank.to_numpy(), "loss": losses.to_numpy(), "run": name}
    return pd.DataFrame(columns)


if __name__ == "__main__":
    draw([Path(file) for file in sys.argv[2:]], Path(sys.argv[1]))
