"""Second moments of gradients, the r x r matrices from which gradient-based rules decide.

What passes through the bottleneck (z, u) is collected in `prunedlora.bottleneck`; `prunedlora.collector` decides
which of these a criterion needs.
"""

from collections.abc import Callable
from functools import partial
from types import TracebackType
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from torch.utils.hooks import RemovableHandle

from prunedlora.adapters import LoraModule
from prunedlora.distributed import sum_over_processes
from prunedlora.errors import ConfigurationError


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
            self._total, self._weight = self._total * factor, self._weight * factor

    def state(self) -> dict[str, Tensor]:
        """What has been added so far, over all processes; nothing if nothing has."""
        if self._total is None or self._weight is None:
            return {}
        return {"total": sum_over_processes(self._total), "weight": sum_over_processes(self._weight)}

    def restore(self, state: dict[str, Tensor]) -> None:
        """Start from what `state` gave, in one process of all."""
        self._total, self._weight = state.get("total"), state.get("weight")

    def mean(self, name: str) -> Float[Tensor, "r r"]:
        """The mean, over all processes.

        Raises:
            ConfigurationError: nothing has been added.
        """
        if self._total is None or self._weight is None:
            raise ConfigurationError(f"no backward pass has reached {name}; collect over at least one")
        total, weight = sum_over_processes(self._total), sum_over_processes(self._weight)
        if not weight > 0:
            raise ConfigurationError(f"everything that was collected for {name} was NaN, infinite or masked")
        return total / weight


Entered = TypeVar("Entered", bound="Hooked")


class Hooked:
    """Something that holds hooks and removes them, at the latest when its ``with`` block is left."""

    def __init__(self) -> None:
        self._handles: list[RemovableHandle] = []

    def close(self) -> None:
        """Remove all hooks."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def __enter__(self: Entered) -> Entered:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class GradientMoments:
    """Means of ``G_B^T G_B`` and ``G_A G_A^T`` over optimiser steps.

    Reads the gradients that the parameters hold when `update` is called: once a step, after accumulation, clipping
    and unscaling.

    Args:
        modules: the adapted modules.
    """

    def __init__(self, modules: list[LoraModule]) -> None:
        self._modules = modules
        self.averages = {m.name: (Average(), Average()) for m in modules}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the gradients of the current step."""
        for module in self._modules:
            assert module.B.grad is not None
            assert module.A.grad is not None
            of_B, of_A = self.averages[module.name]
            of_B.add(gram_of_columns(module.B.grad), 1.0)
            of_A.add(gram_of_columns(module.A.grad.mT), 1.0)


class MicroBatchFisher(Hooked):
    """Means of ``G_B^T G_B`` and ``G_A G_A^T`` over backward passes, each with the gradient of that pass alone.

    Hooks on the factors see every backward pass before it is accumulated, clipped or averaged over processes; a
    forward pass recomputed by gradient checkpointing is not seen at all.

    Args:
        modules: the adapted modules.
        loss_scale: what the loss was multiplied by before ``backward()``, e.g. ``scaler.get_scale``.
    """

    def __init__(self, modules: list[LoraModule], loss_scale: Callable[[], float] = lambda: 1.0) -> None:
        super().__init__()
        self.active, self._loss_scale = True, loss_scale
        self.averages = {m.name: (Average(), Average()) for m in modules}
        for module in modules:
            of_B, of_A = self.averages[module.name]
            self._handles.append(self._watch(module.B, partial(self._record, of_B, False)))
            self._handles.append(self._watch(module.A, partial(self._record, of_A, True)))

    @staticmethod
    def _watch(parameter: Tensor, hook: Callable[[Tensor], None]) -> RemovableHandle:
        return parameter.register_hook(hook)  # type: ignore[no-untyped-call]

    @torch.no_grad()
    def _record(self, average: Average, of_rows: bool, G: Tensor) -> None:
        if self.active:
            average.add(gram_of_columns(G.mT if of_rows else G) / self._loss_scale() ** 2, 1.0)


class Sensitivity:
    """Moving averages of ``|w g|`` and of its distance from its own average, entry by entry (AdaLoRA).

    Args:
        modules: the adapted modules.
        beta: weight of the past in both, the paper's 0.85.
    """

    def __init__(self, modules: list[LoraModule], beta: float = 0.85) -> None:
        self._parameters = [p for m in modules for p in (m.B, m.A)]
        self._beta = beta
        self._index = {m.name: 2 * i for i, m in enumerate(modules)}
        self._sensitivity = [torch.zeros_like(p, dtype=_wide(p.dtype)) for p in self._parameters]
        self._uncertainty = [torch.zeros_like(s) for s in self._sensitivity]

    @torch.no_grad()
    def update(self) -> None:
        """Take in the gradients of the current step."""
        gradients = [p.grad for p in self._parameters if p.grad is not None]
        now = [
            (p.detach() * g).abs_().to(s.dtype)
            for p, g, s in zip(self._parameters, gradients, self._sensitivity, strict=True)
        ]
        torch._foreach_lerp_(self._sensitivity, now, 1.0 - self._beta)
        torch._foreach_sub_(now, self._sensitivity)
        torch._foreach_abs_(now)
        torch._foreach_lerp_(self._uncertainty, now, 1.0 - self._beta)

    def of(self, module: LoraModule) -> dict[str, Tensor]:
        """The four averages of a module, under the names that `Statistics` gives them."""
        i = self._index[module.name]
        return {
            "sensitivity_B": self._sensitivity[i],
            "sensitivity_A": self._sensitivity[i + 1],
            "uncertainty_B": self._uncertainty[i],
            "uncertainty_A": self._uncertainty[i + 1],
        }


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
