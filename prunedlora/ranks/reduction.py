"""What the modules of a model become by a criterion; computed for all of them, nothing is changed."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor

from prunedlora.adapters.modules import LoraModule
from prunedlora.choices import Budget
from prunedlora.criteria import Criterion
from prunedlora.criteria.registry import Reduction
from prunedlora.errors import ConfigurationError, NonFiniteError, SingularCurvatureError
from prunedlora.factors import Factors
from prunedlora.linalg.numerics import holds, is_finite, optimistically
from prunedlora.ranks.budget import allocate, comparable
from prunedlora.statistics.data import Statistics

#: Entries of a factor or of a statistic that are stacked at most: 1 GB in float64; on a CPU what its caches hold.
STACKED = 2**27
STACKED_ON_CPU = 2**20


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
        module: LoraModule,
        statistics: Statistics,
        live: Int[Tensor, " k"] | None = None,
        whole: Factors | None = None,
    ) -> "Candidate":
        """A copy of what is alive in a module now.

        Args:
            module: the module.
            statistics: of its live components, in their order.
            live: indices of the components that are alive, increasing; all by default.
            whole: the module's factors, where they are sharded and have been gathered.
        """
        if live is None:
            live = torch.arange(module.rank, device=module.A.device)
        # Indexing by a tensor copies, so that later steps of training leave these factors alone.
        whole = whole or Factors(module.B.detach(), module.A.detach())
        factors = Factors(whole.B[:, live], whole.A[live])
        return Candidate(module, live, factors, statistics)


@dataclass(frozen=True)
class Group:
    """Modules of equal shape that lose as many components, stacked along a first dimension.

    Attributes:
        members: the m modules.
        live: indices of their live components.
        factors: these components.
        reduction: what becomes of them.
    """

    members: list[Candidate]
    live: Int[Tensor, "m k"]
    factors: Factors
    reduction: Reduction

    @property
    def gone(self) -> Int[Tensor, "m count"]:
        """The removed components, by their indices in the modules."""
        return self.live.gather(1, self.reduction.removed)

    @property
    def kept(self) -> Int[Tensor, "m rest"]:
        """The components that stay, by their indices in the modules, increasing."""
        gone = torch.zeros_like(self.live).scatter_(1, self.reduction.removed, 1)
        first = gone.argsort(dim=1, stable=True)
        return self.live.gather(1, first[:, : self.live.shape[1] - self.reduction.removed.shape[1]])


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
    for members in _grouped(candidates, planned):
        factors, statistics = _stacked(members)
        batch = criterion.score(factors, statistics, **options)
        scores |= {c.module.name: score for c, score in zip(members, batch, strict=True)}
    # In the order of the model, which decides between equal scores.
    for candidate in candidates:
        module = candidate.module
        scores[module.name] = comparable(criterion, scores.pop(module.name), module.scaling)
        sizes[module.name] = module.B.shape[0] + module.A.shape[1] if budget == "parameters" else 1
    total = sum(planned[name] * size for name, size in sizes.items())
    return allocate(scores, total, sizes=sizes, min_rank=min_rank, round_to=round_to)


def reduce_all(
    criterion: Criterion,
    options: Mapping[str, Any],
    candidates: list[Candidate],
    ranks: Mapping[str, int],
) -> list[tuple[Candidate, Reduction]]:
    """The reduction of every module to its rank; see `reduce_groups`.

    Raises:
        ConfigurationError, NonFiniteError, SingularCurvatureError: as `reduce_groups` does.
    """
    groups, _ = optimistically(
        lambda: reduce_groups(criterion, options, candidates, ranks), lambda _: []
    )
    return [
        (candidate, Reduction(Factors(B, A), removed, cost))
        for group in groups
        for candidate, B, A, removed, cost in zip(
            group.members,
            group.reduction.factors.B,
            group.reduction.factors.A,
            group.reduction.removed,
            group.reduction.cost,
            strict=True,
        )
    ]


def reduce_groups(
    criterion: Criterion,
    options: Mapping[str, Any],
    candidates: list[Candidate],
    ranks: Mapping[str, int],
) -> list[Group]:
    """The reduction of every module to its rank, computed for all modules of equal shape at once.

    Raises:
        ConfigurationError: B of a module is still zero.
        NonFiniteError, SingularCurvatureError: the message names the module.
    """
    groups = []
    for members in _grouped(candidates, ranks):
        factors, statistics = _stacked(members)
        alive = factors.B.flatten(1).any(dim=1)
        if not holds(alive):
            zero = members[alive.tolist().index(False)].module.name
            raise ConfigurationError(
                f"B of {zero} is still zero, so every component is; warm up longer before pruning"
            )
        count = factors.rank - ranks[members[0].module.name]
        try:
            reduction = _reduce(criterion, options, factors, statistics, count)
        except (NonFiniteError, SingularCurvatureError):
            # One by one, to name the module that has the error.
            for candidate in members:
                with naming_module(candidate.module.name):
                    _reduce(criterion, options, *_stacked([candidate]), count)
            raise
        live = torch.stack([c.live for c in members])
        groups.append(Group(members, live, factors, reduction))
    return groups


def _reduce(
    criterion: Criterion,
    options: Mapping[str, Any],
    factors: Factors,
    statistics: Statistics,
    count: int,
) -> Reduction:
    reduction = criterion.reduce(factors, statistics, count, **options)
    if not (is_finite(reduction.factors.B) and is_finite(reduction.factors.A)):
        raise NonFiniteError(
            f"{criterion.name} made NaN or infinity of the factors; nothing changed"
        )
    return reduction


def stackable(
    items: Sequence[tuple[Factors, Statistics]], counts: Sequence[int]
) -> list[list[int]]:
    """Places of the modules that go together: they agree in all shapes and lose as many components.

    Args:
        items: factors and statistics of each module.
        counts: components that each is to lose.
    """
    groups: dict[tuple[Any, ...], list[int]] = defaultdict(list)
    for place, ((factors, statistics), count) in enumerate(zip(items, counts, strict=True)):
        groups[(count, _signature(factors), _signature(statistics))].append(place)
    # Few enough in a stack that what is computed from it fits into memory beside a model.
    parts = []
    for members in groups.values():
        first = items[members[0]]
        largest = max(t.numel() for item in first for t in vars(item).values() if t is not None)
        device = first[0].B.device
        entries = STACKED_ON_CPU if device.type == "cpu" else STACKED
        most = max(1, entries // max(1, largest))
        parts += [members[i : i + most] for i in range(0, len(members), most)]
    return parts


def stacked(items: Sequence[tuple[Factors, Statistics]]) -> tuple[Factors, Statistics]:
    """Factors and statistics with a leading batch dimension, from several modules of equal shapes."""
    return _stack([factors for factors, _ in items]), _stack([s for _, s in items])


def _grouped(candidates: list[Candidate], ranks: Mapping[str, int]) -> list[list[Candidate]]:
    """The modules that can be stacked, see `stackable`."""
    items = [(c.factors, c.statistics) for c in candidates]
    counts = [c.live.numel() - ranks[c.module.name] for c in candidates]
    return [[candidates[place] for place in part] for part in stackable(items, counts)]


def _signature(item: Factors | Statistics) -> tuple[Any, ...]:
    """What must agree for two of them to be stacked."""
    return tuple((k, v.shape, v.dtype, v.device) for k, v in vars(item).items() if v is not None)


def _stacked(members: list[Candidate]) -> tuple[Factors, Statistics]:
    return stacked([(c.factors, c.statistics) for c in members])


def _stack(items: Any) -> Any:
    """One dataclass of tensors with a leading batch dimension, from several of equal shapes."""
    values = {
        name: None if value is None else torch.stack([getattr(item, name) for item in items])
        for name, value in vars(items[0]).items()
    }
    return type(items[0])(**values)
