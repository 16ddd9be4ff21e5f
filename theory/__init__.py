"""What is proved about pruning rules, and how far it can be trusted.

One module per statement, in `theory.statements`: its docstring holds the statement, the assumptions and a proof that
stands on its own; its functions compute both sides of the inequality, on the library's own functions wherever the
library computes the thing.  `theory.checking` verifies every statement on random instances and by adversarial search,
`theory.report` writes what was found; ``python -m theory`` does both.  From a notebook:

>>> from theory import get_statement
>>> statement = get_statement("S7")
>>> result = statement.check(statement.extremal())
>>> bool(result.holds), round(result.ratio.item(), 3)
(True, 1.0)
"""

from theory import statements as statements  # registers all of them
from theory.checking.registry import Statement, available_statements, get_statement
from theory.checking.result import Result, Summary, compare

__all__ = ["Result", "Statement", "Summary", "available_statements", "compare", "get_statement"]
