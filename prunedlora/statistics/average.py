"""Running means of r x r second moments, over optimiser steps, micro-batches or tokens."""

from collections import defaultdict
from collections.abc import Callable, Iterable

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


class Pool:
    """Contributions to many averages that wait to be checked and added together.

    A hook only multiplies; what comes of it is added when an average is read, or gets its next contribution.

    Args:
        loss_scale: what losses are multiplied by before ``backward()``.
    """

    def __init__(self, loss_scale: Callable[[], float] = lambda: 1.0) -> None:
        self._loss_scale = loss_scale
        self._scale = 1.0
        self._waiting: dict[Average, tuple[Tensor, int | float | Tensor, float]] = {}

    def put(
        self,
        average: "Average",
        value: Float[Tensor, "r r"],
        weight: int | float | Tensor,
        factor: float,
    ) -> None:
        """Let a contribution wait, see `Average.add`."""
        if average in self._waiting:
            self.flush()
        self._waiting[average] = value, weight, factor

    def scale(self, average: "Average | None") -> float:
        """The loss scale of the backward pass that an average gets its next contribution from, read once a pass.

        Reading it from a gradient scaler waits for the device.
        """
        if average in self._waiting:
            self.flush()
        if not self._waiting:
            self._scale = self._loss_scale()
        return self._scale

    def clear(self) -> None:
        """Drop everything that waits."""
        self._waiting = {}

    def flush(self) -> None:
        """Add everything that waits."""
        groups: dict[tuple[object, ...], list[Average]] = defaultdict(list)
        for average, (value, _, _) in self._waiting.items():
            groups[(value.shape, value.dtype, value.device)].append(average)
        for averages in groups.values():
            _add_together(averages, *zip(*(self._waiting[a] for a in averages), strict=True))
        self._waiting = {}


class Average:
    """Weighted mean of a stream of r x r matrices, kept in float64; a contribution with NaN or infinity is dropped.

    Dropping is what a step skipped by an fp16 scaler asks for; where training goes on with NaN gradients, the
    pruner refuses them.

    Args:
        pool: where contributions wait, shared by averages that get theirs one after the other; its own by default.

    >>> average = Average()
    >>> average.add(torch.tensor([[4.0]]), 2.0)
    >>> average.add(torch.tensor([[float("nan")]]), 5.0)
    >>> average.mean("a layer")
    tensor([[2.]], dtype=torch.float64)
    """

    def __init__(self, pool: Pool | None = None) -> None:
        self._pool = pool or Pool()
        self.total: Tensor | None = None
        self.weight: Tensor | None = None

    def add(
        self, value: Float[Tensor, "r r"], weight: int | float | Tensor, factor: float = 1.0
    ) -> None:
        """Add `factor` times a sum of matrices, and how many they were."""
        self._pool.put(self, value, weight, factor)

    def parts(self) -> list[Tensor]:
        """Total and weight themselves, in this process; nothing if nothing has been added."""
        self._pool.flush()
        return [part for part in (self.total, self.weight) if part is not None]

    def own(self) -> dict[str, Tensor]:
        """What has been added so far in this process; nothing if nothing has."""
        return dict(zip(("total", "weight"), self.parts(), strict=False))

    def state(self) -> dict[str, Tensor]:
        """What has been added so far, over all processes; nothing if nothing has."""
        return {name: sum_over_processes(part) for name, part in self.own().items()}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Start from what `state` gave, in one process of all."""
        self._pool.flush()
        self.total = state.get("total")
        self.weight = state.get("weight")

    def clear(self) -> None:
        """Start again, as if nothing had been added; what waits in the pool is cleared there."""
        self.total = None
        self.weight = None

    def mean(self, name: str) -> Float[Tensor, "r r"]:
        """The mean, over all processes.

        Raises:
            ConfigurationError: nothing has been added.
        """
        state = self.state()
        if not state:
            raise ConfigurationError(
                f"no backward pass has reached {name}; collect over at least one"
            )
        if not holds(state["weight"] > 0):
            raise ConfigurationError(
                f"everything that was collected for {name} was NaN, infinite or masked"
            )
        return state["total"] / state["weight"]


def discount(averages: Iterable[Average], factor: float) -> None:
    """Let what has been added so far count less, by `factor`."""
    parts = [part for average in averages for part in average.parts()]
    if parts:
        torch._foreach_mul_(parts, factor)


@torch.no_grad()
def _add_together(
    averages: list[Average],
    values: tuple[Float[Tensor, "r r"], ...],
    weights: tuple[int | float | Tensor, ...],
    factors: tuple[float, ...],
) -> None:
    """Add to each average its contribution, all of one shape, by a number of operations that is that for one."""
    stacked = torch.stack(values)
    device = stacked.device
    least, largest = stacked.flatten(1).aminmax(dim=1)
    finite = torch.isfinite(least) & torch.isfinite(largest)
    # Sums are kept in float64; what is dropped counts neither in them nor in the weight.
    wide = stacked.double()
    if set(factors) != {1.0}:
        wide = wide * torch.tensor(factors, dtype=torch.float64, device=device)[:, None, None]
    rows = wide.masked_fill(~finite[:, None, None], 0.0).unbind(0)
    counted = (finite * _as_vector(weights, device)).unbind(0)
    for average, row, count in zip(averages, rows, counted, strict=True):
        if average.total is None:
            average.total = torch.zeros_like(row)
            average.weight = torch.zeros_like(count)
    torch._foreach_add_([t for a in averages if (t := a.total) is not None], list(rows))
    torch._foreach_add_([w for a in averages if (w := a.weight) is not None], list(counted))


def _as_vector(
    weights: tuple[int | float | Tensor, ...], device: torch.device
) -> Float[Tensor, " m"]:
    if any(isinstance(weight, Tensor) for weight in weights):
        every = [torch.as_tensor(w, dtype=torch.float64, device=device) for w in weights]
        return torch.stack(every)
    return torch.tensor(weights, dtype=torch.float64, device=device)
