"""From factors and statistics of all modules to what each of them becomes; changes nothing."""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from prunedlora.adapters.modules import LoraModule
from prunedlora.criteria import Criterion
from prunedlora.criteria.registry import Reduction
from prunedlora.errors import ConfigurationError, NonFiniteError, SingularCurvatureError
from prunedlora.factors import Factors
from prunedlora.ranks.budget import Budget, allocate, comparable
from prunedlora.statistics.data import Statistics


@dataclass(frozen=True)
class Candidate:
    """The live components of a module, and what has been measured about them.

    Attributes:
        module: the module.
        live: indices of its live components.
        factors: these components.
        statistics: of these components.
    """

    module: LoraModule
    live: Tensor
    factors: Factors
    statistics: Statistics


def allocate_ranks(
    criterion: Criterion,
    options: Mapping[str, Any],
    candidates: list[Candidate],
    planned: Mapping[str, int],
    *,
    budget: Budget,
    min_rank: int,
    round_to: int,
) -> dict[str, int]:
    """Ranks within the total that the planned ranks take, by the scores of all modules.

    Raises:
        ConfigurationError, NonFiniteError: see `prunedlora.ranks.budget.allocate`.
    """
    scores, sizes = {}, {}
    for candidate in candidates:
        module = candidate.module
        score = criterion.score(candidate.factors, candidate.statistics, **options)
        scores[module.name] = comparable(criterion, score, module.scaling)
        sizes[module.name] = module.B.shape[0] + module.A.shape[1] if budget == "parameters" else 1
    total = sum(planned[name] * size for name, size in sizes.items())
    return allocate(scores, total, sizes=sizes, min_rank=min_rank, round_to=round_to)


def reduce_all(
    criterion: Criterion, options: Mapping[str, Any], candidates: list[Candidate], ranks: Mapping[str, int]
) -> list[tuple[Candidate, Reduction]]:
    """The reduction of every module to its rank, computed for all modules of equal shape at once.

    Raises:
        ConfigurationError: B of a module is still zero.
        NonFiniteError, SingularCurvatureError: the message names the module.
    """
    groups: dict[tuple[Any, ...], list[Candidate]] = defaultdict(list)
    for candidate in candidates:
        if not candidate.factors.B.any():
            raise ConfigurationError(
                f"B of {candidate.module.name} is still zero, so every component is; warm up longer before pruning"
            )
        count = candidate.live.numel() - ranks[candidate.module.name]
        groups[(count, _signature(candidate.factors), _signature(candidate.statistics))].append(candidate)
    out = []
    for (count, *_), members in groups.items():
        try:
            reduction = _reduce(criterion, options, members, count)
        except (NonFiniteError, SingularCurvatureError) as error:
            _blame(criterion, options, members, count)
            raise error
        for i, candidate in enumerate(members):
            own = Factors(reduction.factors.B[i], reduction.factors.A[i])
            out.append((candidate, Reduction(own, reduction.removed[i], reduction.cost[i])))
    return out


def _reduce(criterion: Criterion, options: Mapping[str, Any], members: list[Candidate], count: int) -> Reduction:
    factors, statistics = _stack([c.factors for c in members]), _stack([c.statistics for c in members])
    reduction = criterion.reduce(factors, statistics, count, **options)
    if not (torch.isfinite(reduction.factors.B).all() and torch.isfinite(reduction.factors.A).all()):
        raise NonFiniteError(f"{criterion.name} made NaN or infinity of the factors; nothing changed")
    return reduction


def _blame(criterion: Criterion, options: Mapping[str, Any], members: list[Candidate], count: int) -> None:
    """Raise the error of the first module that has it, under the module's name."""
    for candidate in members:
        try:
            _reduce(criterion, options, [candidate], count)
        except (NonFiniteError, SingularCurvatureError) as error:
            raise type(error)(f"{candidate.module.name}: {error}") from None


def _signature(item: Factors | Statistics) -> tuple[Any, ...]:
    """What must agree for two of them to be stacked."""
    return tuple((k, v.shape, v.dtype, v.device) for k, v in vars(item).items() if v is not None)


def _stack(items: Any) -> Any:
    """One dataclass of tensors with a leading batch dimension, from several of equal shapes."""
    values = {
        name: None if value is None else torch.stack([getattr(item, name) for item in items])
        for name, value in vars(items[0]).items()
    }
    return type(items[0])(**values)
