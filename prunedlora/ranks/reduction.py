"""What the modules of a model become by a criterion; computed for all of them, nothing is changed."""

from collections import defaultdict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from prunedlora.adapters.modules import LoraModule
from prunedlora.adapters.surgery import no_component
from prunedlora.choices import Budget
from prunedlora.criteria import Criterion
from prunedlora.criteria.registry import Reduction
from prunedlora.errors import ConfigurationError, NonFiniteError, SingularCurvatureError
from prunedlora.factors import Factors
from prunedlora.ranks.budget import allocate, comparable
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

    @staticmethod
    def of(
        module: LoraModule, statistics: Statistics, removed: Bool[Tensor, " r"] | None = None
    ) -> "Candidate":
        """A copy of what is alive in a module now.

        Args:
            module: the module.
            statistics: of its live components, in their order.
            removed: mask of the components that are not alive; none by default.
        """
        if removed is None:
            removed = no_component(module)
        live = (~removed).nonzero().squeeze(1)
        # Indexing by a tensor copies, so that later steps of training leave these factors alone.
        factors = Factors(module.B.detach()[:, live], module.A.detach()[live])
        return Candidate(module, live, factors, statistics)


@contextmanager
def naming_module(name: str) -> Iterator[None]:
    """Puts the name of a module before an error of its numbers."""
    try:
        yield
    except (NonFiniteError, SingularCurvatureError) as error:
        raise type(error)(f"{name}: {error}") from None


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
    scores: dict[str, Tensor] = {}
    sizes: dict[str, int] = {}
    for candidate in candidates:
        module = candidate.module
        score = criterion.score(candidate.factors, candidate.statistics, **options)
        scores[module.name] = comparable(criterion, score, module.scaling)
        sizes[module.name] = module.B.shape[0] + module.A.shape[1] if budget == "parameters" else 1
    total = sum(planned[name] * size for name, size in sizes.items())
    return allocate(scores, total, sizes=sizes, min_rank=min_rank, round_to=round_to)


def reduce_all(
    criterion: Criterion,
    options: Mapping[str, Any],
    candidates: list[Candidate],
    ranks: Mapping[str, int],
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
        # What is stacked must agree in all shapes, and lose as many components.
        count = candidate.live.numel() - ranks[candidate.module.name]
        groups[(count, _signature(candidate.factors), _signature(candidate.statistics))].append(
            candidate
        )
    out = []
    for (count, *_), members in groups.items():
        try:
            reduction = _reduce(criterion, options, members, count)
        except (NonFiniteError, SingularCurvatureError):
            # One by one, to name the module that has the error.
            for candidate in members:
                with naming_module(candidate.module.name):
                    _reduce(criterion, options, [candidate], count)
            raise
        for i, candidate in enumerate(members):
            own = Factors(reduction.factors.B[i], reduction.factors.A[i])
            out.append((candidate, Reduction(own, reduction.removed[i], reduction.cost[i])))
    return out


def _reduce(
    criterion: Criterion, options: Mapping[str, Any], members: list[Candidate], count: int
) -> Reduction:
    factors = _stack([c.factors for c in members])
    statistics = _stack([c.statistics for c in members])
    reduction = criterion.reduce(factors, statistics, count, **options)
    if not (
        torch.isfinite(reduction.factors.B).all() and torch.isfinite(reduction.factors.A).all()
    ):
        raise NonFiniteError(
            f"{criterion.name} made NaN or infinity of the factors; nothing changed"
        )
    return reduction


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
