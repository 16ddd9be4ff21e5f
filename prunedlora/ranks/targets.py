"""Turns a target (a rank, a share of energy, a size) into a rank for each module."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunedlora.choices import Scope
from prunedlora.criteria import Criterion
from prunedlora.errors import ConfigurationError
from prunedlora.linalg.truncation import rank_for_energy
from prunedlora.ranks.budget import allocate, comparable


@dataclass(frozen=True)
class Scored:
    """What is known of a module before its rank is chosen.

    Attributes:
        scores: of its components, in the criterion's unit.
        scaling: the factor s in ``W = W0 + s B A``.
        size: parameters of one component, d_out + d_in.
    """

    scores: Tensor
    scaling: float
    size: int

    @property
    def rank(self) -> int:
        """Number of components."""
        return int(self.scores.numel())


def by_rank(
    criterion: Criterion, modules: Mapping[str, Scored], rank: int, scope: Scope, min_rank: int = 1
) -> dict[str, int]:
    """`rank` for every module, or the total of that by all modules' scores; a module never gets more than it has.

    Raises:
        ConfigurationError: `rank` is below 1 or above every module's rank.

    >>> from prunedlora.criteria import get_criterion
    >>> modules = {"q": Scored(torch.tensor([9.0, 8.0]), 1.0, 10), "v": Scored(torch.tensor([7.0, 1.0]), 3.0, 10)}
    >>> by_rank(get_criterion("svd"), modules, 1, "module"), by_rank(get_criterion("svd"), modules, 1, "global")
    ({'q': 1, 'v': 1}, {'q': 1, 'v': 1})
    """
    largest = max(module.rank for module in modules.values())
    if not 1 <= rank <= largest:
        raise ConfigurationError(
            f"rank must be between 1 and {largest}, the largest rank of the adapter, not {rank}"
        )
    each = {name: min(rank, module.rank) for name, module in modules.items()}
    if scope == "module":
        return each
    return allocate(_comparable(criterion, modules), sum(each.values()), min_rank=min_rank)


def by_energy(
    criterion: Criterion,
    modules: Mapping[str, Scored],
    energy: float,
    scope: Scope,
    *,
    one_rank: bool,
    min_rank: int = 1,
) -> dict[str, int]:
    """The smallest ranks that keep a share of the scores: of each module's, or of all modules' together.

    Args:
        criterion: whose scores they are; those in units of weight are squared first.
        modules: the modules.
        energy: the share to keep, in (0, 1].
        scope: whether each module keeps its share or all modules together.
        one_rank: give every module the largest of the ranks.
        min_rank: smallest rank of a module within a budget of all.

    Raises:
        ConfigurationError: `energy` out of range, or a criterion whose scores have no unit.

    >>> from prunedlora.criteria import get_criterion
    >>> modules = {"q": Scored(torch.tensor([9.0, 1.0]), 1.0, 10), "v": Scored(torch.tensor([1.0, 1.0]), 3.0, 10)}
    >>> by_energy(get_criterion("svd"), modules, 0.9, "module", one_rank=False)
    {'q': 1, 'v': 2}
    """
    if criterion.unit == "none":
        raise ConfigurationError(
            f"the scores of {criterion.name} have no unit, so no energy; name a rank or a size"
        )
    scores = _comparable(criterion, modules)
    if scope == "global":
        total = _rank(criterion, torch.cat(list(scores.values())), energy)
        ranks = allocate(scores, max(min_rank * len(scores), total), min_rank=min_rank)
    else:
        ranks = {name: _rank(criterion, values, energy) for name, values in scores.items()}
    if one_rank:
        return by_rank(criterion, modules, max(ranks.values()), "module")
    return ranks


def by_parameters(
    criterion: Criterion,
    modules: Mapping[str, Scored],
    parameters: int,
    scope: Scope,
    *,
    padded: bool,
    min_rank: int = 1,
) -> dict[str, int]:
    """The largest ranks whose factors take at most a number of parameters.

    Args:
        criterion: whose scores they are.
        modules: the modules.
        parameters: of all factors together.
        scope: one rank for all modules, or the best components of all.
        padded: whether every module takes as much as one of the largest rank: then one rank is as good as any.
            Without, a module of lower rank takes as much as it has.
        min_rank: smallest rank of a module within a budget of all.

    Raises:
        ConfigurationError: not even rank 1 fits.
    """
    total = sum(module.size for module in modules.values())
    if parameters < total:
        raise ConfigurationError(
            f"rank 1 in every module takes {total} parameters, but only {max(0, parameters)} fit; allow a larger size"
        )
    if scope == "module" or padded:
        largest = max(module.rank for module in modules.values())
        rank = min(parameters // total, largest)
        # Without padding a module that has less than the rank takes no more than it has.
        while not padded and rank < largest and _taken(modules, rank + 1) <= parameters:
            rank += 1
        return by_rank(criterion, modules, rank, "module")
    sizes = {name: module.size for name, module in modules.items()}
    return allocate(_comparable(criterion, modules), parameters, sizes=sizes, min_rank=min_rank)


def _taken(modules: Mapping[str, Scored], rank: int) -> int:
    """Parameters of all modules at a rank, or at their own where that is lower."""
    return sum(module.size * min(rank, module.rank) for module in modules.values())


def _comparable(criterion: Criterion, modules: Mapping[str, Scored]) -> dict[str, Tensor]:
    return {name: comparable(criterion, m.scores, m.scaling) for name, m in modules.items()}


def _rank(criterion: Criterion, scores: Tensor, energy: float) -> int:
    ordered = scores.double().clamp(min=0).sort(descending=True).values
    return int(rank_for_energy(ordered if criterion.unit == "weight" else ordered.sqrt(), energy))
