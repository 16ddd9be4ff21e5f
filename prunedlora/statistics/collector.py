"""Collects what a criterion needs, and only that, while a model is trained or calibrated."""

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from jaxtyping import Int
from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule
from prunedlora.adapters.peft import name_in_base
from prunedlora.adapters.sharding import full, write_back
from prunedlora.choices import FisherPer
from prunedlora.distributed import is_first
from prunedlora.errors import ConfigurationError
from prunedlora.statistics.average import Average, discount
from prunedlora.statistics.bottleneck import BottleneckMoments
from prunedlora.statistics.core_gradients import CoreGradients, Space
from prunedlora.statistics.data import Statistics
from prunedlora.statistics.fisher import MicroBatchFisher, SampleFisher
from prunedlora.statistics.gradients import GradientMoments, Sensitivity
from prunedlora.statistics.hooks import Hooked

_COLUMNS = ("gradient_B", "sensitivity_B", "uncertainty_B")
#: What comes with core gradients that are kept within a space.
_WITH_CORE = ("core_columns", "core_rows", "core_traces")
_ROWS = ("gradient_A", "sensitivity_A", "uncertainty_A")


class Collector(Hooked):
    """All statistics that a criterion names in `needs`.

    Hooks record while `active`; `update` takes in the gradients that the optimiser is about to use.

    Args:
        model: the model.
        modules: its adapted modules.
        needs: fields of `prunedlora.criteria.Statistics`.
        fisher_per: whether ``fisher_B`` and ``fisher_A`` average over backward passes or over samples.
        ignore_padding: leave masked tokens out, see `prunedlora.statistics.bottleneck.BottleneckMoments`.
        loss_scale: what the loss is multiplied by before ``backward()``, e.g. ``scaler.get_scale``.  A gradient scaler
            lowers it after a step that it skips: what has been recorded since `confirm` is dropped then.
        seed: of the noise, the same in every process.
        spaces: within which core gradients are kept, see `prunedlora.statistics.core_gradients`.
    """

    def __init__(
        self,
        model: nn.Module,
        modules: list[LoraModule],
        needs: tuple[str, ...],
        *,
        fisher_per: FisherPer = "micro_batch",
        ignore_padding: bool = False,
        loss_scale: Callable[[], float] | None = None,
        seed: int = 0,
        spaces: Mapping[str, Space] | None = None,
    ) -> None:
        super().__init__()
        self._spaces = spaces
        self._needs = needs
        self._modules = modules
        self._model = model
        self._fisher_per = fisher_per
        self._ignore_padding = ignore_padding
        self._loss_scale = loss_scale
        self._generator = torch.Generator().manual_seed(seed)
        self._sensitivity = (
            Sensitivity(modules) if self._wants("sensitivity", "uncertainty") else None
        )
        self._last_scale = 0.0
        self._confirmed: list[Callable[[], None]] = []
        self._grams = GradientMoments(modules) if self._wants("gram_") else None
        self._fisher = self._make_fisher() if self._wants("fisher_") else None
        self._bottleneck = self._make_bottleneck() if self._wants("C_z", "U", "core_") else None
        self._hooked = [hooked for hooked in (self._fisher, self._bottleneck) if hooked is not None]
        # A graph that was compiled before the hooks came would never call them.
        if self._hooked and "torch._dynamo" in sys.modules:
            torch.compiler.reset()
        self.confirm()

    @property
    def reads_every_step(self) -> bool:
        """Whether `update` must be called at every step, whatever the window."""
        return self._sensitivity is not None

    def reset(self) -> None:
        """Start all averages again, except those of sensitivities; hooks stay, compiled graphs hold on to them."""
        for source in (self._grams, self._fisher, self._bottleneck):
            if source is not None:
                source.pool.clear()
        for _, _, average in self._averages():
            average.clear()
        for core in self._cores():
            core.keep(([], []))

    def confirm(self) -> None:
        """The optimiser has taken its step: what has been recorded up to now counts, whatever comes."""
        if self._loss_scale is None:
            return
        self._confirmed = [
            partial(average.restore, {k: t.clone() for k, t in average.own().items()})
            for _, _, average in self._averages()
        ]
        self._confirmed += [partial(core.keep, core.kept()) for core in self._cores()]

    def activate(self, active: bool) -> None:
        """Whether forward passes from now on are recorded."""
        for hooked in self._hooked:
            hooked.active = active

    def update(self, *, in_window: bool = True) -> None:
        """Take in the gradients of the current optimiser step."""
        for hooked in self._hooked:
            hooked.pool.flush()
        if self._grams is not None and in_window:
            self._grams.update()
        if self._sensitivity is not None:
            self._sensitivity.update()

    def discount(self, factor: float) -> None:
        """Let everything averaged so far count less, by `factor`."""
        discount((average for _, _, average in self._averages()), factor)

    def measure(self, module: LoraModule, live: Int[Tensor, " r_live"] | None = None) -> Statistics:
        """The statistics of a module: copies for its live components, or without `live` those of all, not copied."""
        values: dict[str, Tensor] = {}
        if self._wants("gradient_"):
            assert module.B.grad is not None
            assert module.A.grad is not None
            values["gradient_B"] = full(module.B.grad)
            values["gradient_A"] = full(module.A.grad)
        for kind, source in (("gram", self._grams), ("fisher", self._fisher)):
            if source is not None:
                of_B, of_A = source.averages[module.name]
                values[f"{kind}_B"] = of_B.mean(module.name)
                values[f"{kind}_A"] = of_A.mean(module.name)
        if self._bottleneck is not None:
            values |= self._bottleneck.of(module)
        if self._sensitivity is not None:
            values |= {kind: full(t) for kind, t in self._sensitivity.of(module).items()}
        if self._wants("noise"):
            values["noise"] = torch.rand(module.rank, generator=self._generator).to(module.A.device)
        return Statistics(
            **{
                name: value if live is None else _only(name, value, live)
                for name, value in values.items()
                if name in self._needs or name in _WITH_CORE
            }
        )

    def rewinding(self) -> Callable[[], None]:
        """A function that makes the noise be drawn again from here on."""
        state = self._generator.get_state()

        def rewind() -> None:
            self._generator.set_state(state)

        return rewind

    @contextmanager
    def random_numbers_kept(self) -> Iterator[None]:
        """What is drawn for the noise within the block will be drawn again after it."""
        rewind = self.rewinding()
        try:
            yield
        finally:
            rewind()

    def state_dict(self) -> dict[str, Tensor]:
        """What has been collected, over all processes, on the CPU; to be called in every process."""
        state = {
            f"{key}.{part}": t
            for key, _, average in self._averages()
            for part, t in average.state().items()
        }
        state |= {key: full(t) for key, t in self._sensitivities()}
        for key, module, bottleneck in self._sampled():
            samples = bottleneck.samples(module)
            if samples is not None:
                state[key] = samples
        if self._wants("noise"):
            state["generator"] = self._generator.get_state()
        return {key: t.detach().to("cpu", copy=True).contiguous() for key, t in state.items()}

    def load_state_dict(self, state: Mapping[str, Tensor]) -> None:
        """Go on from what `state_dict` gave, in as many processes as there are now.

        Raises:
            ConfigurationError: something that is kept from the first step on is missing; nothing is changed.
        """
        kept = [key for key, _ in self._sensitivities()] + ["generator"] * self._wants("noise")
        if missing := [key for key in kept if key not in state]:
            raise ConfigurationError(
                f"the state lacks {', '.join(missing)}; the checkpoint is damaged"
            )
        for key, module, average in self._averages():
            parts = {part: f"{key}.{part}" for part in ("total", "weight")} if is_first() else {}
            average.restore(
                {
                    part: state[k].to(module.A.device, copy=True)
                    for part, k in parts.items()
                    if k in state
                }
            )
        for key, t in self._sensitivities():
            whole = full(t)
            whole.copy_(state[key])
            write_back(t, whole)
        for key, module, bottleneck in self._sampled():
            if key in state:
                bottleneck.restore(module, state[key].to(module.A.device))
        if self._wants("noise"):
            self._generator.set_state(state["generator"])
        self.confirm()

    def close(self) -> None:
        """Remove all hooks."""
        for hooked in self._hooked:
            hooked.close()
        self._hooked = []

    def _wants(self, *starts: str) -> bool:
        return any(need.startswith(starts) for need in self._needs)

    def _make_fisher(self) -> MicroBatchFisher | SampleFisher:
        kind = SampleFisher if self._fisher_per == "sample" else MicroBatchFisher
        return kind(self._modules, self._scale)

    def _make_bottleneck(self) -> BottleneckMoments:
        return BottleneckMoments(
            self._model,
            self._modules,
            tuple(n for n in self._needs if n in ("C_z", "U", "core_gradients")),
            loss_scale=self._scale,
            ignore_padding=self._ignore_padding,
            spaces=self._spaces,
        )

    def _scale(self) -> float:
        """The loss scale of the pass that begins; one that has been lowered tells of a skipped step."""
        if self._loss_scale is None:
            return 1.0
        scale = self._loss_scale()
        if scale < self._last_scale:
            for restore in self._confirmed:
                restore()
            self.confirm()  # what was restored must not be added to
        self._last_scale = scale
        return scale

    def _cores(self) -> list[CoreGradients]:
        return list(self._bottleneck.core.values()) if self._bottleneck is not None else []

    def _averages(self) -> Iterator[tuple[str, LoraModule, Average]]:
        for module in self._modules:
            name = name_in_base(module.name)
            for kind, source in (("gram", self._grams), ("fisher", self._fisher)):
                if source is not None:
                    of_B, of_A = source.averages[module.name]
                    yield from (
                        (f"{kind}_B.{name}", module, of_B),
                        (f"{kind}_A.{name}", module, of_A),
                    )
            if self._bottleneck is not None:
                for kind, average in self._bottleneck.averages[module.name].items():
                    yield f"{kind}.{name}", module, average

    def _sensitivities(self) -> Iterator[tuple[str, Tensor]]:
        if self._sensitivity is not None:
            for module in self._modules:
                for kind, t in self._sensitivity.of(module).items():
                    yield f"{kind}.{name_in_base(module.name)}", t

    def _sampled(self) -> Iterator[tuple[str, LoraModule, BottleneckMoments]]:
        if self._bottleneck is not None and self._wants("core_"):
            for module in self._modules:
                yield f"core_gradients.{name_in_base(module.name)}", module, self._bottleneck


def _only(name: str, value: Tensor, live: Tensor) -> Tensor:
    """The part of a statistic that belongs to the live components."""
    if name in _COLUMNS:
        return value[:, live]
    if name in _ROWS or name == "noise":
        return value[live]
    return value[..., live, :][..., live]
