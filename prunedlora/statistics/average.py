"""Running means of r x r second moments, over optimiser steps, micro-batches or tokens."""

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.distributed import sum_over_processes
from prunedlora.errors import ConfigurationError
from prunedlora.linalg.numerics import holds


def gram_of_columns(G: Float[Tensor, "*m d r"]) -> Float[Tensor, "*m r r"]:
    """``G^T G`` in at least float32."""
    G = G.float() if G.dtype in (torch.float16, torch.bfloat16) else G
    return G.mT @ G


class Average:
    """Weighted mean of a stream of r x r matrices, kept in float64; a contribution with NaN or infinity is dropped.

    Dropping is what a step skipped by an fp16 scaler asks for; where training goes on with NaN gradients, the
    pruner refuses them.

    >>> average = Average()
    >>> average.add(torch.tensor([[4.0]]), 2.0)
    >>> average.add(torch.tensor([[float("nan")]]), 5.0)
    >>> average.mean("a layer")
    tensor([[2.]], dtype=torch.float64)
    """

    def __init__(self) -> None:
        self._total: Tensor | None = None
        self._weight: Tensor | None = None

    def add(self, value: Float[Tensor, "r r"], weight: int | float | Tensor) -> None:
        """Add a sum of matrices, and how many they were."""
        finite = torch.isfinite(value).all()
        value = value.double().where(finite, 0.0)
        counted = finite * torch.as_tensor(weight, dtype=torch.float64, device=value.device)
        self._total = value if self._total is None else self._total.add_(value)
        self._weight = counted if self._weight is None else self._weight.add_(counted)

    def discount(self, factor: float) -> None:
        """Let what has been added so far count less, by `factor`."""
        if self._total is not None and self._weight is not None:
            self._total = self._total * factor
            self._weight = self._weight * factor

    def state(self) -> dict[str, Tensor]:
        """What has been added so far, over all processes; nothing if nothing has."""
        if self._total is None or self._weight is None:
            return {}
        return {
            "total": sum_over_processes(self._total),
            "weight": sum_over_processes(self._weight),
        }

    def restore(self, state: dict[str, Tensor]) -> None:
        """Start from what `state` gave, in one process of all."""
        self._total = state.get("total")
        self._weight = state.get("weight")

    def mean(self, name: str) -> Float[Tensor, "r r"]:
        """The mean, over all processes.

        Raises:
            ConfigurationError: nothing has been added.
        """
        if self._total is None or self._weight is None:
            raise ConfigurationError(
                f"no backward pass has reached {name}; collect over at least one"
            )
        total = sum_over_processes(self._total)
        weight = sum_over_processes(self._weight)
        if not holds(weight > 0):
            raise ConfigurationError(
                f"everything that was collected for {name} was NaN, infinite or masked"
            )
        return total / weight
