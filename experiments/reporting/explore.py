"""What `notebooks/results.ipynb` shows: any rows, columns and seeds of a table, and how its rows differ.

Everything is read from the committed CSV files of the preset ``cpu``.
"""

from collections.abc import Sequence

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from experiments.folders import RESULTS
from experiments.reporting.forest import COLOURS, OPEN
from experiments.reporting.seeds import SeedDifference, difference_over_seeds, verdicts

FOLDER = RESULTS / "cpu"
#: The axis of a picture goes so much further than this share of all means; what lies beyond is in figures.
REACH = 2.0
MOST = 0.8


def tables() -> list[str]:
    """Names of the tables whose rows are compared over seeds."""
    suffix = "_differences"
    return sorted(file.stem.removesuffix(suffix) for file in FOLDER.glob(f"*{suffix}.csv"))


def losses(table: str) -> pd.DataFrame:
    """The mean loss of every run of a table: one line for each row, column and seed.

    Args:
        table: one of `tables`.

    Raises:
        ValueError: there is no such table; the message names those that there are.
    """
    if table not in tables():
        raise ValueError(f"no table {table!r}; there are: {', '.join(tables())}")
    frame = pd.read_csv(FOLDER / f"{table}.csv")
    frame["loss"] = frame.pop("by_seed").astype(str).str.split()
    frame = frame[["method", "column", "loss"]].explode("loss", ignore_index=True)
    frame["seed"] = frame.groupby(["method", "column"], sort=False).cumcount()
    return frame.astype({"loss": float})


def rows(table: str) -> list[str]:
    """The rows of a table, in its order."""
    return list(dict.fromkeys(losses(table)["method"]))


def columns(table: str) -> list[str]:
    """The columns of a table, in its order."""
    return list(dict.fromkeys(losses(table)["column"]))


def differences(
    table: str,
    column: str,
    against: str,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> pd.DataFrame:
    """The loss of each row less that of one row, with its interval over seeds and what may be said of it.

    What is said is corrected for the rows that are looked at, which are fewer than the comparisons of the table.

    Args:
        table: one of `tables`.
        column: one of `columns`.
        against: the row that the others are compared with.
        methods: rows; all that have the column by default.
        seeds: that count; all that both rows have by default.

    Raises:
        ValueError: a row, a column or a seed that is not there.
    """
    cells = losses(table)
    own = cells[cells["column"] == column].pivot(index="method", columns="seed", values="loss")
    asked = [name for name in (methods or rows(table)) if name != against]
    known = [name for name in asked if name in own.index]
    if against not in own.index or (methods and len(known) < len(asked)):
        raise ValueError(
            f"{table} has not all of these rows in the column {column!r}; it has: {', '.join(own.index)}"
        )
    if not set(seeds) <= set(own.columns):
        raise ValueError(f"{table} has the seeds {', '.join(map(str, own.columns))}")
    chosen = own[list(seeds or own.columns)]
    written = pd.read_csv(FOLDER / f"{table}_differences.csv")
    margin = float(written["margin"].max())
    # Where rank does not matter, nothing is said, whatever rows are chosen.
    judged = not (written.loc[written["column"] == column, "verdict"] == "not judged").any()
    found: dict[str, SeedDifference] = {}
    for name in known:
        one, other = chosen.loc[name].dropna(), chosen.loc[against].dropna()
        both = one.index.intersection(other.index)
        found[name] = difference_over_seeds(
            one[both].to_numpy(dtype=float),
            other[both].to_numpy(dtype=float),
            margin,
            judged=judged,
        )
    said = verdicts(found)
    lines = [
        {"method": name, "mean": d.mean, "low": d.low, "high": d.high, "seeds": d.seeds}
        | {"verdict": said[name]}
        for name, d in found.items()
    ]
    return pd.DataFrame(lines).set_index("method")


def picture(
    table: str,
    column: str,
    against: str,
    methods: Sequence[str] = (),
    seeds: Sequence[int] = (),
) -> Figure:
    """The same as a picture: a line for each row, left of zero where its loss is lower.

    Args:
        table: one of `tables`.
        column: one of `columns`.
        against: the row that the others are compared with.
        methods: rows; all that have the column by default.
        seeds: that count; all by default.

    Raises:
        ValueError: see `differences`.
    """
    frame = differences(table, column, against, methods, seeds)
    figure = Figure(figsize=(7.5, 1.6 + 0.26 * len(frame)), layout="constrained", dpi=80)
    axes = figure.subplots()
    # One row far from all others, or an interval of few seeds, would leave no room for the rest.
    reach = float(REACH * frame["mean"].abs().quantile(MOST)) or 1.0
    for y, (_, d) in enumerate(frame.iterrows()):
        colour = COLOURS[d["verdict"]]
        half = 0.0 if np.isnan(d["low"]) else d["high"] - d["mean"]
        face = "white" if d["verdict"] in OPEN else colour
        mark = "s" if d["verdict"] == "level" else "o"
        axes.errorbar(d["mean"], y, xerr=half, fmt=mark, color=colour, mfc=face, capsize=2)
        if abs(d["mean"]) > reach:
            edge = reach if d["mean"] > 0 else -reach
            side = "right" if d["mean"] > 0 else "left"
            axes.text(
                edge, y, f" {d['mean']:+.3f} ", color=colour, ha=side, va="center", fontsize=8
            )
    axes.axvline(0, color="#999999", linewidth=1)
    axes.set_yticks(range(len(frame)), frame.index, fontsize=8)
    axes.set_ylim(len(frame) - 0.4, -0.6)
    axes.set_xlim(-reach, reach)
    axes.set_xlabel(
        f"loss less that of: {against} ({unit(table, column)})\n95 % interval over seeds"
    )
    axes.set_title(f"{table}, {column}", fontsize=10)
    return figure


def unit(table: str, column: str) -> str:
    """Of the losses in a column."""
    frame = pd.read_csv(FOLDER / f"{table}.csv")
    scored = frame.loc[frame["column"] == column, "accuracy"].notna().any()
    return "nats" if scored else "share of the change that is left"
