"""How much of the learning rate is left after the last event: what recovers after it, recovers by that."""

import copy
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

logger = logging.getLogger(__name__)

#: Below this share of the sum of all learning rates, the last event leaves too little to recover by.
LEAST_SHARE = 0.1


class _SameGroups(torch.optim.Optimizer):
    """An optimiser of one number a group, with the settings of another: a scheduler can be tried on it."""

    def __init__(self, optimizer: torch.optim.Optimizer) -> None:
        groups = [
            {**{k: v for k, v in group.items() if k != "params"}, "params": [torch.zeros(1)]}
            for group in optimizer.param_groups
        ]
        super().__init__(groups, optimizer.defaults)

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Nothing moves."""


def learning_rates(scheduler: Any, steps: int) -> list[float] | None:
    """The learning rates of the next optimiser steps, the mean over the optimiser's groups of parameters.

    The scheduler is tried on a copy; it and its optimiser stay as they are.

    Args:
        scheduler: a torch scheduler that steps once after each optimiser step, or accelerate's wrapper of one.
        steps: how many.

    Returns:
        One rate a step; None for a scheduler that waits for something else than steps, such as a metric.

    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    >>> scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=4)
    >>> learning_rates(scheduler, 4), scheduler.last_epoch
    ([1.0, 0.75, 0.5, 0.25], 0)
    """
    scheduler = getattr(scheduler, "scheduler", scheduler)  # accelerate's wrapper
    waits = isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
    if waits or not isinstance(scheduler, LRScheduler):
        return None
    trial_optimizer = _SameGroups(scheduler.optimizer)
    trial = copy.deepcopy(scheduler, {id(scheduler.optimizer): trial_optimizer})
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # schedulers notice that this is another optimiser
        for _ in range(steps):
            groups = trial_optimizer.param_groups
            rates.append(sum(float(group["lr"]) for group in groups) / len(groups))
            trial_optimizer.step()
            trial.step()
    return rates


def share_left(rates: Sequence[float], last_event: int) -> float:
    """Share of the sum of all learning rates that is used from the last event on.

    Args:
        rates: of every optimiser step of the training.
        last_event: the optimiser step, counted from 1, before which components go for the last time.

    >>> share_left([4.0, 3.0, 2.0, 1.0], 3)
    0.3
    """
    total = sum(rates)
    return sum(rates[last_event - 1 :]) / total if total > 0 else 1.0


def warn_of_late_events(scheduler: Any, last_event: int, total_steps: int) -> float | None:
    """The share of the learning rate that the last event leaves; None where the scheduler waits for other things.

    Logs a warning where the last event leaves less than `LEAST_SHARE` of the learning rate to recover by.

    Args:
        scheduler: as for `learning_rates`, before its first step.
        last_event: optimiser step of the last event, counted from 1.
        total_steps: optimiser steps of the training.
    """
    rates = learning_rates(scheduler, total_steps)
    if rates is None:
        return None
    left = share_left(rates, last_event)
    if left < LEAST_SHARE:
        logger.warning(
            "the last pruning event, at step %d of %d, leaves %.1f %% of the sum of all learning rates to recover by; "
            "raise per_event, or lower interval or warmup_steps, to end earlier",
            last_event,
            total_steps,
            100 * left,
        )
    return left
