"""Tables in files: Markdown with the numbers and the differences of rows, CSV of the plain numbers and of those."""

import re
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from experiments.reporting.seeds import (
    SeedDifference,
    Verdict,
    deviations,
    difference_over_seeds,
    verdicts,
)
from experiments.reporting.table import Cell, Label, Results, Row, Table, cells
from theory.records import write_atomically

#: Losses of which nothing is left in the digits that are printed.
NOTHING = 5e-5
#: Standard deviations over seeds by which a gate must be passed.
GATE = 5
#: Above the table of differences.
DIFFERENCES = "## Differences between rows"
#: Columns of the CSV, attributes of a cell.
PLAIN = ("accuracy", "low", "high", "loss", "spread", "seeds")
#: One row against another in a column.
Pair = tuple[str, Label, Label]
#: Of a verdict that is none, in a table of differences.
UNSAID: dict[Verdict, str] = {"not decided": "", "not judged": ""}


def write(table: Table, results: Results, folder: Path, heading: str) -> list[Path]:
    """Write a table; returns the paths of its Markdown, of its CSV, and of the CSV of its differences if it has any.

    Args:
        table: the table.
        results: of all its runs, by key.
        folder: where the files go.
        heading: the setting in a sentence, which comes first.
    """
    numbers = cells(table, results)
    differences = compared(table, numbers)
    files = [folder / f"{table.name}.md", folder / f"{table.name}.csv"]
    parts = [
        f"# {table.title}",
        f"{heading} {_legend(numbers)}",
        frame(table, results).to_markdown(index=False, disable_numparse=True),
        *([table.note] if table.note else []),
        *sentences(table, results),
    ]
    if differences:
        written = difference_frame(differences).to_markdown(index=False, disable_numparse=True)
        parts += [DIFFERENCES, _how_it_is_judged(differences, table.margin), written]
    write_atomically(files[0], "\n\n".join(parts) + "\n")
    plain = [
        {"method": label, "column": column}
        | {name: getattr(c, name) for name in PLAIN}
        | {"by_seed": " ".join(f"{loss:.12g}" for loss in c.by_seed)}
        for (label, column), c in numbers.items()
    ]
    write_csv(files[1], pd.DataFrame(plain))
    if differences:
        files.append(folder / f"{table.name}_differences.csv")
        write_csv(files[2], _judged(differences, table.margin))
    return files


def _judged(differences: Mapping[Pair, SeedDifference], margin: float) -> pd.DataFrame:
    """One line for each comparison, with what may be said of it."""
    said = verdicts(differences)
    return pd.DataFrame(
        {
            "column": column,
            "method": one,
            "against": other,
            **_numbers_of(d),
            "margin": margin,
            "verdict": said[pair],
        }
        for pair, d in differences.items()
        for column, one, other in [pair]
    )


def _numbers_of(difference: SeedDifference) -> dict[str, float]:
    return {name: value for name, value in asdict(difference).items() if name != "judged"}


def first_table(file: Path) -> str:
    """The first table of a Markdown file.

    Raises:
        ValueError: there is none.
    """
    rows = re.search(r"(?:^\|[^\n]*\n)+", file.read_text(encoding="utf-8"), re.MULTILINE)
    if rows is None:
        raise ValueError(f"{file}: no table")
    return rows[0]


def write_csv(file: Path, frame: pd.DataFrame) -> None:
    """Write plain numbers to twelve digits, of which processors agree; the last ones of a float differ."""
    write_atomically(file, frame.to_csv(index=False, float_format="%.12g"))


def _legend(numbers: Mapping[tuple[Label, str], Cell]) -> str:
    """What the numbers in the cells are."""
    seeds = sorted({c.seeds for c in numbers.values()})
    kinds = {np.isnan(c.accuracy) for c in numbers.values()}
    meanings = []
    if False in kinds:
        meanings.append("accuracy in % [95 % interval over examples] and cross-entropy in nats")
    if True in kinds:
        meanings.append(
            "of planted tasks the mean squared distance from the teacher, relative to that of the untuned model"
        )
    spread = ", ± standard deviation over seeds" if seeds[-1] > 1 else ""
    return f"Seeds: {' or '.join(map(str, seeds))}. In the cells: {'; '.join(meanings)}{spread}."


def frame(table: Table, results: Results) -> pd.DataFrame:
    """One line per row; every column has accuracy in % with its interval, where there is one, and the loss."""
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
    """What the numbers say of single columns: whether rank matters there, and which rows are best."""
    numbers = cells(table, results)
    text = _of_gate(table, numbers)
    best = []
    for column in table.columns:
        own = {label: c for (label, where), c in numbers.items() if where == column}
        if len(own) > 1:
            best.append(f"- {column}: {_best(own)}")
    text += ["\n".join(best)] if best else []
    if any(c.seeds == 1 for c in numbers.values()):
        text.append("One seed, where no ± is given: it says nothing of other seeds.")
    return text


