"""Trying an optimiser on a tensor of its own, to learn what it keeps before it trains anything."""

import copy
from collections import defaultdict
from typing import Any

import torch
from torch import Tensor, nn

from prunedlora.adapters.optimizer_state import unsupported_state
from prunedlora.errors import UnsupportedOptimizerError

#: Steps of a trial, enough for an optimiser that looks back at older weights every few steps; those before the
#: weights are displaced; and by how much they are.
STEPS = 24
BEFORE = 6
DISPLACEMENT = 1e3
#: Learning rate and weight decay of the trial.
SMALL = 1e-9
#: Share of a displacement that must be left after the trial.
LEAST_LEFT = 0.9


def state_of_trial(optimizer: torch.optim.Optimizer, like: nn.Parameter) -> dict[str, Any]:
    """The state that an optimiser will keep for a parameter, if it can follow weights that an event writes.

    The optimiser itself takes no step: a copy of it with the same settings trains a tensor of its own.  One that
    cannot be copied or tried (it needs what only its own loop gives it) is left to the checks of its state that
    follow its first step.

    Args:
        optimizer: the optimiser.
        like: one of its parameters; the trial's has its shape, dtype and device.

    Returns:
        The state by its names; nothing where the optimiser could not be tried.

    Raises:
        UnsupportedOptimizerError: it keeps a second copy of the weights, as schedule-free optimisers and Lookahead
            do, and would undo what is written; or state that cannot be masked, as 8-bit optimisers do.
    """
    name = type(optimizer).__name__
    if all(callable(getattr(optimizer, mode, None)) for mode in ("train", "eval")):
        raise _second_copy(name)
    try:
        plain, state = _train(optimizer, like, 0.0)
        moved, _ = _train(optimizer, like, DISPLACEMENT)
    except UnsupportedOptimizerError:
        raise
    except Exception:
        return {}
    for key, value in state.items():
        if reason := unsupported_state(key, value, moved):
            raise UnsupportedOptimizerError(f"{name} {reason}")
    # An ordinary step depends on gradients: displaced weights stay displaced.  A second copy draws them back.
    left = (moved - plain).mean() / DISPLACEMENT
    if torch.isfinite(left) and left < LEAST_LEFT:
        raise _second_copy(name)
    return state


def _second_copy(name: str) -> UnsupportedOptimizerError:
    return UnsupportedOptimizerError(
        f"{name} keeps a second copy of the weights and draws them back to it, which undoes what a pruning event "
        "writes; use an optimiser that keeps moments only, such as AdamW"
    )


@torch.no_grad()
def _train(
    optimizer: torch.optim.Optimizer, like: nn.Parameter, displacement: float
) -> tuple[Tensor, dict[str, Any]]:
    """Weights and state after some steps of a copy of the optimiser, on the way of which they are displaced."""
    # Plain also where the parameter is sharded: what is done to single entries is done to shards alike.
    weights = nn.Parameter(torch.ones(like.shape, dtype=like.dtype, device=like.device))
    devices = [like.device] if like.device.type == "cuda" else []
    with torch.random.fork_rng(devices):
        trial = _copy(optimizer, weights)
        for i in range(STEPS):
            if i == BEFORE:
                weights.add_(displacement)
            weights.grad = torch.full_like(weights, 1e-3)
            # The class's own: what a scheduler puts around the method of an object steps the original.
            type(trial).step(trial)
    return weights.detach().float(), dict(trial.state[weights])


def _copy(optimizer: torch.optim.Optimizer, weights: nn.Parameter) -> torch.optim.Optimizer:
    """The same optimiser for one tensor, without its state, hooks and groups beyond the first."""
    trained = {id(p): weights for group in optimizer.param_groups for p in group["params"]}
    trial: torch.optim.Optimizer = object.__new__(type(optimizer))
    memo: dict[int, Any] = {**trained, id(optimizer): trial}
    own = ("state", "param_groups", "step")
    for key, value in vars(optimizer).items():
        if key not in own and not key.endswith("_hooks"):
            setattr(trial, key, copy.deepcopy(value, memo))
        elif key.endswith("_hooks"):
            setattr(trial, key, type(value)())
    settings = {k: v for k, v in optimizer.param_groups[0].items() if k != "params"}
    group = copy.deepcopy(settings, memo)
    # Steps so small that what is left of a displacement is not a matter of their length.
    group |= {key: SMALL for key in ("lr", "weight_decay") if isinstance(group.get(key), float)}
    trial.state = defaultdict(dict)
    trial.param_groups = [{**group, "params": [weights]}]
    return trial
