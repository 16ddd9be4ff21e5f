"""What the pruner must know of optimisers: what they train, by which gradients, what they keep, when they step."""

import math
import weakref
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_pre_hook

from prunedlora.adapters.modules import LoraModule
from prunedlora.adapters.sharding import REMEDY, local
from prunedlora.distributed import true_everywhere
from prunedlora.errors import ConfigurationError, NonFiniteError, UnsupportedOptimizerError
from prunedlora.linalg.numerics import holds


def unwrap_optimizer(optimizer: Any) -> torch.optim.Optimizer:
    """The torch optimiser inside wrappers such as accelerate's.

    Raises:
        ConfigurationError: there is none; the pruner needs its step hooks.
        UnsupportedOptimizerError: a wrapper keeps state of its own, such as Lookahead's slow weights, or shares
            state out among the processes, as ZeRO-1 and ZeRO-2 do.
    """
    _refuse_zero(optimizer)
    while not isinstance(optimizer, torch.optim.Optimizer) or hasattr(optimizer, "optimizer"):
        if not hasattr(optimizer, "optimizer"):
            raise ConfigurationError(f"{type(optimizer).__name__} is not a torch.optim.Optimizer")
        inner = optimizer.optimizer
        state = getattr(optimizer, "state", None)
        if isinstance(state, Mapping) and state is not getattr(inner, "state", None):
            raise UnsupportedOptimizerError(
                f"{type(optimizer).__name__} keeps state of its own beside that of "
                f"{type(inner).__name__}, which a pruning event cannot change; use the latter alone"
            )
        optimizer = inner
        _refuse_zero(optimizer)
    return optimizer


def _refuse_zero(optimizer: Any) -> None:
    """Refuse an optimiser that keeps the state of each parameter in one process only, out of an event's reach."""
    kinds = type(optimizer).__mro__
    if any(
        kind.__name__ == "ZeroRedundancyOptimizer"
        or kind.__module__.startswith("deepspeed.runtime.")
        for kind in kinds
    ):
        raise UnsupportedOptimizerError(
            f"{kinds[0].__name__} shares the optimiser's state out among the processes (ZeRO), where a pruning event "
            f"cannot change it; with a plain optimiser, {REMEDY}"
        )


def loss_scale_of(optimizer: Any) -> Callable[[], float] | None:
    """The scale of the gradient scaler that accelerate's optimiser carries; None without one."""
    scaler = getattr(optimizer, "scaler", None)
    return scaler.get_scale if scaler is not None else None


