"""When components are removed and how many, and the record of each event."""

from collections.abc import Mapping
from dataclasses import dataclass

from prunedlora.errors import ConfigurationError

#: Most events of a schedule that leaves their number open, and the least that each of them removes.
EVENTS = 8
COMPONENTS = 2


@dataclass(frozen=True)
class Schedule:
    """Gradual pruning: after a warm-up, every K1 steps remove K2 components of each module.

    The schedule of arXiv:2510.00192, section 3 (K1 = 10, K2 = 2 there), with a warm-up added: B is zero at the
    start, so the gradient of A is zero and its second moment singular.

    Attributes:
        target_rank: rank at which pruning stops.
        interval: K1, optimiser steps from one event to the next.
        per_event: K2, components removed from each module at an event; None for two, or so many that it
            takes `EVENTS` events at most.
        warmup_steps: optimiser steps before the interval starts to count.

    >>> Schedule(target_rank=64, warmup_steps=0).events(128)[-1]
    (320, 64)
    >>> Schedule(target_rank=4, interval=10, per_event=None, warmup_steps=0).events(32)[:2]
    [(10, 28), (20, 24)]
    """

    target_rank: int
    interval: int = 10
    per_event: int | None = 2
    warmup_steps: int = 10

    def __post_init__(self) -> None:
        if self.target_rank < 1:
            raise ConfigurationError(f"target_rank must be at least 1, not {self.target_rank}")
        if self.interval < 1 or (self.per_event is not None and self.per_event < 1):
            raise ConfigurationError("interval and per_event must be at least 1")
        if self.warmup_steps < 0 or self.warmup_steps + self.interval < 2:
            raise ConfigurationError(
                "the first event must be at step 2 or later: B is zero at step 1"
            )

    def events(self, initial_rank: int) -> list[tuple[int, int]]:
        """The events as (optimiser step, rank after it), steps counted from 1.

        Raises:
            ConfigurationError: nothing to prune.
        """
        if self.target_rank >= initial_rank:
            raise ConfigurationError(
                f"target_rank {self.target_rank} must be below the initial rank {initial_rank}; "
                "raise r in LoraConfig or lower target_rank"
            )
        removed = initial_rank - self.target_rank
        per_event = self.per_event or max(COMPONENTS, -(-removed // EVENTS))
        count = -(-removed // per_event)
        return [
            (
                self.warmup_steps + i * self.interval,
                max(self.target_rank, initial_rank - i * per_event),
            )
            for i in range(1, count + 1)
        ]

    def check(self, initial_rank: int, total_steps: int) -> None:
        """Refuse a schedule whose last event lies beyond the end of training.

        Raises:
            ConfigurationError: the target is out of reach; the message says what would do.
        """
        events = self.events(initial_rank)
        last = events[-1][0]
        if last > total_steps:
            fit = (total_steps - self.warmup_steps) // len(events)
            hint = f"interval <= {fit}" if fit >= 1 else "a larger per_event"
            raise ConfigurationError(
                f"rank {initial_rank} -> {self.target_rank} takes {len(events)} events, the last at step {last}, "
                f"but training has {total_steps} steps; use {hint} or train longer"
            )

    def plan(
        self, initial_ranks: Mapping[str, int], total_steps: int
    ) -> list[tuple[int, dict[str, int]]]:
        """For each event its step and the rank of every module after it.

        Raises:
            ConfigurationError: see `check`; the message names the module.

        >>> Schedule(target_rank=2, interval=5, per_event=2, warmup_steps=0).plan({"q": 6, "v": 3}, 10)
        [(5, {'q': 4, 'v': 2}), (10, {'q': 2, 'v': 2})]
        """
        for name, rank in initial_ranks.items():
            try:
                self.check(rank, total_steps)
            except ConfigurationError as error:
                raise ConfigurationError(f"{name}: {error}") from None
        own = {name: dict(self.events(rank)) for name, rank in initial_ranks.items()}
        steps = max(own.values(), key=len)
        return [
            (step, {name: ranks.get(step, self.target_rank) for name, ranks in own.items()})
            for step in steps
        ]


@dataclass(frozen=True)
class PruneEvent:
    """What happened at one event.

    Attributes:
        step: the optimiser step it preceded, counted from 1.
        ranks: rank of each module afterwards.
        removed: indices of the components that went, per module.
        cost: what the criterion says the removals cost in all, in its unit.
        seconds: time the event took.
    """

    step: int
    ranks: dict[str, int]
    removed: dict[str, list[int]]
    cost: float
    seconds: float
