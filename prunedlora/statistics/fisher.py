"""Second moments of the gradients of micro-batches, and of single samples."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from prunedlora.adapters.modules import LoraModule
from prunedlora.statistics.average import Average, Pool, gram_of_columns
from prunedlora.statistics.hooks import (
    Hooked,
    Record,
    by_sample,
    count_samples,
    watch,
    watch_weight,
)


class MicroBatchFisher(Hooked):
    """Means of ``G_B^T G_B`` and ``G_A G_A^T`` over backward passes, each with the gradient of that pass alone.

    Hooks on the factors see every backward pass before it is accumulated, clipped or averaged over processes; a
    forward pass recomputed by gradient checkpointing is not seen at all.

    Args:
        modules: the adapted modules.
        loss_scale: what the loss was multiplied by before ``backward()``, e.g. ``scaler.get_scale``.
    """

    def __init__(
        self, modules: list[LoraModule], loss_scale: Callable[[], float] = lambda: 1.0
    ) -> None:
        super().__init__()
        self.pool = Pool(loss_scale)
        self.averages = {m.name: (Average(self.pool), Average(self.pool)) for m in modules}
        for module in modules:
            of_B, of_A = self.averages[module.name]
            layers = module.layer.lora_B[module.adapter], module.layer.lora_A[module.adapter]
            self._handles.append(watch_weight(layers[0], partial(self._record, of_B, False)))
            self._handles.append(watch_weight(layers[1], partial(self._record, of_A, True)))

    @torch.no_grad()
    def _record(self, average: Average, of_rows: bool, G: Tensor) -> None:
        if self.active:
            gram = gram_of_columns(G.mT if of_rows else G)
            average.add(gram, 1.0, self.pool.scale(average) ** -2)


class SampleFisher(Hooked):
    """Means of ``G_B^T G_B`` and ``G_A G_A^T`` over samples, each with the gradient of that sample's own loss.

    Forms the gradients of the samples of one micro-batch, (samples, d_out, r) and (samples, r, d_in), one module at
    a time, and keeps the inputs of every adapted layer until its backward pass.

    Args:
        modules: the adapted modules.
        loss_scale: what the loss was multiplied by before ``backward()``.
    """

    def __init__(
        self, modules: list[LoraModule], loss_scale: Callable[[], float] = lambda: 1.0
    ) -> None:
        super().__init__()
        self.pool = Pool(loss_scale)
        self.averages = {m.name: (Average(self.pool), Average(self.pool)) for m in modules}
        for module in modules:
            of_B, of_A = self.averages[module.name]
            layers = module.layer.lora_B[module.adapter], module.layer.lora_A[module.adapter]
            self._handles.append(
                watch(layers[0], self._recorder(of_B, of_rows=False), keep="input")
            )
            self._handles.append(watch(layers[1], self._recorder(of_A, of_rows=True), keep="input"))

    def _recorder(self, average: Average, *, of_rows: bool) -> Callable[[], Record | None]:
        @torch.no_grad()
        def record(x: Tensor, g: Tensor) -> None:
            G = by_sample(g).mT @ by_sample(x)
            # Of each sample's own loss: the mean over samples is undone.
            n = count_samples(g)
            gram = gram_of_columns(G.mT if of_rows else G).sum(dim=0)
            average.add(gram, n, (n / self.pool.scale(average)) ** 2)

        return lambda: record if self.active else None
