"""The statements, by key."""

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from prunedlora.errors import ConfigurationError
from theory.checking.result import Result

Claim = Literal["bound", "identity", "refuted"]


@dataclass(frozen=True)
class Statement:
    """A statement that can be checked.

    Attributes:
        key: for instance ``"S5"``; a dot sets parts of one statement apart (``"S6.printed"``).
        title: what it is about, in a few words.
        formula: the inequality or identity, in plain text.
        claim: ``bound``; ``identity``, where the left side is a relative error and the right side the rounding
            allowed; ``refuted``, a claim that is false, and that the run must break.
        sample: ``(generator, n, **shape) -> instance``, random instances in float64.
        check: ``instance -> Result``.
        shapes: the shapes over which the instances are spread.
        extremal: an instance (batch of any size) that attains the bound, or breaks the claim.
        attained: the bound is claimed tight: a ratio of 0.99 must be reached.
        instances: instances per default run.
        adversary_shapes: shapes at which the adversary starts; empty for identities.
        starts: starts of the adversary.
        ascent: ``instance -> (n,)``, what the adversary climbs; by default the log of measured / bound.
    """

    key: str
    title: str
    formula: str
    claim: Claim
    sample: Callable[..., Any]
    check: Callable[[Any], Result]
    shapes: tuple[Mapping[str, int], ...]
    extremal: Callable[[], Any] | None = None
    attained: bool = False
    instances: int = 10_000
    adversary_shapes: tuple[Mapping[str, int], ...] = ()
    starts: int = 256
    ascent: Callable[[Any], Tensor] | None = None

    @property
    def module(self) -> str:
        """Name of the module that holds statement and proof."""
        return self.check.__module__

    @property
    def proof(self) -> str:
        """Docstring of that module."""
        return sys.modules[self.module].__doc__ or ""


_REGISTRY: dict[str, Statement] = {}


def register(statement: Statement) -> Statement:
    """Add a statement.

    Raises:
        ConfigurationError: the key is taken.
    """
    if statement.key in _REGISTRY:
        raise ConfigurationError(f"a statement {statement.key!r} is registered already")
    _REGISTRY[statement.key] = statement
    return statement


def get_statement(key: str) -> Statement:
    """The statement of that key.

    Raises:
        ConfigurationError: there is none; the message lists those there are.
    """
    if key not in _REGISTRY:
        raise ConfigurationError(
            f"no statement {key!r}; there are: {', '.join(available_statements())}"
        )
    return _REGISTRY[key]


def available_statements() -> list[str]:
    """Keys of all statements, in their order."""
    return sorted(_REGISTRY, key=lambda key: (int(key[1:].split(".")[0]), key))


def select_statements(key: str | None) -> list[Statement]:
    """All statements, or one of them with its parts: ``"S6"`` selects ``S6.path`` and ``S6.printed``.

    Raises:
        ConfigurationError: no key matches.
    """
    keys = [k for k in available_statements() if key is None or k == key or k.startswith(f"{key}.")]
    return [_REGISTRY[k] for k in keys] if keys else [get_statement(str(key))]


def wrong_choice(true: Float[Tensor, "*n k"], seen: Float[Tensor, "*n k"]) -> Float[Tensor, "*n"]:
    """How much worse than the best the worst of the other candidates is that a rule sees as (nearly) the best.

    A rule takes the candidate of least `seen`; its true cost is `true`.  Where the rule is right there is no excess
    to climb, so each candidate is considered as the choice, less ten times what keeps it from being chosen.
    """
    barrier = (seen - seen.amin(dim=-1, keepdim=True)) * 10
    excess = true - true.amin(dim=-1, keepdim=True)
    best = true == true.amin(dim=-1, keepdim=True)
    return (excess - barrier).masked_fill(best, -float("inf")).amax(dim=-1)
