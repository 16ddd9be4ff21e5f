"""What a pruner will do, and what it has done, as text, as numbers for a log, and as a record beside the adapter."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

from prunedlora.adapters.peft import name_in_base
from prunedlora.optional import installed_version
from prunedlora.training.schedule import PruneEvent

#: For each event its step and the rank of every module after it.
Plan = Sequence[tuple[int, Mapping[str, int]]]


def describe_plan(initial: Mapping[str, int], plan: Plan, total_steps: int) -> str:
    """One line: from which ranks to which, in how many events, and how many steps that needs.

    >>> describe_plan({"q": 8, "v": 6}, [(4, {"q": 6, "v": 4}), (6, {"q": 4, "v": 4})], 10)
    'pruning 2 modules from rank 6 to 8 to rank 4 in 2 events at steps 4 to 6; needs 6 of 10 steps'
    """
    first, last = plan[0][0], plan[-1][0]
    return (
        f"pruning {_count(len(initial), 'module')} from rank {_span(initial)} to rank {_span(plan[-1][1])} in "
        f"{_count(len(plan), 'event')} at steps {first} to {last}; needs {last} of {total_steps} steps"
    )


def report(initial: Mapping[str, int], events: Sequence[PruneEvent], planned: int) -> str:
    """A line for each event that has taken place: ranks, removed components, cost and time.

    >>> print(report({"q": 8}, [PruneEvent(4, {"q": 6}, {"q": [7, 1]}, 0.5, 0.01)], 3))
    step   rank  removed       cost  seconds
       0      8        0
       4      6        2        0.5     0.01
    1 of 3 events
    """
    lines = [f"{'step':>4} {'rank':>6} {'removed':>8} {'cost':>10} {'seconds':>8}"]
    lines.append(f"{0:>4} {_span(initial):>6} {0:>8}")
    for event in events:
        removed = sum(map(len, event.removed.values()))
        lines.append(
            f"{event.step:>4} {_span(event.ranks):>6} {removed:>8} {event.cost:>10.3g} {event.seconds:>8.2g}"
        )
    return "\n".join([*lines, f"{len(events)} of {planned} events"])


def numbers(
    ranks: Mapping[str, int], events: Sequence[PruneEvent], left: float | None
) -> dict[str, float]:
    """For a trainer's log: mean rank, events so far, the last one's cost, share of the learning rate left at the end.

    >>> numbers({"q": 4, "v": 2}, [], None)
    {'pruning/rank': 3.0, 'pruning/events': 0}
    """
    entries: dict[str, float] = {
        "pruning/rank": sum(ranks.values()) / len(ranks),
        "pruning/events": len(events),
    }
    if events:
        entries["pruning/cost"] = events[-1].cost
        entries["pruning/seconds"] = sum(event.seconds for event in events)
    if left is not None:
        entries["pruning/learning_rate_left"] = left
    return entries


def record(
    config: str,
    initial: Mapping[str, int],
    ranks: Mapping[str, int],
    events: Sequence[PruneEvent],
    total_steps: int,
) -> dict[str, Any]:
    """What was done, for JSON; modules have the names that they have in the base model.

    Args:
        config: settings, as JSON.
        initial: ranks before the first event.
        ranks: ranks now.
        events: those that have taken place.
        total_steps: optimiser steps of the training.
    """
    return {
        "version": installed_version(),
        "config": json.loads(config),
        "total_steps": total_steps,
        "ranks_before": _in_base(initial),
        "ranks": _in_base(ranks),
        "events": [
            asdict(event)
            | {"ranks": _in_base(event.ranks)}
            | {"removed": {name_in_base(n): len(gone) for n, gone in event.removed.items()}}
            for event in events
        ],
    }


def _in_base(ranks: Mapping[str, int]) -> dict[str, int]:
    return {name_in_base(name): rank for name, rank in ranks.items()}


def _span(ranks: Mapping[str, int]) -> str:
    least, most = min(ranks.values()), max(ranks.values())
    return str(least) if least == most else f"{least} to {most}"


def _count(count: int, thing: str) -> str:
    return f"{count} {thing}{'' if count == 1 else 's'}"
