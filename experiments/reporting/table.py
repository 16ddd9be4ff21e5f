"""Tables in general: rows of runs, and the numbers of their cells."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, NewType

import numpy as np
from jaxtyping import Float

from experiments.reporting.comparison import mean_interval
from experiments.settings.jobs import RunConfig

#: What a row is called, and by which it is found and compared; see `experiments.tables.labels`.
Label = NewType("Label", str)
#: Results of runs by their keys, see `experiments.jobs.run.run`.
Results = Mapping[str, dict[str, Any]]


def loss_of(scores: Mapping[str, Any]) -> float:
    """The mean loss in scores of a split: nats, or of a planted task the share of the change that is left."""
    return float(scores["unexplained"] if "unexplained" in scores else scores["cross_entropy"])


@dataclass(frozen=True)
class Row:
    """One row: a label, for each column the runs of all seeds, and what the paper prints there."""

    label: Label
    cells: dict[str, tuple[RunConfig, ...]]
    paper: str = ""


@dataclass(frozen=True)
class Table:
    """A table or figure of the paper, or one of ours.

    Attributes:
        name: of its files.
        title: above it.
        rows: of runs.
        compare: labels of rows, the first compared with the second in every column that both have.
        note: what a reader must know.
        margin: losses of two rows that differ by less are level, in the unit of the loss.
        gate: two rows, of which the first must be behind the second for anything to be judged in a column.
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    compare: tuple[tuple[Label, Label], ...] = ()
    note: str = ""
    margin: float = 0.02
    gate: tuple[Label, Label] | None = None

    @property
    def runs(self) -> list[RunConfig]:
        """All runs, each once."""
        runs = (run for row in self.rows for cell in row.cells.values() for run in cell)
        return list({run.key: run for run in runs}.values())

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order of appearance."""
        return list(dict.fromkeys(column for row in self.rows for column in row.cells))

    def part(self, rows: Sequence[str], columns: Sequence[str]) -> "Table":
        """Some rows and columns; all of those of which none is named.

        Raises:
            ValueError: one that is named is not there; the message says which there are.
        """
        labels: list[str] = [row.label for row in self.rows]
        for asked, known, what in ((rows, labels, "row"), (columns, self.columns, "column")):
            for name in asked:
                if name not in known:
                    there = ", ".join(known)
                    raise ValueError(f"{self.name} has no {what} {name!r}; there are: {there}")
        chosen = [row for row in self.rows if not rows or row.label in rows]
        cells = [
            {name: runs for name, runs in row.cells.items() if not columns or name in columns}
            for row in chosen
        ]
        kept = [replace(row, cells=own) for row, own in zip(chosen, cells, strict=True)]
        return replace(self, rows=tuple(kept))


@dataclass(frozen=True)
class Cell:
    """Numbers of one cell.

    Attributes:
        accuracy: mean over seeds; nan where nothing is right or wrong.
        low: lower end of its 95 % interval over test examples.
        high: upper end.
        loss: mean over seeds, see `loss_of`.
        spread: standard deviation of the loss over seeds; nan for one.
        seeds: how many.
        by_seed: the loss of each seed.
    """

    accuracy: float
    low: float
    high: float
    loss: float
    spread: float
    seeds: int
    by_seed: Float[np.ndarray, " seeds"] = field(repr=False)


def cell(results: list[dict[str, Any]]) -> Cell:
    """Means over seeds; the interval is over examples: Wilson's for one seed, else a bootstrap of the seeds' means.

    Three seeds are too few to bootstrap: variation between seeds is reported as a standard deviation.

    Args:
        results: of the runs of one cell, one for each seed, on the same test examples.
    """
    losses = np.array([loss_of(r) for r in results])
    one = len(results) == 1
    accuracy = low = high = float("nan")
    if "correct" in results[0]:
        correct = np.array([[c == "1" for c in r["correct"]] for r in results], dtype=float)
        accuracy = float(correct.mean())
        low, high = results[0]["interval"] if one else mean_interval(correct.mean(axis=0))
    return Cell(
        accuracy=accuracy,
        low=low,
        high=high,
        loss=float(losses.mean()),
        spread=float("nan") if one else float(losses.std(ddof=1)),
        seeds=len(results),
        by_seed=losses,
    )


def cells(table: Table, results: Results) -> dict[tuple[Label, str], Cell]:
    """The numbers of a table, by (label, column)."""
    return {
        (row.label, column): cell([results[run.key] for run in runs])
        for row in table.rows
        for column, runs in row.cells.items()
    }
