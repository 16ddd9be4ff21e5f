"""The one object that ties finding, deciding and changing together during training."""

import logging
import time
from collections import defaultdict
from dataclasses import dataclass
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from prunedlora.adapters import LoraModule, find_lora_modules
from prunedlora.config import PruneConfig
from prunedlora.criteria import Factors, Reduction, Statistics, get_criterion
from prunedlora.distributed import assert_same_everywhere
from prunedlora.errors import ConfigurationError, NonFiniteError, PruningIncompleteError
from prunedlora.statistics import GradientMoments
from prunedlora.surgery import (
    check_optimized,
    check_state,
    describe_adapter,
    forget_removed,
    hold_at_zero,
    shrink,
    write_factors,
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class PruneEvent:
    """What happened at one event.

    Attributes:
        step: the optimiser step it preceded, counted from 1.
        ranks: rank of each module afterwards.
        removed: indices of the components that went, per module.
        cost: what the criterion says the removals cost in all, in its unit.
        seconds: time the event took.
    """

    step: int
    ranks: dict[str, int]
    removed: dict[str, list[int]]
    cost: float
    seconds: float


class LoraRankPruner:
    """Lowers the rank of a LoRA adapter while it is being trained.

    It hooks itself to the optimiser: before a step (after accumulation, unscaling and clipping) it reads the
    gradients and, when an event is due, removes components; after the step it holds removed components at
    exactly zero.  A step that a gradient scaler skips does not count.  The training loop does not change:

    >>> import peft
    >>> _ = torch.manual_seed(0)
    >>> model = nn.Sequential(nn.Linear(8, 8), nn.Linear(8, 2))
    >>> model = peft.get_peft_model(model, peft.LoraConfig(r=8, target_modules=["0"]))
    >>> optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad])
    >>> config = PruneConfig(target_rank=2, interval=2, per_event=2, warmup_steps=2)
    >>> with LoraRankPruner(model, optimizer, config, total_steps=10) as pruner:
    ...     for _ in range(10):
    ...         optimizer.zero_grad()
    ...         model(torch.randn(4, 8)).square().mean().backward()
    ...         _ = optimizer.step()
    >>> [(event.step, *event.ranks.values()) for event in pruner.events]
    [(4, 6), (6, 4), (8, 2)]
    >>> model.base_model.model[0].lora_A["default"].weight.shape
    torch.Size([2, 8])

    Leaving the ``with`` block calls `finish`; leaving it by an exception only removes the hooks.

    Args:
        model: a model with LoRA layers, see :func:`prunedlora.find_lora_modules`.
        optimizer: the optimiser that trains them.
        config: what to remove, and when.
        total_steps: optimiser steps that training will take.
        adapter: name of the adapter.

    Raises:
        UnsupportedAdapterError: no LoRA layer, or one that cannot be pruned.
        UnsupportedOptimizerError: at the first event, an optimiser whose state cannot be masked.
        ConfigurationError: target rank not below every module's rank, events that do not fit into training, or
            factors that the optimiser does not train.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: PruneConfig,
        *,
        total_steps: int,
        adapter: str = "default",
    ) -> None:
        self.model, self.config, self.adapter = model, config, adapter
        self.optimizer = unwrap_optimizer(optimizer)
        self.modules = find_lora_modules(model, adapter)
        self.total_steps = total_steps
        self.step = 0
        self.events: list[PruneEvent] = []
        self._finished = False
        self._criterion = get_criterion(config.criterion)
        check_optimized(self.modules, self.optimizer)
        self._plan = self._make_plan(total_steps)
        self._removed = {m.name: _no_component(m) for m in self.modules}
        self._moments = GradientMoments(self.modules, config.decay) if self._needs("gram_B", "gram_A") else None
        self._generator = torch.Generator().manual_seed(config.seed)
        self._hooks = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]

    @property
    def ranks(self) -> dict[str, int]:
        """Components alive in each module."""
        return {name: int((~removed).sum()) for name, removed in self._removed.items()}

    @property
    def planned_events(self) -> int:
        """How many events the schedule asks for."""
        return len(self._plan)

    def finish(self) -> None:
        """Remove the hooks and make the tensors small; the optimiser can go on training them.

        Raises:
            PruningIncompleteError: fewer events took place than planned; nothing is shrunk.
            NonFiniteError: the trained factors hold NaN or infinity.
        """
        if self._finished:
            return
        self.close()
        if len(self.events) < len(self._plan):
            raise PruningIncompleteError(
                f"{len(self.events)} of {len(self._plan)} pruning events took place: training ended after "
                f"{self.step} of {self.total_steps} optimiser steps, the next event was due at step "
                f"{self._plan[len(self.events)][0]}; train longer, or lower interval or warmup_steps"
            )
        for module in self.modules:
            if not (torch.isfinite(module.B).all() and torch.isfinite(module.A).all()):
                raise NonFiniteError(f"the trained factors of {module.name} hold NaN or infinity")
        for module in self.modules:
            shrink(module, self._removed[module.name], self.optimizer)
            self._removed[module.name] = _no_component(module)
        describe_adapter(self.model, self.modules)
        self._finished = True

    def close(self) -> None:
        """Remove the hooks; masked components stay masked, tensors keep their size."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []

    def __enter__(self) -> "LoraRankPruner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()

    def _make_plan(self, total_steps: int) -> list[tuple[int, dict[str, int]]]:
        """For each event its step and the rank of every module after it."""
        schedule = self.config.schedule
        for module in self.modules:
            try:
                schedule.check(module.rank, total_steps)
            except ConfigurationError as error:
                raise ConfigurationError(f"{module.name}: {error}") from None
        ranks: dict[int, dict[str, int]] = {}
        longest = max((schedule.events(m.rank) for m in self.modules), key=len)
        for module in self.modules:
            own = dict(schedule.events(module.rank))
            for step, _ in longest:
                ranks.setdefault(step, {})[module.name] = own.get(step, schedule.target_rank)
        return sorted(ranks.items())

    def _needs(self, *names: str) -> bool:
        return any(name in self._criterion.needs for name in names)

    def _before_step(self, *_: Any) -> None:
        if getattr(self.optimizer, "grad_scale", None) is not None:
            raise ConfigurationError(
                "a fused optimiser is about to unscale fp16 gradients itself, after the pruner has read them; "
                "call scaler.unscale_(optimizer) before scaler.step(optimizer), or use fused=False"
            )
        if self._is_skipped():
            return
        step = self.step + 1
        due = len(self.events) < len(self._plan) and step >= self._plan[len(self.events)][0]
        if self._moments is not None and (due or self.config.decay > 0):
            self._check_gradients(step)
            self._moments.update()
        if due:
            self._check_gradients(step)
            self._prune(step, self._plan[len(self.events)][1])

    def _after_step(self, *_: Any) -> None:
        if self._is_skipped():
            return
        self.step += 1
        if self.events:
            for module in self.modules:
                hold_at_zero(module, self._removed[module.name])

    def _is_skipped(self) -> bool:
        """Whether a fused optimiser drops this step inside its kernel because fp16 gradients overflowed."""
        found = getattr(self.optimizer, "found_inf", None)
        return found is not None and bool(found)

    def _check_gradients(self, step: int) -> None:
        gradients = [p.grad for m in self.modules for p in (m.B, m.A)]
        present = [g for g in gradients if g is not None]
        if len(present) < len(gradients):
            raise ConfigurationError(
                f"a LoRA factor has no gradient at optimiser step {step}; call backward() before step(), and "
                "leave modules that the loss does not reach out of target_modules"
            )
        finite = torch.stack([torch.isfinite(g).all().to(present[0].device) for g in present])
        if not finite.all():
            raise NonFiniteError(
                f"the gradients at optimiser step {step} hold NaN or infinity; lower the learning rate, or skip "
                "such steps before the optimiser"
            )

    @torch.no_grad()
    def _prune(self, step: int, ranks: dict[str, int]) -> None:
        start = time.perf_counter()
        check_state(self.modules, self.optimizer)
        reductions = self._decide(ranks)
        removed = {m.name: live[reduction.removed] for m, live, reduction in reductions}
        assert_same_everywhere(removed)
        for module, live, reduction in reductions:
            write_factors(module, live, reduction.factors.B, reduction.factors.A)
            self._removed[module.name][removed[module.name]] = True
            forget_removed(module, self._removed[module.name], self.optimizer)
        cost = sum(float(reduction.cost.double().sum()) for _, _, reduction in reductions)
        event = PruneEvent(step, ranks, {n: r.tolist() for n, r in removed.items()}, cost, time.perf_counter() - start)
        self.events.append(event)
        logger.info("step %d: event %d of %d, cost %.3g", step, len(self.events), len(self._plan), cost)

    def _decide(self, ranks: dict[str, int]) -> list[tuple[LoraModule, Tensor, Reduction]]:
        """The reduction of every module, computed for all modules of equal shape at once; changes nothing."""
        groups: dict[tuple[Any, ...], list[tuple[LoraModule, Tensor, Factors, Statistics]]] = defaultdict(list)
        for module in self.modules:
            live = (~self._removed[module.name]).nonzero().squeeze(1)
            count = live.numel() - ranks[module.name]
            factors = Factors(module.B.detach()[:, live], module.A.detach()[live])
            statistics = self._measure(module, live)
            if not factors.B.any():
                raise ConfigurationError(
                    f"B of {module.name} is still zero, so every component is; warm up longer before pruning"
                )
            key = (factors.B.shape, factors.A.shape, factors.B.dtype, factors.B.device, count)
            groups[key].append((module, live, factors, statistics))
        out = []
        for (*_, count), members in groups.items():
            modules, lives, factors_list, statistics_list = zip(*members, strict=True)
            reduction = self._criterion.reduce(
                _stack(factors_list), _stack(statistics_list), count, **self.config.options
            )
            if not (torch.isfinite(reduction.factors.B).all() and torch.isfinite(reduction.factors.A).all()):
                raise NonFiniteError(f"{self.config.criterion} made NaN or infinity of the factors; nothing changed")
            for i, (module, live) in enumerate(zip(modules, lives, strict=True)):
                own = Factors(reduction.factors.B[i], reduction.factors.A[i])
                out.append((module, live, Reduction(own, reduction.removed[i], reduction.cost[i])))
        return out

    def _measure(self, module: LoraModule, live: Tensor) -> Statistics:
        """The statistics that the criterion needs, of the live components only."""
        found: dict[str, Tensor] = {}
        if self._needs("gradient_B", "gradient_A"):
            assert module.B.grad is not None
            assert module.A.grad is not None
            found["gradient_B"], found["gradient_A"] = module.B.grad[:, live], module.A.grad[live]
        if self._moments is not None:
            gram_B, gram_A = self._moments.of(module)
            found["gram_B"], found["gram_A"] = gram_B[live][:, live], gram_A[live][:, live]
        if self._needs("noise"):
            found["noise"] = torch.rand(live.numel(), generator=self._generator).to(live.device)
        return Statistics(**found)


def _no_component(module: LoraModule) -> Tensor:
    return torch.zeros(module.rank, dtype=torch.bool, device=module.A.device)


def unwrap_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimiser inside wrappers such as accelerate's.

    Raises:
        ConfigurationError: there is none; the pruner needs its step hooks.
    """
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        if not hasattr(optimizer, "optimizer"):
            raise ConfigurationError(f"{type(optimizer).__name__} is no torch.optim.Optimizer")
        optimizer = optimizer.optimizer
    return optimizer


def _stack(items: Any) -> Any:
    """One dataclass of tensors with a leading batch dimension, from several of equal shapes."""
    first = items[0]
    values = {
        name: None if value is None else torch.stack([getattr(item, name) for item in items])
        for name, value in vars(first).items()
    }
    return type(first)(**values)
