"""Collects what a criterion needs, and only that, while a model is trained or calibrated."""

from collections.abc import Callable, Iterator
from typing import Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from prunedlora.adapters import LoraModule
from prunedlora.bottleneck import BottleneckMoments, SampleFisher
from prunedlora.criteria.data import Statistics
from prunedlora.statistics import Average, GradientMoments, Hooked, MicroBatchFisher, Sensitivity

FisherPer = Literal["micro_batch", "sample"]
_COLUMNS = ("gradient_B", "sensitivity_B", "uncertainty_B")
_ROWS = ("gradient_A", "sensitivity_A", "uncertainty_A")


class Collector(Hooked):
    """All statistics that a criterion names in `needs`.

    Hooks record while `active`; `update` takes in the gradients that the optimiser is about to use.

    Args:
        model: the model.
        modules: its adapted modules.
        needs: fields of `prunedlora.criteria.Statistics`.
        fisher_per: whether ``fisher_B`` and ``fisher_A`` average over backward passes or over samples.
        ignore_padding: leave masked tokens out, see `prunedlora.bottleneck.BottleneckMoments`.
        loss_scale: what the loss is multiplied by before ``backward()``, e.g. ``scaler.get_scale``.
        seed: of the noise, the same in every process.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: list[LoraModule],
        needs: tuple[str, ...],
        *,
        fisher_per: FisherPer = "micro_batch",
        ignore_padding: bool = False,
        loss_scale: Callable[[], float] = lambda: 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self._needs, self._modules, self._model = needs, modules, model
        self._fisher_per, self._ignore_padding, self._loss_scale = fisher_per, ignore_padding, loss_scale
        self._generator = torch.Generator().manual_seed(seed)
        self._sensitivity = Sensitivity(modules) if self._wants("sensitivity", "uncertainty") else None
        self._hooked: list[BottleneckMoments | MicroBatchFisher | SampleFisher] = []
        self.reset()

    @property
    def reads_every_step(self) -> bool:
        """Whether `update` must be called at every step, whatever the window."""
        return self._sensitivity is not None

    def reset(self) -> None:
        """Start all averages anew (those of sensitivities go on); hooks are renewed."""
        self.close()
        self._grams = GradientMoments(self._modules) if self._wants("gram_") else None
        self._fisher = self._make_fisher() if self._wants("fisher_") else None
        self._bottleneck: BottleneckMoments | None = None
        if self._wants("C_z", "U", "core_"):
            self._bottleneck = BottleneckMoments(
                self._model,
                self._modules,
                tuple(n for n in self._needs if n in ("C_z", "U", "core_gradients")),
                loss_scale=self._loss_scale,
                ignore_padding=self._ignore_padding,
            )
        self._hooked = [hooked for hooked in (self._fisher, self._bottleneck) if hooked is not None]

    def activate(self, active: bool) -> None:
        """Whether forward passes from now on are recorded."""
        for hooked in self._hooked:
            hooked.active = active

    def update(self, *, in_window: bool = True) -> None:
        """Take in the gradients of the current optimiser step."""
        if self._grams is not None and in_window:
            self._grams.update()
        if self._sensitivity is not None:
            self._sensitivity.update()

    def discount(self, factor: float) -> None:
        """Let everything averaged so far count less, by `factor`."""
        for average in self._averages():
            average.discount(factor)

    def measure(self, module: LoraModule, live: Int[Tensor, " r_live"]) -> Statistics:
        """The statistics of a module, of its live components only."""
        found: dict[str, Tensor] = {}
        if self._wants("gradient_"):
            assert module.B.grad is not None
            assert module.A.grad is not None
            found["gradient_B"], found["gradient_A"] = module.B.grad, module.A.grad
        for kind, source in (("gram", self._grams), ("fisher", self._fisher)):
            if source is not None:
                of_B, of_A = source.averages[module.name]
                found[f"{kind}_B"], found[f"{kind}_A"] = of_B.mean(module.name), of_A.mean(module.name)
        if self._bottleneck is not None:
            found |= self._bottleneck.of(module)
        if self._sensitivity is not None:
            found |= self._sensitivity.of(module)
        if self._wants("noise"):
            found["noise"] = torch.rand(module.rank, generator=self._generator).to(live.device)
        return Statistics(**{name: _only(name, value, live) for name, value in found.items() if name in self._needs})

    def close(self) -> None:
        """Remove all hooks."""
        for hooked in self._hooked:
            hooked.close()
        self._hooked = []

    def _wants(self, *starts: str) -> bool:
        return any(need.startswith(starts) for need in self._needs)

    def _make_fisher(self) -> MicroBatchFisher | SampleFisher:
        kind = SampleFisher if self._fisher_per == "sample" else MicroBatchFisher
        return kind(self._modules, self._loss_scale)

    def _averages(self) -> Iterator[Average]:
        for source in (self._grams, self._fisher):
            for pair in source.averages.values() if source is not None else ():
                yield from pair
        for averages in self._bottleneck.averages.values() if self._bottleneck is not None else ():
            yield from averages.values()


def _only(name: str, value: Tensor, live: Tensor) -> Tensor:
    """The part of a statistic that belongs to the live components."""
    if name in _COLUMNS:
        return value[:, live]
    if name in _ROWS or name == "noise":
        return value[live]
    return value[..., live, :][..., live]
