"""Puts the verdicts on the paper's claims into the README: ``python -m experiments.reporting.readme``.

They are the table behind the line ``<!-- table: claims.json -->``.  A test fails while the README holds another.  All
other tables are in ``docs``, whose build makes them.
"""

import re

from experiments.folders import ROOT
from experiments.reporting import claims
from theory.records import write_atomically

README = ROOT / "README.md"
QUOTED = re.compile(r"(?<=<!-- table: claims\.json -->\n)(?:\|[^\n]*\n)*")


def refreshed(text: str) -> str:
    """The text with the verdicts as ``claims.json`` has them now.

    Raises:
        ValueError: it has no place for them.
    """
    new, places = QUOTED.subn(lambda _: claims.table(claims.load()), text)
    if places != 1:
        raise ValueError("the README must have one line <!-- table: claims.json -->")
    return new


if __name__ == "__main__":
    write_atomically(README, refreshed(README.read_text(encoding="utf-8")))
