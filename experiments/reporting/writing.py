"""Tables in files: Markdown with the numbers and the sentences that compare them, CSV of the plain numbers."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pandas as pd

from experiments.reporting.comparison import difference
from experiments.reporting.table import Cell, Label, Results, Row, Table, cells
from theory.records import write_atomically

#: Nats of which nothing is left in the digits that sentences print.
NOTHING = 5e-5
#: Columns of the CSV, attributes of a cell.
PLAIN = ("accuracy", "low", "high", "cross_entropy", "spread", "seeds")


def write(table: Table, results: Results, folder: Path, heading: str) -> list[Path]:
    """Write a table; returns the paths of its Markdown and its CSV.

    Args:
        table: the table.
        results: of all its runs, by key.
        folder: where the files go.
        heading: the setting in a sentence, which comes first.
    """
    numbers = cells(table, results)
    files = [folder / f"{table.name}.md", folder / f"{table.name}.csv"]
    parts = [
        f"# {table.title}",
        f"{heading} {_legend(numbers)}",
        frame(table, results).to_markdown(index=False, disable_numparse=True),
        *([table.note] if table.note else []),
        *sentences(table, results),
    ]
    write_atomically(files[0], "\n\n".join(parts) + "\n")
    plain = [
        {"method": label, "column": column} | {name: getattr(c, name) for name in PLAIN}
        for (label, column), c in numbers.items()
    ]
    write_csv(files[1], pd.DataFrame(plain))
    return files


def write_csv(file: Path, frame: pd.DataFrame) -> None:
    """Write plain numbers to twelve digits, of which processors agree; the last ones of a float differ."""
    write_atomically(file, frame.to_csv(index=False, float_format="%.12g"))


def _legend(numbers: Mapping[tuple[Label, str], Cell]) -> str:
    """What the numbers in the cells are."""
    seeds = sorted({c.seeds for c in numbers.values()})
    spread = " ± standard deviation over seeds." if seeds[-1] > 1 else "."
    return (
        f"Seeds: {' or '.join(map(str, seeds))}. Accuracy in % [95 % interval over examples], "
        f"cross-entropy in nats{spread}"
    )


def frame(table: Table, results: Results) -> pd.DataFrame:
    """One line per row; every column has accuracy in %, its interval, and the cross-entropy."""
    numbers = cells(table, results)
    # Rates and the paper's numbers have a column where they say anything.
    several_rates = len({rate for row in table.rows for rate in _rates(row)}) > 1
    printed = any(row.paper for row in table.rows)
    lines = []
    for row in table.rows:
        line: dict[str, Any] = {"method": row.label}
        for column in table.columns:
            c = numbers.get((row.label, column))
            line[column] = _written(c) if c else ""
        if several_rates:
            line["learning rate"] = ", ".join(f"{rate:g}" for rate in _rates(row))
        if printed:
            line["paper"] = row.paper
        lines.append(line)
    return pd.DataFrame(lines)


def sentences(table: Table, results: Results) -> list[str]:
    """What the numbers say, column by column: which rows are best, and how those differ that the table compares."""
    numbers = cells(table, results)
    text = []
    for column in table.columns:
        own = {label: c for (label, where), c in numbers.items() if where == column}
        if len(own) > 1:
            text.append(f"{column}: {_best(own)}")
        for one in dict.fromkeys(one for one, _ in table.compare):
            others = [other for first, other in table.compare if first == one]
            rivals = {other: own[other] for other in others if other in own}
            if one in own and rivals:
                text.append(_compare(f"{column}: {one}", own[one], rivals))
    if table.compare:
        text.append(
            "In brackets: the difference of the loss per example on the same examples and seeds and its paired 95 % "
            "bootstrap interval over examples, how many seeds have its sign, and the difference of accuracy in points. "
            "Lower or higher is said where that interval excludes 0 and every seed has the sign."
        )
    if any(c.seeds == 1 for c in numbers.values()):
        text.append(
            "One seed, where no ± is given: the intervals are over test examples and say nothing of other seeds."
        )
    return text


def _best(column: Mapping[Label, Cell]) -> str:
    """The rows of least cross-entropy and of highest accuracy."""
    entropy, lowest = min((c.cross_entropy, label) for label, c in column.items())
    accuracy, highest = max((c.accuracy, label) for label, c in column.items())
    return (
        f"least cross-entropy {lowest} ({entropy:.4f}), highest accuracy {highest} "
        f"({100 * accuracy:.1f} %)."
    )


def _rates(row: Row) -> list[float]:
    """Learning rates of the runs of a row that were trained."""
    return sorted(
        {r.learning_rate for runs in row.cells.values() for r in runs if r.method != "untuned"}
    )


def _written(c: Cell) -> str:
    spread = f" ± {c.spread:.3f}" if c.seeds > 1 else ""
    return f"{100 * c.accuracy:.1f} [{100 * c.low:.1f}, {100 * c.high:.1f}] {c.cross_entropy:.3f}{spread}"


def _paired(a: Cell, b: Cell) -> bool:
    """Whether losses are of the same examples and seeds; one run stands for all seeds where nothing is drawn."""
    return (
        a.losses.size > 0 and b.seeds in (a.seeds, 1) and a.losses.shape[1:] == b.losses.shape[1:]
    )


def _compare(name: str, one: Cell, others: Mapping[Label, Cell]) -> str:
    """One row against others: below which its loss lies, above which, and with which it is level or the same."""
    lower: list[str] = []
    higher: list[str] = []
    level: list[str] = []
    same: list[str] = []
    elsewhere: list[str] = []
    by_sign = {-1: lower, 0: level, 1: higher}
    for label, other in others.items():
        if not _paired(one, other):
            elsewhere.append(label)
            continue
        change = difference(one.losses, other.losses)
        group = same if max(-change.low, change.high) < NOTHING else by_sign[change.sign]
        seeds = f"; {change.agree} of {change.seeds} seeds" if change.seeds > 1 else ""
        points = 100 * (one.accuracy - other.accuracy)
        group.append(
            f"{label} ({change.mean:+.4f}, {change.low:+.4f} to {change.high:+.4f}{seeds}; {points:+.1f})"
        )
    verdicts = {
        "a lower loss than": lower,
        "a higher loss than": higher,
        "a loss that cannot be told from that of": level,
        "the same loss to four digits as": same,
        "not been scored on the same seeds and examples as": elsewhere,
    }
    said = [f"{verdict} {', '.join(rivals)}" for verdict, rivals in verdicts.items() if rivals]
    return f"{name} has {'; '.join(said)}."
