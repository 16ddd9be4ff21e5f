"""What happened at a pruning event."""

from dataclasses import dataclass


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
