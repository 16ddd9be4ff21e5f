"""Settings of a pruning run, with a JSON round trip."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from prunedlora.choices import Budget, FisherPer, Moments, Scope, check_settings
from prunedlora.criteria import check_options, get_criterion
from prunedlora.criteria.trial import try_options
from prunedlora.errors import ConfigurationError
from prunedlora.ranks.budget import settled_scope
from prunedlora.training.schedule import COMPONENTS, Schedule


@dataclass(frozen=True)
class PruneConfig:
    """Which components go, and when.

    Attributes:
        target_rank: rank of every module at the end.
        criterion: name of the rule, see :func:`prunedlora.available_criteria`.  The default, ``"svd"``, needs no
            statistics; why it is the default is said in the documentation, under *Prune while training*.
        options: options of the rule, e.g. ``{"damping": 0.1}``.
        interval: K1, optimiser steps between events.
        per_event: K2, components removed per module at an event.  By default 2, as in the paper, for rules that choose
            components, and for truncations, whose events cost more, so many that there are at most 8 events.
        warmup_steps: optimiser steps before the interval starts to count.
        window: optimiser steps before an event over which statistics are averaged, its own included; 1 takes those
            of the event's own step, as the paper does.
        decay: if positive, statistics are averaged over all steps instead, with this decay (an exponential moving
            average, corrected for its start).
        scope: ``"module"`` takes every module to `target_rank`; ``"global"`` keeps the best components of all
            modules within the same total.  By default as the criterion's name implies, else per module.
        budget: what the total counts with ``scope="global"``, ``"rank"`` or ``"parameters"``.
        min_rank: smallest rank of a module with ``scope="global"``.
        round_to: final ranks are multiples of it.
        fisher_per: whether the Fisher matrix of the factors averages over ``"micro_batch"`` es or over ``"sample"`` s.
        moments: what becomes of the optimiser's state at an event.  ``"follow"`` carries it into the new basis where a
            truncation makes one; ``"keep"`` leaves it where it is; ``"reset"`` clears it.  State of removed
            components is always cleared, and the gradient always follows.
        ignore_padding: leave tokens out of the bottleneck's moments that the model's ``attention_mask`` masks.
        seed: of the random criterion; the same in every process.

    Raises:
        ConfigurationError: an impossible value, an unknown criterion or option, or options with which the criterion
            fails on a small example.

    >>> config = PruneConfig(target_rank=16, criterion="magnitude")
    >>> PruneConfig.from_json(config.to_json()) == config
    True
    """

    target_rank: int
    criterion: str = "svd"
    options: Mapping[str, Any] = field(default_factory=dict)
    interval: int = 10
    per_event: int | None = None
    warmup_steps: int = 10
    window: int = 1
    decay: float = 0.0
    scope: Scope | None = None
    budget: Budget = "rank"
    min_rank: int = 1
    round_to: int = 1
    fisher_per: FisherPer = "micro_batch"
    moments: Moments = "follow"
    ignore_padding: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        check_settings(self)
        check_options(get_criterion(self.criterion), self.options)
        if self.options:
            try_options(get_criterion(self.criterion), self.options)
        if not 0 <= self.decay < 1:
            raise ConfigurationError(f"decay must be in [0, 1), not {self.decay}")
        if self.window < 1 or (self.window > 1 and self.decay > 0):
            raise ConfigurationError(
                "window must be at least 1, and 1 where decay > 0: use one of the two"
            )
        self._check_ranks()
        scope = settled_scope(get_criterion(self.criterion), self.scope)
        object.__setattr__(self, "scope", scope)
        if self.per_event is None and not get_criterion(self.criterion).rotates:
            object.__setattr__(self, "per_event", COMPONENTS)
        self.schedule  # noqa: B018  building it checks its values

    def _check_ranks(self) -> None:
        if self.min_rank < 1 or self.round_to < 1:
            raise ConfigurationError("min_rank and round_to must be at least 1")
        if self.target_rank < self.min_rank or self.target_rank % self.round_to:
            raise ConfigurationError(
                f"target_rank {self.target_rank} must be at least min_rank {self.min_rank} and a multiple of "
                f"round_to {self.round_to}"
            )

    @property
    def schedule(self) -> Schedule:
        """When, and how many."""
        return Schedule(self.target_rank, self.interval, self.per_event, self.warmup_steps)

    def to_json(self) -> str:
        """The settings as a JSON object."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "PruneConfig":
        """The inverse of `to_json`; keys that are not settings are refused.

        Raises:
            ConfigurationError: no JSON object, unknown or missing keys, or values that do not fit.
        """
        try:
            values = json.loads(text)
        except ValueError as error:
            raise ConfigurationError(f"the settings are not valid JSON: {error}") from error
        if not isinstance(values, dict) or "target_rank" not in values:
            raise ConfigurationError("the settings must be a JSON object with a target_rank")
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigurationError(f"PruneConfig has no setting {', '.join(unknown)}")
        return cls(**values)
