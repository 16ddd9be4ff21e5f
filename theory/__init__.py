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

from theory.checking.registry import Statement, available_statements, get_statement
from theory.checking.result import Result, Summary, compare
from theory.statements import s01_closed_form as closed_form
from theory.statements import s02_sequential_elimination as sequential_elimination
from theory.statements import s03_gauge as gauge
from theory.statements import s04_printed_activation_bound as printed_activation_bound
from theory.statements import s05_softmax_bound as softmax_bound
from theory.statements import s06_gradient_path as gradient_path
from theory.statements import s07_price_of_ignoring_the_loss as price_of_ignoring_the_loss
from theory.statements import s08_kronecker_recovery as kronecker_recovery
from theory.statements import s09_estimated_curvature as estimated_curvature
from theory.statements import s09_second_order_guarantee as second_order_guarantee
from theory.statements import s10_weight_perturbation as weight_perturbation
from theory.statements import s11_weighted_truncation as weighted_truncation
from theory.statements import s12_core_fisher as core_fisher
from theory.statements import s12_core_truncation as core_truncation

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
