"""Puts the committed tables where the README quotes them: ``python -m experiments.reporting.readme``.

A line ``<!-- table: results/cpu/table1.md -->`` is followed by the table of that file; with ``## Heading`` after the
path, by the one below that heading; ``<!-- table: claims.json -->`` by that of the verdicts on the paper's claims,
``<!-- table: benchmarks -->`` by that of all benchmarks, ``<!-- table: benchmarks_gpu -->`` by that of their goals on a
GPU.  A test fails while the README holds another.
"""

import re
from pathlib import Path

from experiments.folders import EXPERIMENTS, ROOT
from experiments.reporting import benchmarks, claims
from theory.records import write_atomically

README = ROOT / "README.md"
#: Tables that are not in a file, by what names them.
MADE = {benchmarks.NAME: benchmarks.table, benchmarks.NAME_OF_GPU: benchmarks.gpu_table}
QUOTED = re.compile(r"(<!-- table: (\S+?)(?: (## [^\n]+?))? -->\n)((?:\|[^\n]*\n)*)")


def refreshed(text: str) -> str:
    """The text with every quoted table as its file has it now."""

    def quoted(match: re.Match[str]) -> str:
        line, path, heading, _ = match.groups(default="")
        if path in MADE:
            return line + MADE[path]()
        return line + table(EXPERIMENTS / path, heading)

    return QUOTED.sub(quoted, text)


def table(file: Path, heading: str = "") -> str:
    """The table that a marker names; see `first_table` for one in a Markdown file."""
    return claims.table(claims.load()) if file == claims.FILE else first_table(file, heading)


def first_table(file: Path, heading: str = "") -> str:
    """The first table of a Markdown file, or the first below a heading.

    Raises:
        ValueError: there is none.
    """
    text = file.read_text(encoding="utf-8")
    below = text.find(f"{heading}\n") if heading else 0
    rows = re.search(r"(?:^\|[^\n]*\n)+", text[below:], re.MULTILINE) if below >= 0 else None
    if rows is None:
        raise ValueError(f"{file}: no table{f' below {heading}' if heading else ''}")
    return rows[0]


if __name__ == "__main__":
    write_atomically(README, refreshed(README.read_text(encoding="utf-8")))
