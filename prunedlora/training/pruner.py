"""Pruning while training: the object that watches an optimiser and carries out the schedule's events."""

import gc
import logging
import time
import weakref
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.adapters.optimizer_state import check_state
from prunedlora.adapters.peft import describe_adapter, name_in_base
from prunedlora.adapters.sharding import full, settle
from prunedlora.adapters.surgery import check_removed, hold_at_zero, no_component, shrink
from prunedlora.adapters.unfinished import mark_removed, mark_unfinished, removed_of, unmark
from prunedlora.criteria import get_criterion
from prunedlora.distributed import (
    assert_same_everywhere,
    assert_same_factors,
    average_over_processes,
    several,
)
from prunedlora.errors import ConfigurationError, NonFiniteError, PruningIncompleteError
from prunedlora.factors import Factors
from prunedlora.linalg.numerics import Ways, is_finite, optimistically
from prunedlora.ranks.reduction import Candidate, Group, allocate_ranks, reduce_groups
from prunedlora.statistics.collector import Collector
from prunedlora.statistics.data import Statistics
from prunedlora.training.checkpoint import check_same_training, past_events
from prunedlora.training.config import PruneConfig
from prunedlora.training.event import carry_out
from prunedlora.training.learning_rate import warn_of_late_events
from prunedlora.training.optimizers import (
    OtherOptimizers,
    check_gradients,
    check_optimized,
    is_skipped,
    loss_scale_of,
    refuse_closure,
    refuse_not_finite,
    refuse_unscaling,
    unwrap_optimizer,
)
from prunedlora.training.rotation import check_rotatable
from prunedlora.training.schedule import PruneEvent
from prunedlora.training.summary import describe_plan, numbers, record, report
from prunedlora.training.trial import state_of_trial

