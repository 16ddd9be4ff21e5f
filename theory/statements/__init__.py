"""The statements, one module each; the number in a module's name is the key that all texts use.

S1 to S3 are about removing components, S4 to S6 about the paper's Proposition 2, S7 and S8 about what a rule that sees
activations only can and cannot lose, S9 and S10 about guarantees with estimated or noisy curvature, S11 and S12 about
truncation, S13 and S14 about what the paper's own recovery and its own curvature do, S15 about what a loss-aware choice
wins on average.  `attention` holds the attention head that S4 to S6 share.  Importing this package registers them all.
"""

from theory.statements import (
    s01_closed_form,
    s02_sequential_elimination,
    s03_gauge,
    s04_printed_activation_bound,
    s05_softmax_bound,
    s06_gradient_path,
    s07_price_of_ignoring_the_loss,
    s08_kronecker_recovery,
    s09_estimated_curvature,
    s09_second_order_guarantee,
    s10_weight_perturbation,
    s11_weighted_truncation,
    s12_core_fisher,
    s12_core_truncation,
    s13_double_compensation,
    s14_gradient_of_a,
    s15_average_gain,
)

__all__ = [
    "s01_closed_form",
    "s02_sequential_elimination",
    "s03_gauge",
    "s04_printed_activation_bound",
    "s05_softmax_bound",
    "s06_gradient_path",
    "s07_price_of_ignoring_the_loss",
    "s08_kronecker_recovery",
    "s09_estimated_curvature",
    "s09_second_order_guarantee",
    "s10_weight_perturbation",
    "s11_weighted_truncation",
    "s12_core_fisher",
    "s12_core_truncation",
    "s13_double_compensation",
    "s14_gradient_of_a",
    "s15_average_gain",
]
