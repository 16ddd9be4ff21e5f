"""Dividing one budget of rank, or of parameters, among modules."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor

from prunedlora.choices import Scope
from prunedlora.criteria import Criterion
from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.linalg.numerics import round_off

#: How the score of B A grows with the scaling s of s B A.
_POWER_OF_SCALING = {"weight": 1, "energy": 2, "loss": 0}


def check_comparable(criterion: Criterion) -> None:
    """Refuse a criterion whose scores mean nothing outside their own module.

    Raises:
        ConfigurationError: its unit is ``"none"``.
    """
    if criterion.unit == "none":
        raise ConfigurationError(
            f"the scores of {criterion.name} have no unit, so modules cannot be compared by them; use "
            "scope='module', or a criterion in units of weight, energy or loss such as 'svd_kfac'"
        )


def settled_scope(criterion: Criterion, scope: Scope | None) -> Scope:
    """The scope that was asked for, or else the one that the criterion's name stands for, or else ``"module"``.

    Raises:
        ConfigurationError: the name stands for another scope than was asked for, or its scores cannot be compared
            between modules and the scope is ``"global"``.

    >>> from prunedlora.criteria import get_criterion
    >>> settled_scope(get_criterion("svd"), None), settled_scope(get_criterion("para2026"), None)
    ('module', 'global')
    """
    implied: Scope = criterion.settings.get("scope", scope or "module")
    if scope not in (None, implied):
        raise ConfigurationError(
            f"{criterion.name} means scope={implied!r}; for another scope use the criterion it builds on, 'svd'"
        )
    if implied == "global":
        check_comparable(criterion)
    return implied


def comparable(
    criterion: Criterion, scores: Float[Tensor, " r"], scaling: float
) -> Float[Tensor, " r"]:
    """Scores of a module's components as those of s B A, comparable with those of other modules."""
    return scores.double() * abs(scaling) ** _POWER_OF_SCALING[criterion.unit]


def allocate(
    scores: Mapping[str, Float[Tensor, " _"]],
    budget: int,
    *,
    sizes: Mapping[str, int] | None = None,
    min_rank: int = 1,
    round_to: int = 1,
) -> dict[str, int]:
    """Ranks of the modules that keep most of the scores within one budget.

    Components are kept in the order of their score, per parameter if `sizes` are given; ties go to the module
    named first.  With ``round_to > 1`` they are kept in groups of that many, each counting with its mean; the last
    group of a module may be smaller.

    Args:
        scores: for each module the scores of its components, in any order.
        budget: total rank, or total number of parameters if `sizes` are given.
        sizes: parameters of one component of each module, d_out + d_in.
        min_rank: smallest rank of a module, raised to a multiple of `round_to`; with 0 a module may get nothing.
        round_to: ranks are multiples of it, or the whole rank of a module.

    Raises:
        ConfigurationError: a budget that `min_rank` alone exceeds, or settings out of range.
        NonFiniteError: a score is NaN or infinite.

    >>> allocate({"q": torch.tensor([9.0, 1.0, 0.1]), "v": torch.tensor([5.0, 4.0, 3.0])}, 4)
    {'q': 1, 'v': 3}
    >>> allocate({"q": torch.tensor([9.0, 1.0]), "v": torch.tensor([5.0, 4.0])}, 30, sizes={"q": 10, "v": 2})
    {'q': 2, 'v': 2}
    """
    if min_rank < 0 or round_to < 1:
        raise ConfigurationError("min_rank must be at least 0 and round_to at least 1")
    # All scores are read from the device at once.
    values = torch.cat([t.double() for t in scores.values()]).tolist() if scores else []
    ordered: dict[str, list[float]] = {}
    for name, own in scores.items():
        entries = values[: own.numel()]
        values = values[own.numel() :]
        if not all(map(math.isfinite, entries)):
            raise NonFiniteError(f"a score of {name} is NaN or infinite")
        ordered[name] = sorted(entries, reverse=True)
    # Every module first gets the least that it may have.
    size = sizes or dict.fromkeys(scores, 1)
    least = -(-min_rank // round_to) * round_to
    ranks = {name: min(least, len(entries)) for name, entries in ordered.items()}
    left = budget - sum(rank * size[name] for name, rank in ranks.items())
    if left < 0:
        raise ConfigurationError(
            f"a budget of {budget} is below the {budget - left} that min_rank={min_rank} (in steps of {round_to}) "
            "takes; raise the rank or lower min_rank"
        )
    # Then the best offers, as long as they fit; what a module could not pay for closes it, since its further
    # components are worth less.
    closed = set()
    for _, _, name, rank in sorted(_offers(ordered, size, ranks, round_to)):
        price = (rank - ranks[name]) * size[name]
        if name in closed or price > left:
            closed.add(name)
        else:
            ranks[name] = rank
            left -= price
    return ranks


def _offers(
    ordered: Mapping[str, list[float]],
    size: Mapping[str, int],
    ranks: Mapping[str, int],
    round_to: int,
) -> list[tuple[float, int, str, int]]:
    """Every further group of components as (minus its worth, place of its module, module, rank with it)."""
    worths = []
    offers = []
    for place, (name, values) in enumerate(ordered.items()):
        for start in range(ranks[name], len(values), round_to):
            group = values[start : start + round_to]
            worths.append(math.fsum(group) / len(group) / size[name])
            offers.append((place, name, start + len(group)))
    rounded = round_off(torch.tensor(worths, dtype=torch.float64)).tolist()
    return [(-worth, *offer) for worth, offer in zip(rounded, offers, strict=True)]
