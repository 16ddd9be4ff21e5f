"""What is read once a step from the gradients that the optimiser is about to use."""

import torch
from torch import Tensor

from prunedlora.adapters.modules import LoraModule
from prunedlora.adapters.sharding import full, local
from prunedlora.statistics.average import Average, Pool, gram_of_columns


class GradientMoments:
    """Means of ``G_B^T G_B`` and ``G_A G_A^T`` over optimiser steps.

    Reads the gradients that the parameters hold when `update` is called: once a step, after accumulation, clipping
    and unscaling.

    Args:
        modules: the adapted modules.
    """

    def __init__(self, modules: list[LoraModule]) -> None:
        self._modules = modules
        self.pool = Pool()
        self.averages = {m.name: (Average(self.pool), Average(self.pool)) for m in modules}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the gradients of the current step."""
        for module in self._modules:
            assert module.B.grad is not None
            assert module.A.grad is not None
            of_B, of_A = self.averages[module.name]
            # Gradients are those of all processes already: each process adds the same.
            of_B.add(gram_of_columns(full(module.B.grad)), 1.0)
            of_A.add(gram_of_columns(full(module.A.grad).mT), 1.0)
        self.pool.flush()


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
        gradients = [local(p.grad) for p in self._parameters if p.grad is not None]
        sensitivity = [local(t) for t in self._sensitivity]
        now = list(torch._foreach_mul([local(p) for p in self._parameters], gradients))
        torch._foreach_abs_(now)
        now = [t.to(s.dtype) for t, s in zip(now, sensitivity, strict=True)]
        torch._foreach_lerp_(sensitivity, now, 1.0 - self._beta)
        torch._foreach_sub_(now, sensitivity)
        torch._foreach_abs_(now)
        torch._foreach_lerp_([local(t) for t in self._uncertainty], now, 1.0 - self._beta)

    def of(self, module: LoraModule) -> dict[str, Tensor]:
        """The four averages of a module, under the names that `Statistics` gives them, sharded as its factors are."""
        i = self._index[module.name]
        return {
            "sensitivity_B": self._sensitivity[i],
            "sensitivity_A": self._sensitivity[i + 1],
            "uncertainty_B": self._uncertainty[i],
            "uncertainty_A": self._uncertainty[i + 1],
        }


def _wide(dtype: torch.dtype) -> torch.dtype:
    return torch.promote_types(dtype, torch.float32)