def difference_frame(differences: Mapping[Pair, SeedDifference]) -> pd.DataFrame:
    """One line for each pair of rows, one column for each of the table's: mean, interval and what may be said."""
    said = verdicts(differences)
    lines: dict[tuple[str, str], dict[str, str]] = {}
    for pair, d in differences.items():
        column, one, other = pair
        line = lines.setdefault((one, other), {"loss of": one, "less that of": other})
        line[column] = _difference(d, said[pair])
    return pd.DataFrame(list(lines.values())).fillna("")


def _difference(d: SeedDifference, said: Verdict) -> str:
    """One cell: the interval reaches as far on both sides of the mean."""
    if max(abs(d.mean), abs(d.low), abs(d.high)) < NOTHING:
        return "the same"
    half = f" ± {(d.high - d.low) / 2:.4f}" if d.seeds > 1 else ""
    word = UNSAID.get(said, f" **{said}**")
    return f"{d.mean:+.4f}{half}{word}"


def compared(table: Table, numbers: Mapping[tuple[Label, str], Cell]) -> dict[Pair, SeedDifference]:
    """The differences of all rows that a table compares, in every column that both have, of the same seeds."""
    differences = {}
    judged = _judged_columns(table, numbers)
    for column in table.columns:
        for one, other in table.compare:
            a, b = numbers.get((one, column)), numbers.get((other, column))
            if a is not None and b is not None and b.seeds in (a.seeds, 1):
                differences[column, one, other] = difference_over_seeds(
                    a.by_seed, b.by_seed, table.margin, judged=column in judged
                )
    return differences


def _judged_columns(table: Table, numbers: Mapping[tuple[Label, str], Cell]) -> list[str]:
    """The columns in which the gate of the table lets anything be judged."""
    return [
        column
        for column in table.columns
        if table.gate is None or _behind(table.gate, column, numbers) > GATE
    ]


def _behind(
    gate: tuple[Label, Label], column: str, numbers: Mapping[tuple[Label, str], Cell]
) -> float:
    worse, better = (numbers[label, column].by_seed for label in gate)
    return deviations(worse, better)


def _of_gate(table: Table, numbers: Mapping[tuple[Label, str], Cell]) -> list[str]:
    """By how much the gate is passed in each column, and what follows."""
    if table.gate is None:
        return []
    judged = _judged_columns(table, numbers)
    parts = [
        f"{column}: {_in_words(_behind(table.gate, column, numbers))}"
        + ("" if column in judged else " (nothing is judged)")
        for column in table.columns
    ]
    worse, better = table.gate
    return [
        f"Does rank matter? {worse} is behind {better} by so many standard deviations over seeds, of which {GATE} are "
        f"asked for: {'; '.join(parts)}."
    ]


def _in_words(deviations: float) -> str:
    return "not known from one seed" if np.isnan(deviations) else f"{deviations:.1f}"


def _how_it_is_judged(differences: Mapping[Pair, SeedDifference], margin: float) -> str:
    count = sum(difference.judged for difference in differences.values())
    if not count:
        return "Differences of losses and their 95 % t-intervals over seeds; none is judged."
    return (
        "Differences of losses and their 95 % t-intervals over seeds. **Lower** or **higher** is said where a paired "
        f"t-test over seeds tells it from 0 at 5 %, **level** where two one-sided tests tell it from ±{margin:g}, each "
        f"corrected by Holm's method for all {count} comparisons that are judged; where no word stands, nothing is "
        "decided."
    )


def _best(column: Mapping[Label, Cell]) -> str:
    """The rows of least loss and of highest accuracy."""
    loss, lowest = min((c.loss, label) for label, c in column.items())
    text = f"least loss {lowest} ({loss:.4f})"
    scored = [(c.accuracy, label) for label, c in column.items() if not np.isnan(c.accuracy)]
    if scored:
        accuracy, highest = max(scored)
        text += f", highest accuracy {highest} ({100 * accuracy:.1f} %)"
    return f"{text}."


def _rates(row: Row) -> list[float]:
    """Learning rates of the runs of a row that were trained."""
    return sorted(
        {r.learning_rate for runs in row.cells.values() for r in runs if r.method != "untuned"}
    )


def _written(c: Cell) -> str:
    spread = f" ± {c.spread:.3f}" if c.seeds > 1 else ""
    loss = f"{c.loss:.3f}{spread}"
    if np.isnan(c.accuracy):
        return loss
    return f"{100 * c.accuracy:.1f} [{100 * c.low:.1f}, {100 * c.high:.1f}] {loss}"
