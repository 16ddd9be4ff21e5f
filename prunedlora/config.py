"""Settings of a pruning run, with a JSON round trip."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from prunedlora.criteria import check_options, get_criterion
from prunedlora.errors import ConfigurationError
from prunedlora.schedule import Schedule


@dataclass(frozen=True)
class PruneConfig:
    """Which components go, and when.

    Attributes:
        target_rank: rank of every module at the end.
        criterion: name of the rule, see :func:`prunedlora.available_criteria`.
        options: options of the rule, e.g. ``{"damping": 0.1}``.
        interval: K1, optimiser steps between events.
        per_event: K2, components removed per module at an event.
        warmup_steps: optimiser steps before the interval starts to count.
        decay: the Gram matrices of the gradients are averaged over steps with this decay (an exponential moving
            average, corrected for its start); 0 takes those of the event's own step, as the paper does.
        seed: of the random criterion; the same in every process.

    Raises:
        ConfigurationError: an impossible value, an unknown criterion or option.

    >>> config = PruneConfig(target_rank=16, criterion="magnitude")
    >>> PruneConfig.from_json(config.to_json()) == config
    True
    """

    target_rank: int
    criterion: str = "prunedlora2025"
    options: Mapping[str, Any] = field(default_factory=dict)
    interval: int = 10
    per_event: int = 2
    warmup_steps: int = 10
    decay: float = 0.0
    seed: int = 0

    def __post_init__(self) -> None:
        check_options(get_criterion(self.criterion), self.options)
        if not 0 <= self.decay < 1:
            raise ConfigurationError(f"decay must be in [0, 1), not {self.decay}")
        self.schedule  # noqa: B018  building it checks its values

    @property
    def schedule(self) -> Schedule:
        """When, and how many."""
        return Schedule(self.target_rank, self.interval, self.per_event, self.warmup_steps)

    def to_json(self) -> str:
        """The settings as a JSON object."""
        return json.dumps(asdict(self), indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "PruneConfig":
        """The inverse of `to_json`; keys that are no setting are refused.

        Raises:
            ConfigurationError: unknown keys, or values that do not fit.
        """
        values = json.loads(text)
        unknown = sorted(set(values) - {f.name for f in fields(cls)})
        if unknown:
            raise ConfigurationError(f"PruneConfig has no setting {', '.join(unknown)}")
        return cls(**values)
