"""Trying a criterion with its options on a small example, before anything depends on it."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from prunedlora.criteria.registry import Criterion
from prunedlora.errors import ConfigurationError
from prunedlora.factors import Factors
from prunedlora.linalg.numerics import is_finite
from prunedlora.statistics.data import Statistics

_D_OUT, _RANK, _D_IN, _SAMPLES = 6, 4, 5, 8


def try_options(criterion: Criterion, options: Mapping[str, Any]) -> None:
    """Refuse options with which a criterion fails, or makes NaN, of factors and statistics that are beyond reproach.

    Raises:
        ConfigurationError: it does; the message says how.
    """
    factors = Factors(_random(_D_OUT, _RANK), _random(_RANK, _D_IN))
    said = ", ".join(f"{key}={value!r}" for key, value in options.items())
    try:
        reduction = criterion.reduce(factors, _statistics(criterion.needs), 1, **options)
        out = (reduction.factors.B, reduction.factors.A)
        if not all(is_finite(t) for t in out):
            raise ArithmeticError("NaN or infinity in the factors")
    except Exception as error:
        raise ConfigurationError(f"{criterion.name} cannot work with {said}: {error}") from error


def _statistics(needs: tuple[str, ...]) -> Statistics:
    """Statistics of the example, those that are asked for."""
    shapes = {
        **dict.fromkeys(("gradient_B", "sensitivity_B", "uncertainty_B"), (_D_OUT, _RANK)),
        **dict.fromkeys(("gradient_A", "sensitivity_A", "uncertainty_A"), (_RANK, _D_IN)),
        "core_gradients": (_SAMPLES, _RANK, _RANK),
        "noise": (_RANK,),
    }
    values = {name: _random(*shapes[name]).abs() for name in needs if name in shapes}
    moments = {name: _moment() for name in needs if name not in shapes}
    return Statistics(**values, **moments)


def _moment() -> Tensor:
    rows = _random(_SAMPLES, _RANK).double()
    return rows.mT @ rows


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(len(shape)))
