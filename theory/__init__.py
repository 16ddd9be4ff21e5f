"""What is proved about pruning rules, and how far it can be trusted.

One module per statement: its docstring holds the statement, the assumptions and a proof that stands on its own;
its functions compute both sides of the inequality, on the library's own functions wherever the library computes
the thing.  ``python -m theory`` verifies every statement on random instances and by adversarial search and writes
a report.  From a notebook:

>>> from theory import get_statement
>>> statement = get_statement("S7")
>>> result = statement.check(statement.extremal())
>>> bool(result.holds), round(result.ratio.item(), 3)
(True, 1.0)
"""

from theory import (
    closed_form,
    core_fisher,
    core_truncation,
    estimated_curvature,
    gauge,
    gradient_path,
    kronecker_recovery,
    price_of_ignoring_the_loss,
    printed_activation_bound,
    second_order_guarantee,
    sequential_elimination,
    softmax_bound,
    weight_perturbation,
    weighted_truncation,
)
from theory.registry import Statement, available_statements, get_statement
from theory.result import Result, Summary, compare

__all__ = [
    "Result",
    "Statement",
    "Summary",
    "available_statements",
    "closed_form",
    "compare",
    "core_fisher",
    "core_truncation",
    "estimated_curvature",
    "gauge",
    "get_statement",
    "gradient_path",
    "kronecker_recovery",
    "price_of_ignoring_the_loss",
    "printed_activation_bound",
    "second_order_guarantee",
    "sequential_elimination",
    "softmax_bound",
    "weight_perturbation",
    "weighted_truncation",
]
