"""Second moments of the gradients, the r x r matrices from which gradient-based rules decide."""

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.adapters import LoraModule


def gram_of_columns(G: Float[Tensor, "*m d r"]) -> Float[Tensor, "*m r r"]:
    """``G^T G`` in at least float32."""
    G = G.float() if G.dtype in (torch.float16, torch.bfloat16) else G
    return G.mT @ G


class GradientMoments:
    """Exponential moving averages of ``G_B^T G_B`` and ``G_A G_A^T``, corrected for their start at zero.

    Reads the gradients that the parameters hold when `update` is called: once a step, after accumulation, clipping
    and unscaling.

    Args:
        modules: the adapted modules.
        decay: weight of the past, in [0, 1); 0 keeps only the last step.
    """

    def __init__(self, modules: list[LoraModule], decay: float) -> None:
        self._modules, self._decay, self._weight = modules, decay, 0.0
        self._sums: dict[str, tuple[Tensor, Tensor]] = {}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the gradients of the current step."""
        self._weight = self._decay * self._weight + 1.0 - self._decay
        for module in self._modules:
            assert module.B.grad is not None
            assert module.A.grad is not None
            grams = gram_of_columns(module.B.grad), gram_of_columns(module.A.grad.mT)
            old = self._sums.get(module.name)
            if old is None or self._decay == 0:
                new = tuple((1.0 - self._decay) * gram for gram in grams)
            else:
                new = tuple(torch.lerp(gram, past, self._decay) for gram, past in zip(grams, old, strict=True))
            self._sums[module.name] = (new[0], new[1])

    def of(self, module: LoraModule) -> tuple[Float[Tensor, "r r"], Float[Tensor, "r r"]]:
        """The averages of ``G_B^T G_B`` and ``G_A G_A^T`` for a module."""
        gram_B, gram_A = self._sums[module.name]
        return gram_B / self._weight, gram_A / self._weight
