"""Turns a target (a rank, a share of energy, a size) into a rank for each module."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from prunedlora.choices import Scope
from prunedlora.criteria import Criterion
from prunedlora.errors import ConfigurationError
from prunedlora.ranks.budget import allocate, comparable
from prunedlora.ranks.spectrum import Rule


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
    criterion: Criterion,
    modules: Mapping[str, Scored],
    rank: int,
    scope: Scope,
    min_rank: int = 1,
    round_to: int = 1,
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
    return by_total(criterion, modules, sum(each.values()), min_rank, round_to)


def by_total(
    criterion: Criterion,
    modules: Mapping[str, Scored],
    total: int,
    min_rank: int = 1,
    round_to: int = 1,
) -> dict[str, int]:
    """The ranks of all modules together, by their scores; without steps, a larger total takes nothing from a module.

    Raises:
        ConfigurationError: `total` is below what `min_rank` alone takes.

    >>> from prunedlora.criteria import get_criterion
    >>> modules = {"q": Scored(torch.tensor([9.0, 8.0]), 1.0, 10), "v": Scored(torch.tensor([7.0, 1.0]), 1.0, 10)}
    >>> by_total(get_criterion("svd"), modules, 3)
    {'q': 2, 'v': 1}
    """
    scores = _comparable(criterion, modules)
    return allocate(scores, total, min_rank=min_rank, round_to=round_to)


def by_spectrum(
    criterion: Criterion,
    modules: Mapping[str, Scored],
    rule: Rule,
    number: float,
    scope: Scope,
    *,
    one_rank: bool,
    min_rank: int = 1,
    round_to: int = 1,
) -> dict[str, int]:
    """The ranks that a rule reads off the scores: of each module's, or of all modules' together.

    Args:
        criterion: whose scores they are; they stand for squared singular values, those in units of weight for plain.
        modules: the modules.
        rule: one of `prunedlora.ranks.spectrum.RULES`.
        number: its number, such as the share to keep.
        scope: whether each module follows the rule or all modules together.
        one_rank: give every module the largest of the ranks.
        min_rank: smallest rank of a module within a budget of all.
        round_to: ranks are multiples of it, or the whole rank of a module.

    Raises:
        ConfigurationError: a number out of range, or a criterion whose scores have no unit.

    >>> from prunedlora.criteria import get_criterion
    >>> from prunedlora.ranks.spectrum import by_energy
    >>> modules = {"q": Scored(torch.tensor([9.0, 1.0]), 1.0, 10), "v": Scored(torch.tensor([1.0, 1.0]), 3.0, 10)}
    >>> by_spectrum(get_criterion("svd"), modules, by_energy, 0.9, "module", one_rank=False)
    {'q': 1, 'v': 2}
    """
    if criterion.unit == "none":
        raise ConfigurationError(
            f"the scores of {criterion.name} have no unit, so no spectrum; name a rank or a size"
        )
    scores = _comparable(criterion, modules)
    if scope == "global":
        total = rule(_spectrum(criterion, torch.cat(list(scores.values()))), number)
        least = sum(min(-(-min_rank // round_to) * round_to, v.numel()) for v in scores.values())
        return allocate(scores, max(least, total), min_rank=min_rank, round_to=round_to)
    ranks = {name: rule(_spectrum(criterion, v), number) for name, v in scores.items()}
    largest = max(module.rank for module in modules.values())
    whole = {name: min(-(-rank // round_to) * round_to, largest) for name, rank in ranks.items()}
    if one_rank:
        return by_rank(criterion, modules, max(whole.values()), "module")
    return {name: min(rank, modules[name].rank) for name, rank in whole.items()}


def by_parameters(
    criterion: Criterion,
    modules: Mapping[str, Scored],
    parameters: int,
    scope: Scope,
    *,
    padded: bool,
    min_rank: int = 1,
    round_to: int = 1,
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
        round_to: ranks are multiples of it, or the whole rank of a module.

    Raises:
        ConfigurationError: not even the smallest rank fits.
    """
    total = sum(module.size for module in modules.values())
    if parameters < total * round_to:
        raise ConfigurationError(
            f"rank {round_to} in every module takes {total * round_to} parameters, but only {max(0, parameters)} fit; "
            "allow a larger size"
        )
    if scope == "module" or padded:
        largest = max(module.rank for module in modules.values())
        rank = min(parameters // total, largest)
        # Without padding a module that has less than the rank takes no more than it has.
        while not padded and rank < largest:
            if _taken(modules, rank + 1, round_to) > parameters:
                break
            rank += 1
        if rank < largest:
            rank -= rank % round_to
        return by_rank(criterion, modules, rank, "module")
    sizes = {name: module.size for name, module in modules.items()}
    scores = _comparable(criterion, modules)
    return allocate(scores, parameters, sizes=sizes, min_rank=min_rank, round_to=round_to)


def _taken(modules: Mapping[str, Scored], rank: int, round_to: int) -> int:
    """Parameters of all modules at a rank, or at their own where that is lower, in multiples."""
    ranks = {name: min(rank, module.rank) for name, module in modules.items()}
    return sum(-(-ranks[n] // round_to) * round_to * m.size for n, m in modules.items())


def _comparable(criterion: Criterion, modules: Mapping[str, Scored]) -> dict[str, Tensor]:
    return {name: comparable(criterion, m.scores, m.scaling) for name, m in modules.items()}


def _spectrum(criterion: Criterion, scores: Tensor) -> Tensor:
    """Scores as if they were singular values, decreasing."""
    ordered = scores.double().clamp(min=0).sort(descending=True).values
    return ordered if criterion.unit == "weight" else ordered.sqrt()
