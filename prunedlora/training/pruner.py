"""Pruning while training: the object that watches an optimiser and carries out the schedule's events."""

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from types import TracebackType
from typing import Any

import torch
from torch import Tensor, nn

from prunedlora.adapters.modules import LoraModule, find_lora_modules
from prunedlora.adapters.optimizer_state import check_state
from prunedlora.adapters.peft import describe_adapter, name_in_base
from prunedlora.adapters.surgery import check_removed, hold_at_zero, no_component, shrink
from prunedlora.criteria import get_criterion
from prunedlora.distributed import assert_same_everywhere
from prunedlora.errors import ConfigurationError, NonFiniteError, PruningIncompleteError
from prunedlora.ranks.reduction import Candidate, allocate_ranks, reduce_all
from prunedlora.statistics.collector import Collector
from prunedlora.statistics.data import Statistics
from prunedlora.training.checkpoint import check_same_training, past_events
from prunedlora.training.config import PruneConfig
from prunedlora.training.event import carry_out
from prunedlora.training.optimizers import (
    check_gradients,
    check_optimized,
    is_skipped,
    loss_scale_of,
    refuse_unscaling,
    unwrap_optimizer,
)
from prunedlora.training.rotation import check_rotatable
from prunedlora.training.schedule import PruneEvent

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
        loss_scale: Callable[[], float] | None = None,
    ) -> None:
        self.model = model
        self.config = config
        self.adapter = adapter
        self.optimizer = unwrap_optimizer(optimizer)
        self.modules = find_lora_modules(model, adapter)
        self.total_steps = total_steps
        self.step = 0
        self.events: list[PruneEvent] = []
        self._finished = False
        # Refused before the first step: factors that are not trained, events that do not fit into training.
        self._criterion = get_criterion(config.criterion)
        check_optimized(self.modules, self.optimizer)
        self._plan = config.schedule.plan({m.name: m.rank for m in self.modules}, total_steps)
        # Hooks come last, so that a refusal leaves none behind.
        self._removed = {m.name: no_component(m) for m in self.modules}
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
        self._hooks = [
            self.optimizer.register_step_pre_hook(self._before_step),
            self.optimizer.register_step_post_hook(self._after_step),
        ]

    @property
    def ranks(self) -> dict[str, int]:
        """Components alive in each module."""
        return {name: int((~removed).sum()) for name, removed in self._removed.items()}

    def statistics(self, module: LoraModule) -> Statistics:
        """What has been collected of a module's live components so far; looking changes nothing.

        Raises:
            ConfigurationError: nothing has been collected yet.
        """
        with self._collector.random_numbers_kept():
            return self._collector.measure(module, self._live(module))

    def finish(self) -> None:
        """Remove the hooks and make the tensors small; the optimiser can go on training them.

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
        # Every module is checked before any is cut.
        for module in self.modules:
            if not (torch.isfinite(module.B).all() and torch.isfinite(module.A).all()):
                raise NonFiniteError(f"the trained factors of {module.name} hold NaN or infinity")
            check_removed(module, self._removed[module.name])
        for module in self.modules:
            shrink(module, self._removed[module.name], self.optimizer)
            self._removed[module.name] = no_component(module)
        describe_adapter(self.model, self.modules)
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

        Load the model's and the optimiser's states first.

        Raises:
            ConfigurationError: this pruner has begun already, `state` is of other settings or another adapter, or the
                model's weights are not those of the checkpoint; nothing is changed.
        """
        if self.step > 0:
            raise ConfigurationError("this pruner has begun already; load the state into a new one")
        check_same_training(state, self.config, self.modules)
        events, removed = past_events(state["events"], self.modules)
        self._collector.load_state_dict(state["statistics"])
        self.step = state["step"]
        self.events = events
        self._removed = removed
        self._collector.activate(self._collects(self.step + 1))

    def close(self) -> None:
        """Remove the hooks; masked components stay masked, tensors keep their size."""
        for hook in self._hooks:
            hook.remove()
        self._hooks = []
        self._collector.close()

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

    def _before_step(self, *_: Any) -> None:
        refuse_unscaling(self.optimizer)
        if is_skipped(self.optimizer):
            return
        step = self.step + 1
        due = len(self.events) < len(self._plan) and step >= self._plan[len(self.events)][0]
        if due or self._collects(step) or self._collector.reads_every_step:
            check_gradients(self.modules, step)
            self._collector.update(in_window=self._collects(step))
        if due:
            self._prune(step, self._plan[len(self.events)][1])

    def _after_step(self, *_: Any) -> None:
        if is_skipped(self.optimizer):
            return
        self.step += 1
        if self.config.decay > 0:
            self._collector.discount(self.config.decay)
        self._collector.activate(self._collects(self.step + 1))
        if self.events:
            for module in self.modules:
                hold_at_zero(module, self._removed[module.name])

    @torch.no_grad()
    def _prune(self, step: int, ranks: dict[str, int]) -> None:
        start = time.perf_counter()
        config = self.config
        # What can be refused is refused before anything is computed or changed.
        check_state(self.modules, self.optimizer)
        if self._criterion.rotates and config.moments == "follow":
            check_rotatable(self.modules, self.optimizer)
        candidates = [
            Candidate.of(m, self._collector.measure(m, self._live(m)), self._removed[m.name])
            for m in self.modules
        ]
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
        # Every process must choose alike before any changes its weights.
        reductions = reduce_all(self._criterion, config.options, candidates, ranks)
        removed = {c.module.name: c.live[reduction.removed] for c, reduction in reductions}
        assert_same_everywhere(removed)
        for candidate, reduction in reductions:
            mask = self._removed[candidate.module.name]
            mask[removed[candidate.module.name]] = True
            rotates = self._criterion.rotates
            carry_out(
                candidate, reduction, mask, self.optimizer, rotates=rotates, moments=config.moments
            )
        # Averages of the old components say nothing of new mixtures.
        if self._criterion.rotates or config.decay == 0:
            self._collector.reset()
        cost = sum(float(reduction.cost.double().sum()) for _, reduction in reductions)
        event = PruneEvent(
            step,
            ranks,
            {n: r.tolist() for n, r in removed.items()},
            cost,
            time.perf_counter() - start,
        )
        self.events.append(event)
        logger.info(
            "step %d: event %d of %d, cost %.3g", step, len(self.events), len(self._plan), cost
        )

    def _live(self, module: LoraModule) -> Tensor:
        """Indices of the components of a module that are alive."""
        return (~self._removed[module.name]).nonzero().squeeze(1)
