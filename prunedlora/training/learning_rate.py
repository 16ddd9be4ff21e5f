"""How much of the learning rate is left after the last event: what recovers after it, recovers by that."""

import copy
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch.optim.lr_scheduler import LRScheduler

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


def learning_rates(scheduler: LRScheduler, steps: int) -> list[float] | None:
    """The learning rates of the next optimiser steps, the mean over the optimiser's groups of parameters.

    The scheduler is tried on a copy; it and its optimiser stay as they are.

    Args:
        scheduler: steps once after each optimiser step.
        steps: how many.

    Returns:
        One rate a step; None for a scheduler that waits for something else than steps, such as a metric.

    >>> optimizer = torch.optim.SGD([torch.zeros(1)], lr=1.0)
    >>> scheduler = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, total_iters=4)
    >>> learning_rates(scheduler, 4), scheduler.last_epoch
    ([1.0, 0.75, 0.5, 0.25], 0)
    """
    if not isinstance(scheduler, LRScheduler) or _waits(scheduler):
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


def _waits(scheduler: Any) -> bool:
    return isinstance(scheduler, torch.optim.lr_scheduler.ReduceLROnPlateau)
