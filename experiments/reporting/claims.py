"""The paper's claims as data: each with a verdict, the condition under which it holds, and the numbers it rests on.

``experiments/claims.json`` has them; what the README and ``docs`` say of verdicts is made from it, and a test checks
every piece of evidence against the committed results.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import Field

from experiments.folders import EXPERIMENTS, ROOT
from experiments.settings.validation import STRICT, validated

FILE = EXPERIMENTS / "claims.json"
Holds = Literal["holds", "holds if", "not decided", "fails"]
Line = dict[str, str]


@dataclass(frozen=True)
class Evidence:
    """What one committed file must say.

    Exactly one of the last three is given.

    Attributes:
        file: from the root of the repository: a CSV, or the JSON of the statements.
        where: values of columns by which one line of it is found.
        verdict: what stands in that line's column of this name.
        within: a column, and the least and largest number that may stand there.
        below: a column, and the line whose number there is larger.
    """

    __pydantic_config__ = STRICT

    file: str
    where: Line
    verdict: str | None = None
    within: tuple[str, float, float] | None = None
    below: tuple[str, Line] | None = None


@dataclass(frozen=True)
class Claim:
    """One claim of the paper.

    Attributes:
        claim: what the paper says, in a sentence.
        place: where.
        verdict: what these results say of it.
        finding: what was found, in a dozen words.
        condition: under which it holds, in a few sentences.
        pages: files that a reader opens to see more, from the root of the repository.
        command: that repeats the results.
        evidence: what the verdict rests on.
    """

    __pydantic_config__ = STRICT

    claim: str
    place: str
    verdict: Holds
    finding: str
    condition: str
    pages: tuple[str, ...]
    command: str
    evidence: Annotated[tuple[Evidence, ...], Field(min_length=1)] = field(kw_only=True)


@dataclass(frozen=True)
class Claims:
    """All of them."""

    __pydantic_config__ = STRICT

    claims: tuple[Claim, ...]


def load(file: Path = FILE) -> tuple[Claim, ...]:
    """All claims.

    Raises:
        ValueError: the file has unknown or missing keys, or values that do not fit.
    """
    return validated(Claims, json.loads(file.read_text(encoding="utf-8")), file.name).claims


def contradiction(evidence: Evidence) -> str | None:
    """What the file says instead; None where it says what the evidence does.

    Raises:
        ValueError: not exactly one line of the file is meant, or not exactly one thing is said of it.
    """
    said = (evidence.verdict, evidence.within, evidence.below)
    if sum(part is not None for part in said) != 1:
        raise ValueError(f"{evidence}: say one of verdict, within and below")
    lines = _lines(ROOT / evidence.file)
    line = _only(lines, evidence.where, evidence.file)
    if evidence.verdict is not None:
        found = line["verdict"]
        return None if found == evidence.verdict else f"{evidence}: {found}"
    if evidence.within is not None:
        column, low, high = evidence.within
        value = _number(line[column])
        return None if low <= value <= high else f"{evidence}: {value}"
    assert evidence.below is not None
    column, other = evidence.below
    own, larger = _number(line[column]), _number(_only(lines, other, evidence.file)[column])
    return None if own < larger else f"{evidence}: {own} is not below {larger}"


def table(claims: tuple[Claim, ...]) -> str:
    """The verdicts as a table in Markdown."""
    rows = [
        {"the paper says": c.claim, "verdict": f"**{c.verdict}**", "found here": c.finding}
        for c in claims
    ]
    return (
        pd.DataFrame(rows).to_markdown(index=False, tablefmt="pipe", colalign=["left"] * 3) + "\n"
    )


def _lines(file: Path) -> pd.DataFrame:
    if file.suffix == ".csv":
        return pd.read_csv(file)
    return pd.DataFrame(json.loads(file.read_text(encoding="utf-8"))["statements"])


def _number(cell: Any) -> float:
    """The number of a cell, or the one that stands before an interval in brackets."""
    return float(str(cell).partition(" [")[0])


def _only(lines: pd.DataFrame, where: Line, file: str) -> dict[str, Any]:
    """The one line that has these values.

    Raises:
        ValueError: there is none, or there are several.
    """
    chosen = lines
    for column, value in where.items():
        chosen = chosen[chosen[column].astype(str) == value]
    if len(chosen) != 1:
        raise ValueError(f"{file}: {len(chosen)} lines have {where}")
    return dict(chosen.iloc[0])
