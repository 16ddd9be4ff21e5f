"""Adversarial search: gradient ascent on log(measured / bound) over all inputs, from many starts at once.

Every floating-point field of the instance is free, its direction and, apart from it, its scale, so that the search
can cross decades.  Where a rule chooses a mask, the gradient is that of the mask chosen; the best instance seen
counts, not the last.
"""

import time
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Generator, Tensor

from theory.checking import instances
from theory.checking.instances import tensors
from theory.checking.registry import Statement
from theory.checking.result import Result

#: Steps and learning rate (relative to the scale of each field) of the search.
STEPS, RATE = 300, 0.05
#: Scale at which a field that vanishes at the start joins the search.
FROM_ZERO = 1e-6


@dataclass(frozen=True)
class Attack:
    """What the search has found at one shape.

    Attributes:
        shape: shape of the instances.
        seed: from which the starts are drawn.
        best_ratio: largest measured / bound among instances that meet the assumptions.
        start_ratio: the same before the first step.
        violations: starts from which a violation was reached at some step.
        seconds_to_fall: time until the first violation; None if there was none.
        seconds: time of the whole search.
        trajectory: best ratio so far at equally spaced steps.
        instance: the best instance, a batch of one.
    """

    shape: dict[str, int]
    seed: int
    best_ratio: float
    start_ratio: float
    violations: int
    seconds_to_fall: float | None
    seconds: float
    trajectory: list[float]
    instance: Any

    def to_json(self) -> dict[str, Any]:
        """Everything, the tensors of the best instance as nested lists."""
        best = {name: value[0].tolist() for name, value in tensors(self.instance).items()}
        return {**{f.name: getattr(self, f.name) for f in fields(self)}, "instance": best}


class _Search:
    """Free variables of the search: for each floating field a direction and the logarithm of a scale."""

    def __init__(self, start: Any) -> None:
        self._start = start
        names = [name for name, value in tensors(start).items() if value.is_floating_point()]
        self._unit: dict[str, Tensor] = {}
        self._log_scale: dict[str, Tensor] = {}
        for name in names:
            X = getattr(start, name)
            axes = tuple(range(1, X.ndim))
            scale = X.square().mean(dim=axes, keepdim=True).sqrt() if axes else X.abs()
            scale = torch.where(scale > 0, scale, torch.full_like(scale, FROM_ZERO))
            self._unit[name] = (X / scale).detach().requires_grad_()
            self._log_scale[name] = scale.log().detach().requires_grad_()
        self.variables = [*self._unit.values(), *self._log_scale.values()]

    def instance(self) -> Any:
        """The current instances."""
        return replace(
            self._start, **{name: X * self._log_scale[name].exp() for name, X in self._unit.items()}
        )


def attack(
    statement: Statement,
    shape: dict[str, int],
    seed: int,
    device: str = "cpu",
    tighten: float = 1.0,
    steps: int = STEPS,
) -> Attack:
    """Search for the instance that comes closest to violating a bound, or goes furthest beyond it."""
    began = time.perf_counter()
    starts = statement.starts
    start = statement.sample(Generator().manual_seed(seed), starts, **shape)
    search = _Search(instances.to_device(start, device))
    optimiser = torch.optim.Adam(search.variables, lr=RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimiser, steps, eta_min=RATE * 1e-4)
    fallen = torch.zeros(starts, dtype=torch.bool, device=device)
    fell_after = None
    best = -torch.inf
    best_instance = None
    trajectory = []
    for _ in range(steps):
        instance = search.instance()
        result = statement.check(instance).tightened(tighten)
        fallen |= result.violated
        if fell_after is None and bool(fallen.any()):
            fell_after = time.perf_counter() - began
        ratio = _settled(result)
        leader = int(ratio.argmax())
        if best_instance is None or ratio[leader] > best:
            best = ratio[leader].item()
            best_instance = instances.entry(_detached(instance), leader)
        trajectory.append(best)
        climbed = _log_ratio(result) if statement.ascent is None else statement.ascent(instance)
        _ascend(optimiser, search.variables, climbed.nan_to_num(0.0, 0.0, 0.0).sum())
        schedule.step()
    return Attack(
        shape=dict(shape),
        seed=seed,
        best_ratio=best,
        start_ratio=trajectory[0],
        violations=int(fallen.sum()),
        seconds_to_fall=fell_after,
        seconds=time.perf_counter() - began,
        trajectory=trajectory[:: max(1, steps // 40)],
        instance=best_instance,
    )


def _settled(result: Result) -> Tensor:
    """Ratios that count: assumptions met, and the left side above rounding; others are -1."""
    counts = result.applies & (result.lhs > 1e3 * result.rounding) & ~result.ratio.isnan()
    return torch.where(counts, result.ratio, -1.0).detach()


def _log_ratio(result: Result) -> Tensor:
    """Logarithm of measured / bound."""
    tiny = 1e-300
    return result.lhs.clamp(min=tiny).log() - result.rhs.clamp(min=tiny).log()


def _ascend(optimiser: torch.optim.Optimizer, variables: list[Tensor], objective: Tensor) -> None:
    """One step up; a variable without a finite gradient stays where it is."""
    if not objective.requires_grad:
        return
    gradients = torch.autograd.grad(-objective, variables, allow_unused=True)
    for variable, gradient in zip(variables, gradients, strict=True):
        variable.grad = (
            torch.zeros_like(variable) if gradient is None else gradient.nan_to_num(0.0, 0.0, 0.0)
        )
    optimiser.step()


def _detached(instance: Any) -> Any:
    """The same instance without its graph."""
    return replace(instance, **{name: value.detach() for name, value in tensors(instance).items()})
