"""Tables in general: rows of runs, their numbers with intervals, and sentences that compare them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NewType

import numpy as np
import pandas as pd
from jaxtyping import Float

from experiments.reporting.comparison import difference, interval
from experiments.settings.jobs import RunConfig
from theory.records import to_json, write_atomically

#: What a row is called, and by which it is found and compared; see `experiments.tables.labels`.
Label = NewType("Label", str)
#: Nats of which nothing is left in the digits that sentences print.
NOTHING = 5e-5

Results = Mapping[str, dict[str, Any]]


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
    """

    name: str
    title: str
    rows: tuple[Row, ...]
    compare: tuple[tuple[Label, Label], ...] = ()
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
    """Numbers of one cell.

    Attributes:
        accuracy: mean over seeds.
        low: lower end of its 95 % interval over test examples.
        high: upper end.
        cross_entropy: mean over seeds, in nats.
        spread: standard deviation of the cross-entropy over seeds; nan for one.
        seeds: how many.
        correct: 1 where an answer is right, by seed and example.
        losses: of every example, by seed and example.
    """

    accuracy: float
    low: float
    high: float
    cross_entropy: float
    spread: float
    seeds: int
    correct: Float[np.ndarray, "seeds n"] = field(repr=False)
    losses: Float[np.ndarray, "seeds n"] = field(repr=False)


def cell(results: list[dict[str, Any]]) -> Cell:
    """Means over seeds; the interval is over examples: Wilson's for one seed, else a bootstrap of the seeds' means.

    Three seeds are too few to bootstrap: what differs between them is told by their standard deviation.
    """
    correct = np.array([[c == "1" for c in r["correct"]] for r in results], dtype=float)
    entropies = np.array([r["cross_entropy"] for r in results])
    low, high = results[0]["interval"] if len(results) == 1 else interval(correct.mean(axis=0))
    return Cell(
        accuracy=float(correct.mean()),
        low=low,
        high=high,
        cross_entropy=float(entropies.mean()),
        spread=float(entropies.std(ddof=1)) if len(results) > 1 else float("nan"),
        seeds=len(results),
        correct=correct,
        losses=np.array([r.get("losses", []) for r in results]),
    )


def cells(table: Table, results: Results) -> dict[tuple[Label, str], Cell]:
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
        if len(ranked) > 1:
            text.append(
                f"{column}: least cross-entropy {ranked[0][1]} ({ranked[0][0]:.4f}), highest accuracy {best[1]} "
                f"({100 * best[0]:.1f} %)."
            )
        for one in dict.fromkeys(one for one, _ in table.compare):
            others = {o: found[o, column] for first, o in table.compare if first == one and (o, column) in found}
            if (one, column) in found and others:
                text.append(_compare(f"{column}: {one}", found[one, column], others))
    if table.compare:
        text.append(
            "In brackets: the difference of the loss per example on the same examples and seeds and its paired 95 % "
            "bootstrap interval over examples, how many seeds have its sign, and the difference of accuracy in points. "
            "Lower or higher is said where that interval excludes 0 and every seed has the sign."
        )
    if any(c.seeds == 1 for c in found.values()):
        text.append(
            "One seed, where no ± is given: the intervals are over test examples and say nothing of other seeds."
        )
    return text


def write(table: Table, results: Results, folder: Path, heading: str) -> list[Path]:
    """Markdown with the generated text, CSV of the plain numbers."""
    files = [folder / f"{table.name}.md", folder / f"{table.name}.csv"]
    markdown = frame(table, results).to_markdown(index=False, disable_numparse=True)
    said = "\n\n".join(sentences(table, results))
    seeds = sorted({c.seeds for c in cells(table, results).values()})
    legend = (
        f"Seeds: {' or '.join(map(str, seeds))}. Accuracy in % [95 % interval over examples], cross-entropy in nats"
    )
    legend += " ± standard deviation over seeds." if seeds[-1] > 1 else "."
    note = f"{table.note}\n\n" if table.note else ""
    write_atomically(files[0], f"# {table.title}\n\n{heading} {legend}\n\n{markdown}\n\n{note}{said}\n")
    plain = [
        {"method": label, "column": column} | {k: getattr(c, k) for k in PLAIN}
        for (label, column), c in cells(table, results).items()
    ]
    write_atomically(files[1], pd.DataFrame(plain).to_csv(index=False))
    return files


PLAIN = ("accuracy", "low", "high", "cross_entropy", "spread", "seeds")


def record(table: Table) -> str:
    """Which result files a table stands on, as JSON."""
    return to_json({row.label: {c: [r.key for r in runs] for c, runs in row.cells.items()} for row in table.rows})


def _rates(row: Row) -> list[float]:
    """Learning rates of the runs of a row that were trained."""
    return sorted({r.learning_rate for runs in row.cells.values() for r in runs if r.method != "untuned"})


def _written(c: Cell) -> str:
    spread = f" ± {c.spread:.3f}" if c.seeds > 1 else ""
    return f"{100 * c.accuracy:.1f} [{100 * c.low:.1f}, {100 * c.high:.1f}] {c.cross_entropy:.3f}{spread}"


def _paired(a: Cell, b: Cell) -> bool:
    """Whether losses are of the same examples and seeds; one run stands for all seeds where nothing is drawn."""
    return a.losses.size > 0 and b.seeds in (a.seeds, 1) and a.losses.shape[1:] == b.losses.shape[1:]


def _compare(name: str, a: Cell, others: Mapping[Label, Cell]) -> str:
    """One row against others: below which its loss lies, above which, and with which it is level or the same."""
    verdicts: dict[str, list[str]] = {
        "a lower loss than": [],
        "a higher loss than": [],
        "a loss that cannot be told from that of": [],
        "the same loss to four digits as": [],
        "not been scored on the same seeds and examples as": [],
    }
    lower, higher, level, same, elsewhere = verdicts.values()
    for label, b in others.items():
        if not _paired(a, b):
            elsewhere.append(label)
            continue
        found = difference(a.losses, b.losses)
        seeds = f"; {found.agree} of {found.seeds} seeds" if found.seeds > 1 else ""
        points = 100 * (a.accuracy - b.accuracy)
        group = same if max(-found.low, found.high) < NOTHING else {-1: lower, 0: level, 1: higher}[found.sign]
        group.append(f"{label} ({found.mean:+.4f}, {found.low:+.4f} to {found.high:+.4f}{seeds}; {points:+.1f})")
    return (
        f"{name} has "
        + "; ".join(f"{verdict} {', '.join(rivals)}" for verdict, rivals in verdicts.items() if rivals)
        + "."
    )
