"""The registry of pruning criteria and the two ways to write one.

A criterion is a pure function of tensors: it sees factors and statistics, never a model, an optimiser or a file.
Every tensor may carry leading batch dimensions ``*m``, one entry for each module of equal shape.

* A **score** (`register`) gives every component a number; those with the lowest are removed, nothing else moves.
* A **reduction** (`register_reduction`) returns the changed factors itself, with compensation or rotation.

A criterion of your own, then usable by its name everywhere:

>>> @register("longest_row", needs=(), unit="weight")
... def longest_row(factors, statistics):
...     "Largest entry of each row of A."
...     return factors.A.abs().amax(dim=-1)
>>> factors = Factors(B=torch.ones(1, 2), A=torch.tensor([[3.0], [-1.0]]))
>>> get_criterion("longest_row").reduce(factors, Statistics(), 1).removed
tensor([1])
>>> unregister("longest_row")
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from numbers import Real
from typing import Any, Literal, get_args, get_origin

import torch
from jaxtyping import Float, Int
from torch import Tensor

from prunedlora.errors import ConfigurationError, NonFiniteError
from prunedlora.factors import Factors as Factors
from prunedlora.linalg.numerics import is_finite, round_off
from prunedlora.statistics.data import Statistics as Statistics

#: Of a score: ``"weight"`` a norm of ΔW / s; ``"energy"`` a square of it, maybe weighted by inputs; ``"loss"`` an
#: increase of the loss, the scaling s included; ``"none"`` comparable within a module only.
Unit = Literal["weight", "energy", "loss", "none"]


@dataclass(frozen=True)
class Reduction:
    """Factors after an event, of the shape they had: removed columns of B and rows of A are exactly zero.

    Attributes:
        factors: the new factors.
        removed: indices of the removed components, in the order of their removal.
        cost: what the criterion says each removal costs, in its own unit.
        basis: P and Q with ``B' = B P`` and ``A' = Q A``, where a criterion that rotates knows them.
    """

    factors: Factors
    removed: Int[Tensor, "*m count"]
    cost: Float[Tensor, "*m count"]
    basis: tuple[Float[Tensor, "*m r r"], Float[Tensor, "*m r r"]] | None = None


Score = Callable[..., Tensor]
Reduce = Callable[..., Reduction]


@dataclass(frozen=True)
class Criterion:
    """A named pruning rule.

    Attributes:
        name: its name in the registry.
        needs: fields of `Statistics` that it reads.
        unit: of its scores; only scores of one unit can be compared between modules.
        score: ``(factors, statistics, **options) -> (*m, r)``, low scores go first.
        reduce: ``(factors, statistics, count, **options) -> Reduction``.
        options: names and default values of its options.
        settings: values of `prunedlora.PruneConfig` that the name stands for.
        rotates: whether kept components are mixtures of the old ones, in B and in A.
        words: the values that an option can have, for options that are one of several words.
    """

    name: str
    needs: tuple[str, ...]
    unit: Unit
    score: Score
    reduce: Reduce
    options: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    rotates: bool = False
    words: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)


_REGISTRY: dict[str, Criterion] = {}


def register(name: str, *, needs: tuple[str, ...], unit: Unit) -> Callable[[Score], Score]:
    """Register a score function ``(factors, statistics, *, option=default, ...) -> (*m, r)``.

    Raises:
        ConfigurationError: the name is taken, or `needs` names no statistic.
    """

    def decorate(score: Score) -> Score:
        def reduce(
            factors: Factors, statistics: Statistics, count: int, **options: Any
        ) -> Reduction:
            return remove_lowest(factors, score(factors, statistics, **options), count)

        _add(Criterion(name, needs, unit, score, reduce, _options(score), words=_words(score)))
        return score

    return decorate


def register_reduction(
    name: str,
    *,
    needs: tuple[str, ...],
    unit: Unit,
    rotates: bool = False,
    settings: Mapping[str, Any] | None = None,
) -> Callable[[Reduce], Reduce]:
    """Register a reduction ``(factors, statistics, count, *, option=default, ...) -> Reduction``.

    Its score is the cost at which each component would go if all went, made increasing along that order.

    Args:
        name: the name to register it under; one function may have several.
        needs: fields of `Statistics` that it reads.
        unit: of its costs.
        rotates: whether kept components are mixtures of the old ones, in B and in A: the optimiser's state is then
            carried into the new basis.
        settings: values of `prunedlora.PruneConfig` that the name stands for.

    Raises:
        ConfigurationError: the name is taken, or `needs` names no statistic.
    """

    def decorate(reduce: Reduce) -> Reduce:
        def score(factors: Factors, statistics: Statistics, **options: Any) -> Tensor:
            everything = reduce(factors, statistics, factors.rank, **options)
            costs = everything.cost.cummax(dim=-1).values
            return torch.zeros_like(costs).scatter(-1, everything.removed, costs)

        options, words = _options(reduce), _words(reduce)
        _add(Criterion(name, needs, unit, score, reduce, options, settings or {}, rotates, words))
        return reduce

    return decorate


def remove_lowest(factors: Factors, scores: Float[Tensor, "*m r"], count: int) -> Reduction:
    """Zero the `count` components of lowest score; ties go to the lowest index, on every device.

    Raises:
        ConfigurationError: `count` is not between 0 and the rank.
        NonFiniteError: a score or a weight is NaN or infinite.
    """
    if not all(is_finite(t) for t in (scores, factors.B, factors.A)):
        raise NonFiniteError(
            "a score or a weight is NaN or infinite; check the gradients and the criterion"
        )
    if not 0 <= count <= factors.rank:
        raise ConfigurationError(f"cannot remove {count} of {factors.rank} components")
    order = round_off(scores).argsort(dim=-1, stable=True)[..., :count]
    return Reduction(factors.without(order), order, scores.gather(-1, order))


def get_criterion(name: str) -> Criterion:
    """The criterion of that name.

    Raises:
        ConfigurationError: there is none; the message lists those there are.
    """
    if name not in _REGISTRY:
        raise ConfigurationError(
            f"no criterion {name!r}; there are: {', '.join(available_criteria())}"
        )
    return _REGISTRY[name]


def available_criteria() -> list[str]:
    """Names of all registered criteria, sorted."""
    return sorted(_REGISTRY)


def unregister(name: str) -> None:
    """Take a criterion out of the registry; an error if there is none of that name."""
    get_criterion(name)
    del _REGISTRY[name]


def check_options(criterion: Criterion, options: Mapping[str, Any]) -> None:
    """Refuse an option that the criterion does not have, or a value that it cannot have.

    Raises:
        ConfigurationError: an unknown option, where the message lists the known ones; a value of another kind than
            its default, a number that is not finite or is negative where the default is not, or none of the words
            that the option can be.
    """
    unknown = sorted(set(options) - set(criterion.options))
    if unknown:
        known = ", ".join(f"{key}={value!r}" for key, value in criterion.options.items()) or "none"
        raise ConfigurationError(
            f"{criterion.name} has no option {', '.join(unknown)}; it has: {known}"
        )
    for name, value in options.items():
        kind = _kind(criterion.options[name])
        if _kind(value) != kind and kind is not None:
            raise ConfigurationError(
                f"{criterion.name}: the option {name} must be a {kind}, not {value!r}; "
                f"its default is {criterion.options[name]!r}"
            )
        default = criterion.options[name]
        least = -math.inf if kind == "number" and default < 0 else 0
        if _kind(value) == "number" and not (math.isfinite(value) and value >= least):
            raise ConfigurationError(
                f"{criterion.name}: the option {name} must be a finite number"
                f"{'' if least < 0 else ' that is not negative'}, not {value!r}; its default is {default!r}"
            )
        words = criterion.words.get(name, (value,))
        if value not in words:
            raise ConfigurationError(
                f"{criterion.name}: the option {name} must be one of {words}, not {value!r}"
            )


def _kind(value: Any) -> str | None:
    """What a value is, in a word; None where it may be anything."""
    if isinstance(value, bool):
        return "truth value"
    if isinstance(value, Real):
        return "number"
    return "word" if isinstance(value, str) else None


def _add(criterion: Criterion) -> None:
    if criterion.name in _REGISTRY:
        raise ConfigurationError(f"a criterion named {criterion.name!r} is registered already")
    unknown = set(criterion.needs) - {f.name for f in fields(Statistics)}
    if unknown:
        raise ConfigurationError(
            f"{criterion.name} needs unknown statistics: {', '.join(sorted(unknown))}"
        )
    _REGISTRY[criterion.name] = criterion


def _options(function: Callable[..., Any]) -> dict[str, Any]:
    parameters = inspect.signature(function).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is inspect.Parameter.KEYWORD_ONLY}


def _words(function: Callable[..., Any]) -> dict[str, tuple[Any, ...]]:
    """The values of those options that are annotated with a Literal."""
    parameters = inspect.signature(function).parameters.values()
    return {
        p.name: get_args(p.annotation) for p in parameters if get_origin(p.annotation) is Literal
    }
