"""Finite numbers, and ties that are ties on every device."""

import torch
from jaxtyping import Float
from torch import Tensor


def is_finite(t: Tensor) -> bool:
    """Whether every entry is finite.

    >>> is_finite(torch.tensor([1e38, 3e38])), is_finite(torch.tensor([float("inf"), -float("inf")]))
    (True, False)
    """
    # One sum tells in most cases, in a fraction of the time; the sum of finite numbers may still overflow.
    return bool(torch.isfinite(t.sum(dtype=torch.float64))) or bool(torch.isfinite(t).all())


#: Binary digits that are compared: 40 of float64's 53, the rest being rounding noise of the sums behind a score.
DIGITS = 40


def round_off(scores: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """Scores in float64, rounded to `DIGITS` binary digits each; infinities stay.

    Sums are taken in another order on another device, so that components that are equal differ in the last
    digits there; after rounding they tie, and a tie goes to the lowest index everywhere.

    >>> round_off(torch.tensor([0.1 + 0.2, 0.3], dtype=torch.float64)).unique().numel()
    1
    """
    mantissa, exponent = torch.frexp(scores.double())
    rounded = torch.ldexp(torch.round(mantissa * 2.0**DIGITS), exponent - DIGITS)
    return rounded.where(torch.isfinite(scores), scores.double())