def refuse_closure(args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
    """Refuse a step that will compute the gradients itself, after the pruner has read them.

    Args:
        args: positional arguments of the optimiser's ``step``, its own object first or not.
        kwargs: its other arguments.

    Raises:
        ConfigurationError: there is a closure.
    """
    if any(callable(value) for value in (*args, *kwargs.values())):
        raise ConfigurationError(
            "the optimiser computes the gradients by a closure, after the pruner has read them; call the closure "
            "first and then step() without it (in Lightning: automatic_optimization = False)"
        )


class OtherOptimizers:
    """Refuses the steps of any other optimiser that trains the same factors.

    Args:
        modules: the adapted modules.
        optimizer: the optimiser that the pruner is attached to; wrappers of it are the same.
    """

    def __init__(self, modules: list[LoraModule], optimizer: torch.optim.Optimizer) -> None:
        self._modules = modules
        self._optimizer = optimizer
        # The hook is called for every optimiser of this process: it must not keep this one alive.
        own = weakref.WeakMethod(self._check)

        def hook(other: torch.optim.Optimizer, *_: Any) -> None:
            check = own()
            if check is not None:
                check(other)

        self._handle = register_optimizer_step_pre_hook(hook)
        weakref.finalize(self, self._handle.remove)

    def close(self) -> None:
        """Let all optimisers step."""
        self._handle.remove()

    def _check(self, other: torch.optim.Optimizer) -> None:
        if other is self._optimizer or innermost(other) is self._optimizer:
            return
        trained = {id(p) for group in other.param_groups for p in group["params"]}
        for module in self._modules:
            if id(module.B) in trained or id(module.A) in trained:
                raise ConfigurationError(
                    f"another optimiser trains {module.name} than the one that the pruner is attached to; make the "
                    "optimiser first and the LoraRankPruner with it, and resume by load_state_dict"
                )


def innermost(optimizer: Any) -> Any:
    """What the attribute ``optimizer`` leads to, followed as far as it goes."""
    while hasattr(optimizer, "optimizer"):
        optimizer = optimizer.optimizer
    return optimizer


def is_skipped(optimizer: torch.optim.Optimizer) -> bool:
    """Whether a fused optimiser drops this step inside its kernel because fp16 gradients overflowed."""
    overflow = getattr(optimizer, "found_inf", None)
    return overflow is not None and bool(overflow)


def refuse_unscaling(optimizer: torch.optim.Optimizer) -> None:
    """Refuse a fused optimiser that is about to divide the gradients by the loss scale itself.

    Raises:
        ConfigurationError: it is; the message names the two ways out.
    """
    if getattr(optimizer, "grad_scale", None) is not None:
        raise ConfigurationError(
            "a fused optimiser is about to unscale fp16 gradients itself, after the pruner has read them; "
            "call scaler.unscale_(optimizer) before scaler.step(optimizer), or use fused=False"
        )


def check_optimized(modules: list[LoraModule], optimizer: torch.optim.Optimizer) -> None:
    """Refuse adapters whose factors the optimiser does not train.

    Raises:
        ConfigurationError: a factor is frozen or is in none of the optimiser's groups.
    """
    trained = {id(p) for group in optimizer.param_groups for p in group["params"]}
    for module in modules:
        for letter, parameter in (("B", module.B), ("A", module.A)):
            if not parameter.requires_grad:
                raise ConfigurationError(
                    f"{letter} of {module.name} is frozen; load the adapter with is_trainable=True"
                )
            if id(parameter) not in trained:
                raise ConfigurationError(
                    f"the optimiser does not train {letter} of {module.name}; build it after the adapter, "
                    "from the parameters that require a gradient"
                )


def check_gradients(modules: list[LoraModule], step: int) -> Bool[Tensor, ""]:
    """Whether the gradients of a step are finite, left on the device, so that nothing waits for it.

    Of sharded gradients the part of this process is looked at.

    Raises:
        ConfigurationError: a factor has none.
    """
    gradients = [p.grad for m in modules for p in (m.B, m.A)]
    present = [g for g in gradients if g is not None]
    if len(present) < len(gradients):
        raise ConfigurationError(
            f"a LoRA factor has no gradient at optimiser step {step}; call backward() before step(), and "
            "leave modules that the loss does not reach out of target_modules"
        )
    # NaN and infinity pass into the largest entry, which no sum can overflow to.
    dtype = reduce(torch.promote_types, {g.dtype for g in present}, torch.float32)
    held = [part for part in map(local, present) if part.numel()]
    if not held:
        return torch.ones((), dtype=torch.bool, device=present[0].device)
    largest = torch._foreach_norm(held, math.inf, dtype)
    return torch.isfinite(torch.stack([n.to(held[0].device) for n in largest])).all()


def refuse_not_finite(finite: Mapping[int, Bool[Tensor, ""]]) -> None:
    """Refuse gradients from which nothing can be decided, in every process or in none.

    Args:
        finite: what `check_gradients` gave, by step; for the same steps in every process.

    Raises:
        NonFiniteError: NaN or infinity in those of a step; the message names the first.
    """
    if not finite:
        return
    usual = true_everywhere(torch.stack(list(finite.values())))
    if holds(usual):
        return
    step = list(finite)[usual.tolist().index(False)]
    raise NonFiniteError(
        f"the gradients at optimiser step {step} hold NaN or infinity; lower the learning rate, or skip "
        "such steps before the optimiser"
    )
