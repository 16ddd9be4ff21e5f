"""Tables in general: rows of runs, their numbers with intervals, and sentences that compare them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.stats import bootstrap

from experiments.config import RunConfig
from theory.files import to_json, write_atomically

#: Labels that several tables share.
UNTUNED = "untuned model"
FULL = "full fine-tuning"
LORA = "LoRA at the target rank"
RSLORA = "LoRA at the target rank, rsLoRA"
DORA = "DoRA"
ADALORA = "AdaLoRA"
SKYLINE = "LoRA at the initial rank (skyline)"
PRUNED = "pruned by {}"
CUT = "skyline truncated by {}"

Results = Mapping[str, dict[str, Any]]
#: Chooses the settings of a run, such as its learning rate.
Tune = Callable[[RunConfig], RunConfig]


@dataclass(frozen=True)
class Row:
    """One row: a label, for each column the runs of all seeds, and what the paper prints there."""

    label: str
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
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    compare: tuple[tuple[str, str], ...] = ()
    note: str = ""

    @property
    def runs(self) -> list[RunConfig]:
        """All runs, each once."""
        return list({run.key: run for row in self.rows for runs in row.cells.values() for run in runs}.values())

    @property
    def columns(self) -> list[str]:
        """Names of the columns, in order of appearance."""
        return list(dict.fromkeys(column for row in self.rows for column in row.cells))


@dataclass(frozen=True)
class Cell:
    """Numbers of one cell: means over seeds, with a 95 % interval of the accuracy."""

    accuracy: float
    low: float
    high: float
    cross_entropy: float
    seeds: int
    correct: np.ndarray = field(repr=False)
    losses: np.ndarray = field(repr=False)


def cell(results: list[dict[str, Any]]) -> Cell:
    """Means; the interval is over seeds where there are several (bootstrap), else over examples (Wilson)."""
    correct = np.array([[c == "1" for c in r["correct"]] for r in results], dtype=float)
    accuracies = correct.mean(axis=1)
    low, high = results[0]["interval"] if len(results) == 1 else interval(accuracies)
    return Cell(
        accuracy=float(accuracies.mean()),
        low=low,
        high=high,
        cross_entropy=float(np.mean([r["cross_entropy"] for r in results])),
        seeds=len(results),
        correct=correct,
        losses=np.array([r.get("losses", []) for r in results]),
    )


def interval(sample: np.ndarray) -> tuple[float, float]:
    """95 % bootstrap interval of the mean; the mean itself where all are equal."""
    if np.ptp(sample) == 0:
        return float(sample[0]), float(sample[0])
    found = bootstrap((sample,), np.mean, method="percentile", rng=np.random.default_rng(0)).confidence_interval
    return float(found.low), float(found.high)


def cells(table: Table, results: Results) -> dict[tuple[str, str], Cell]:
    """The numbers of a table, by (label, column)."""
    return {
        (row.label, column): cell([results[run.key] for run in runs])
        for row in table.rows
        for column, runs in row.cells.items()
    }


def frame(table: Table, results: Results) -> pd.DataFrame:
    """One line per row; every column has accuracy in %, its interval, and the cross-entropy."""
    found, lines = cells(table, results), []
    for row in table.rows:
        line: dict[str, Any] = {"method": row.label}
        for column in table.columns:
            c = found.get((row.label, column))
            line[column] = _written(c) if c else ""
        if len({rate for r in table.rows for rate in _rates(r)}) > 1:
            line["learning rate"] = ", ".join(f"{rate:g}" for rate in _rates(row))
        if any(r.paper for r in table.rows):
            line["paper"] = row.paper
        lines.append(line)
    return pd.DataFrame(lines)


def sentences(table: Table, results: Results) -> list[str]:
    """What the numbers say."""
    found, text = cells(table, results), []
    for column in table.columns:
        ranked = sorted((c.cross_entropy, label) for (label, where), c in found.items() if where == column)
        best = max((c.accuracy, label) for (label, where), c in found.items() if where == column)
        text.append(
            f"{column}: least cross-entropy {ranked[0][1]} ({ranked[0][0]:.4f}), highest accuracy {best[1]} "
            f"({100 * best[0]:.1f} %)."
        )
        for one, other in table.compare:
            if (one, column) in found and (other, column) in found:
                text.append(_compare(one, other, found[one, column], found[other, column], column))
    if any(c.seeds == 1 for c in found.values()):
        text.append("Rows with one seed: their intervals are over test examples and say nothing about other seeds.")
    return text


def write(table: Table, results: Results, folder: Path, heading: str) -> list[Path]:
    """Markdown with the generated text, CSV of the plain numbers."""
    files = [folder / f"{table.name}.md", folder / f"{table.name}.csv"]
    markdown = frame(table, results).to_markdown(index=False, disable_numparse=True)
    said = "\n\n".join(sentences(table, results))
    legend = "Accuracy in % [95 % interval], cross-entropy in nats."
    note = f"{table.note}\n\n" if table.note else ""
    write_atomically(files[0], f"# {table.title}\n\n{heading} {legend}\n\n{markdown}\n\n{note}{said}\n")
    plain = [
        {"method": label, "column": column} | {k: getattr(c, k) for k in PLAIN}
        for (label, column), c in cells(table, results).items()
    ]
    write_atomically(files[1], pd.DataFrame(plain).to_csv(index=False))
    return files


PLAIN = ("accuracy", "low", "high", "cross_entropy", "seeds")


def record(table: Table) -> str:
    """Which result files a table stands on, as JSON."""
    return to_json({row.label: {c: [r.key for r in runs] for c, runs in row.cells.items()} for row in table.rows})


def _rates(row: Row) -> list[float]:
    """Learning rates of the runs of a row that were trained."""
    return sorted({r.learning_rate for runs in row.cells.values() for r in runs if r.method != "untuned"})


def _written(c: Cell) -> str:
    return f"{100 * c.accuracy:.1f} [{100 * c.low:.1f}, {100 * c.high:.1f}] {c.cross_entropy:.3f}"


def _compare(one: str, other: str, a: Cell, b: Cell, column: str) -> str:
    """The difference on the same examples and seeds, with its paired bootstrap interval over examples."""
    if a.seeds != b.seeds or a.losses.size == 0 or a.losses.shape != b.losses.shape:
        return f"{column}: {one} and {other} were not scored on the same seeds and examples."
    difference = (a.losses - b.losses).mean(axis=0)
    low, high = interval(difference)
    verdict = "lower than" if high < 0 else "higher than" if low > 0 else "not distinguishable from"
    return (
        f"{column}: the loss of {one} is {verdict} that of {other}: {difference.mean():+.4f} per example, paired 95 % "
        f"interval {low:+.4f} to {high:+.4f}; accuracy {100 * (a.accuracy - b.accuracy):+.1f} points."
    )