logger = logging.getLogger(__name__)


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

    Leaving the ``with`` block calls `finish`; leaving it by an exception only removes the hooks.  Training that may be
    interrupted keeps `state_dict` in its checkpoints.

    Args:
        model: a model with LoRA layers, see :func:`prunedlora.find_lora_modules`.
        optimizer: the optimiser that trains them.
        config: what to remove, and when.
        total_steps: optimiser steps that training will take.
        adapter: name of the adapter.
        loss_scale: with a gradient scaler its ``get_scale``, so that what is recorded during the backward pass is in
            units of the loss; found by itself on accelerate's optimiser.
        scheduler: the learning-rate scheduler, if it steps once after each optimiser step and has not stepped yet: a
            warning is logged where the last event leaves less than a tenth of the learning rate to recover by.

    Raises:
        UnsupportedAdapterError: no LoRA layer, or one that cannot be pruned.
        UnsupportedOptimizerError: an optimiser that keeps a second copy of the weights (schedule-free, Lookahead), or
            state that cannot be masked (8-bit) or carried along; where a trial cannot tell, after its first step.
        ConfigurationError: target rank not below every module's rank, events that do not fit into training,
            factors that the optimiser does not train, or another pruner on the same adapter.  From a step of the
            optimiser: one that computes its gradients by a closure, or of another optimiser on the same factors.
    """

    #: Pruners whose hooks are in place.
    _attached: ClassVar["weakref.WeakSet[LoraRankPruner]"] = weakref.WeakSet()

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        config: PruneConfig,
        *,
        total_steps: int,
        adapter: str = "default",
        loss_scale: Callable[[], float] | None = None,
        scheduler: Any = None,
    ) -> None:
        self.model = model
        self.config = config
        self.adapter = adapter
        self.optimizer = unwrap_optimizer(optimizer)
        settle(model)
        self.modules = find_lora_modules(model, adapter, sharded=True)
        self.total_steps = total_steps
        self.step = 0
        self.events: list[PruneEvent] = []
        self._finished = False
        self._inside = False  # the optimiser's step
        self._state_checked = False
        # Whether the gradients of each step were finite that was collected since the last event.
        self._finite: dict[int, Tensor] = {}
        # The decompositions that the last event took, which the next is expected to take.
        self._ways = Ways()
        # Refused before the first step: factors that are not trained, events that do not fit into training.
        self._criterion = get_criterion(config.criterion)
        if isinstance(model, nn.DataParallel):
            refuse_data_parallel(config.criterion)
        self._refuse_second()
        self._refuse_pruned()
        check_optimized(self.modules, self.optimizer)
        self._try_optimizer()
        self._check_state()
        self._plan = config.schedule.plan({m.name: m.rank for m in self.modules}, total_steps)
        self._initial = {m.name: m.rank for m in self.modules}
        self._left = None
        if scheduler is not None:
            self._left = warn_of_late_events(scheduler, self._plan[-1][0], total_steps)
        # Hooks come last, so that a refusal leaves none behind.
        self._set_removed({m.name: no_component(m) for m in self.modules})
        self._collector = Collector(
            model,
            self.modules,
            self._criterion.needs,
            fisher_per=config.fisher_per,
            ignore_padding=config.ignore_padding,
            loss_scale=loss_scale or loss_scale_of(optimizer),
            seed=config.seed,
        )
        self._collector.activate(self._collects(1))
        self._others = OtherOptimizers(self.modules, self.optimizer)
        self._hooks = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]
        self._attached.add(self)
        mark_unfinished(self.modules)
        logger.info("%s", describe_plan(self._initial, self._plan, total_steps))

    @property
    def ranks(self) -> dict[str, int]:
        """Components alive in each module."""
        return {name: live.numel() for name, live in self._live.items()}

    def plan(self) -> list[tuple[int, dict[str, int]]]:
        """For each planned event its step and the rank of every module after it.

        With ``scope="global"`` these ranks say the total only; modules share it by their scores.
        """
        return [(step, dict(ranks)) for step, ranks in self._plan]

    def report(self) -> str:
        """A table of the events so far: ranks, removed components, cost and time."""
        return report(self._initial, self.events, len(self._plan))

    def record(self) -> dict[str, Any]:
        """What was done so far, for JSON: settings, ranks before and now, and every event without its components.

        :func:`prunedlora.export_adapter` writes it beside the adapter.
        """
        return record(
            self.config.to_json(), self._initial, self.ranks, self.events, self.total_steps
        )

    def numbers(self) -> dict[str, float]:
        """For a log: mean rank, number of events, cost of the last one, share of the learning rate after the last."""
        return numbers(self.ranks, self.events, self._left)

    def __repr__(self) -> str:
        plan = describe_plan(self._initial, self._plan, self.total_steps)
        return (
            f"<LoraRankPruner {self.config.criterion}: {plan}; at step {self.step}, "
            f"{len(self.events)} of {len(self._plan)} events done>"
        )

    @property
    def live(self) -> dict[str, Tensor]:
        """Indices of the components alive in each module, increasing."""
        return dict(self._live)

    @property
    def complete(self) -> bool:
        """Whether every planned event has taken place."""
        return len(self.events) == len(self._plan)

    def statistics(self, module: LoraModule) -> Statistics:
        """What has been collected of a module's live components so far; looking changes nothing.

        Raises:
            ConfigurationError: nothing has been collected yet.
        """
        settle(self.model)
        with self._collector.random_numbers_kept():
            return self._collector.measure(module, self._live[module.name])

    def finish(self) -> None:
        """Remove the hooks and make the tensors small; the optimiser can go on training them.

        With several processes their gradients are averaged in every backward pass from then on, since a wrapper such
        as DistributedDataParallel knows the old tensors only.

        A model that ``fully_shard`` has sharded keeps its tensors: removed components stay in them, at exactly zero
        in every further step of the optimiser, and `export_adapter` leaves them out.  To be called in every process.

        Raises:
            PruningIncompleteError: fewer events took place than planned; nothing is shrunk.
            NonFiniteError: the trained factors hold NaN or infinity; nothing is shrunk.
            ConfigurationError: a removed component is not zero; nothing is shrunk.
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
        settle(self.model)
        # Every module is checked before any is shrunk.
        for module in self.modules:
            if not (is_finite(full(module.B)) and is_finite(full(module.A))):
                raise NonFiniteError(f"the trained factors of {module.name} hold NaN or infinity")
            check_removed(module, self._removed[module.name])
        if any(module.sharded for module in self.modules):
            mark_removed(self.modules, self._removed)
            self._hooks = [self.optimizer.register_step_post_hook(self._hold)]
            self._finished = True
            logger.info(
                "the factors are sharded and keep their size; export_adapter makes them small"
            )
            return
        for module in self.modules:
            shrink(module, self._removed[module.name], self.optimizer)
        self._set_removed({m.name: no_component(m) for m in self.modules})
        describe_adapter(self.model, self.modules)
        if several():
            for module in self.modules:
                for parameter in (module.B, module.A):
                    parameter.register_hook(average_over_processes)  # type: ignore[no-untyped-call]
        self._finished = True

    def state_dict(self) -> dict[str, Any]:
        """What another process needs to go on: tensors on the CPU, numbers, strings, lists and dicts, no more.

        Save it beside the states of the model and the optimiser, between optimiser steps, and call it in every
        process: what they have collected is added up.  ``accelerator.register_for_checkpointing(pruner)`` does.
        """
        return {
            "config": self.config.to_json(),
            "ranks": {name_in_base(m.name): m.rank for m in self.modules},
            "step": self.step,
            "events": [asdict(event) for event in self.events],
            "statistics": self._collector.state_dict(),
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on where a pruner of the same settings stopped, as if it had not; in as many processes as there are now.

        Load the model's and the optimiser's states first; by ``torch.distributed.checkpoint``, which takes a step of
        the optimiser for that, before the pruner is made.

        Raises:
            ConfigurationError: this pruner has begun already, `state` is of other settings or another adapter, or the
                model's weights are not those of the checkpoint; nothing is changed.
        """
        if self.step > 0:
            raise ConfigurationError(
                "this pruner has begun already; load the state into a new one (made after the optimiser's state was "
                "loaded: torch.distributed.checkpoint takes a step of the optimiser for that)"
            )
        settle(self.model)
        check_same_training(state, self.config, self.modules)
        events, removed = past_events(state["events"], self.modules)
        self._collector.load_state_dict(state["statistics"])
        self.step = state["step"]
        self.events = events
        self._set_removed(removed)
        self._collector.activate(self._collects(self.step + 1))

    def close(self) -> None:
        """Remove the hooks; masked components stay masked, tensors keep their size."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._others.close()
        self._collector.close()
        self._attached.discard(self)
        unmark(self.modules)

    def __enter__(self) -> "LoraRankPruner":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if kind is None:
            self.finish()
        else:
            self.close()

    def _collects(self, step: int) -> bool:
        """Whether the averages take in an optimiser step."""
        if len(self.events) == len(self._plan):
            return False
        return self.config.decay > 0 or step > self._plan[len(self.events)][0] - self.config.window

    def _refuse_second(self) -> None:
        """One pruner an adapter: what one removes the other would count as alive."""
        if self._rival() is not None:
            gc.collect()  # one that nothing refers to any more is no obstacle
        if self._rival() is not None:
            raise ConfigurationError(
                f"another LoraRankPruner is attached to the adapter {self.adapter!r}; call finish() or close() on it"
            )

    def _refuse_pruned(self) -> None:
        """An adapter whose removed components are still in its tensors: they would count as alive."""
        for module in self.modules:
            if removed_of(module) is not None:
                raise ConfigurationError(
                    f"the adapter {self.adapter!r} was pruned while it was sharded, and still holds removed "
                    "components; write it by export_adapter, and load that"
                )

    def _rival(self) -> "LoraRankPruner | None":
        mine = {id(module.A) for module in self.modules}
        for other in self._attached:
            if any(id(module.A) in mine for module in other.modules):
                return other
        return None

    @property
    def _rotates_state(self) -> bool:
        return self._criterion.rotates and self.config.moments == "follow"

    def _try_optimizer(self) -> None:
        """Refuse an optimiser that, in a trial, cannot follow."""
        largest = max((p for m in self.modules for p in (m.B, m.A)), key=lambda p: p.numel())
        state = state_of_trial(self.optimizer, largest)
        if self._rotates_state:
            check_rotatable(state, self.optimizer)

    def _check_state(self) -> None:
        """Refuse an optimiser that keeps state now which cannot follow."""
        check_state(self.modules, self.optimizer)
        if self._rotates_state:
            for module in self.modules:
                for parameter in (module.B, module.A):
                    check_rotatable(self.optimizer.state.get(parameter, {}), self.optimizer)

    def _before_step(self, _: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        refuse_closure(args, kwargs)
        refuse_unscaling(self.optimizer)
        if is_skipped(self.optimizer):
            return
        # An optimiser whose step calls that of its base class calls the hooks of both.
        if self._inside:
            return
        # Of an optimiser that cannot be tried nothing is known before it has state.
        if not self._state_checked and self.optimizer.state:
            self._check_state()
            self._state_checked = True
        step = self.step + 1
        due = len(self.events) < len(self._plan) and step >= self._plan[len(self.events)][0]
        if due or self._collects(step) or self._collector.reads_every_step:
            self._finite[step] = check_gradients(self.modules, step)
            self._collector.update(in_window=self._collects(step))
        if due:
            self._prune(step, self._plan[len(self.events)][1])
        self._inside = True

    def _after_step(self, *_: Any) -> None:
        if is_skipped(self.optimizer):
            return
        if self._inside:
            self._inside = False
            self._count_step()
        if self.events:
            self._hold()

    def _hold(self, *_: Any) -> None:
        for module in self.modules:
            hold_at_zero(module, self._removed[module.name])

    def _count_step(self) -> None:
        self.step += 1
        if self.config.decay > 0:
            self._collector.discount(self.config.decay)
        self._collector.activate(self._collects(self.step + 1))
        self._collector.confirm()

    @torch.no_grad()
    def _prune(self, step: int, planned: dict[str, int]) -> None:
        start = time.perf_counter()
        # What can be refused is refused before anything is computed or changed.
        check_optimized(self.modules, self.optimizer)
        self._check_state()
        # Every process must start from the same weights, or they part ways in the middle of the decision.
        whole = [Factors(full(module.B), full(module.A)) for module in self.modules]
        assert_same_factors((factors.B, factors.A) for factors in whole)
        # The device is waited for once: for what the record holds, and for all that was assumed on the way.
        rewind = self._collector.rewinding()
        (ranks, groups), values = optimistically(
            lambda: self._decide(planned, rewind, whole),
            lambda decided: [
                t for g in decided[1] for t in (g.gone, g.reduction.cost.double().sum())
            ],
            self._ways,
        )
        self._finite.clear()
        # Every process must choose alike before any changes its weights.
        assert_same_everywhere({g.members[0].module.name: g.gone for g in groups})
        assert_same_factors((g.reduction.factors.B, g.reduction.factors.A) for g in groups)
        for group in groups:
            self._carry_out(group)
        # Averages of the old components say nothing of new mixtures.
        if self._criterion.rotates or self.config.decay == 0:
            self._collector.reset()
        cost = sum(value for (value,) in values[1::2])
        removed = {
            name: indices
            for group, gone in zip(groups, values[::2], strict=True)
            for name, indices in _by_module(group, gone).items()
        }
        self.events.append(PruneEvent(step, ranks, removed, cost, time.perf_counter() - start))
        logger.info(
            "step %d: event %d of %d, mean rank %.3g, cost %.3g",
            step,
            len(self.events),
            len(self._plan),
            sum(ranks.values()) / len(ranks),
            cost,
        )

    def _decide(
        self, ranks: dict[str, int], rewind: Callable[[], None], whole: list[Factors]
    ) -> tuple[dict[str, int], list[Group]]:
        """The rank of every module after the event, and what becomes of it; nothing is changed."""
        rewind()
        refuse_not_finite(self._finite)
        config = self.config
        candidates = []
        for module, factors in zip(self.modules, whole, strict=True):
            live = self._live[module.name]
            part = live if live.numel() < module.rank else None  # stacking copies what is whole
            statistics = self._collector.measure(module, part)
            candidates.append(Candidate.of(module, statistics, live, factors))
        # One budget for all modules replaces the planned ranks; multiples of round_to at the end only.
        if config.scope == "global":
            last = len(self.events) + 1 == len(self._plan)
            ranks = allocate_ranks(
                self._criterion,
                config.options,
                candidates,
                ranks,
                budget=config.budget,
                min_rank=config.min_rank,
                round_to=config.round_to if last else 1,
            )
        return ranks, reduce_groups(self._criterion, config.options, candidates, ranks)

    def _carry_out(self, group: Group) -> None:
        names = [candidate.module.name for candidate in group.members]
        removed = torch.stack([self._removed[name] for name in names]).scatter_(1, group.gone, True)
        carry_out(
            group,
            removed,
            self.optimizer,
            rotates=self._criterion.rotates,
            moments=self.config.moments,
        )
        self._removed |= dict(zip(names, removed, strict=True))
        self._live |= dict(zip(names, group.kept, strict=True))

    def _set_removed(self, removed: dict[str, Tensor]) -> None:
        """Take over masks of the removed components; their complement is kept as indices."""
        self._removed = removed
        self._live = {n: (~mask).nonzero().squeeze(1) for n, mask in removed.items()}


def refuse_data_parallel(criterion: str) -> None:
    """Refuse a criterion whose statistics torch's DataParallel hides in copies of the model.

    Raises:
        ConfigurationError: it is one.
    """
    needs = get_criterion(criterion).needs
    if any(need.startswith(("C_z", "U", "core_", "fisher_")) for need in needs):
        raise ConfigurationError(
            f"{criterion} looks at forward and backward passes, which DataParallel does in copies of the model; start "
            "one process for each GPU (torchrun, DistributedDataParallel), or make one GPU visible"
        )


def _by_module(group: Group, gone: list[float]) -> dict[str, list[int]]:
    """The removed components of each module, from those of the whole group in one list."""
    count = len(gone) // len(group.members)
    indices = [int(value) for value in gone]
    return {
        candidate.module.name: indices[i * count : (i + 1) * count]
        for i, candidate in enumerate(group.members)
    }
