"""From the run of a column to those of its rows: the seeds, what is not pruned, and schedules."""

import functools
from dataclasses import replace

from experiments.finetuning.learning_rate import cosine_with_warmup
from experiments.settings.jobs import RunConfig
from prunedlora.training.learning_rate import share_left
from prunedlora.training.schedule import Schedule


def each_seed(run: RunConfig, seeds: tuple[int, ...]) -> tuple[RunConfig, ...]:
    """One run a seed, of the untuned model too: its head is drawn."""
    return tuple(replace(run, seed=seed) for seed in seeds)


def unpruned(run: RunConfig) -> RunConfig:
    """LoRA at the initial rank of a run, without what only pruning depends on: one stands for all schedules."""
    plain = RunConfig(run.model, run.task)
    return replace(
        run,
        method="lora",
        target_rank=run.initial_rank,
        interval=plain.interval,
        per_event=plain.per_event,
        warmup_steps=plain.warmup_steps,
    )


def at_target_rank(run: RunConfig) -> RunConfig:
    """LoRA at the target rank of a run, the same for all schedules."""
    return unpruned(replace(run, initial_rank=run.target_rank))


def truncated(run: RunConfig, criterion: str) -> RunConfig:
    """LoRA at the initial rank of a run, reduced to its target rank by a criterion after the last step."""
    return replace(
        unpruned(run), method="truncate", criterion=criterion, target_rank=run.target_rank
    )


def scheduled(run: RunConfig, events: int, share: float) -> RunConfig:
    """The run with so many events, of which the last leaves a share of the sum of all learning rates."""
    last = _last_step(run.steps, share)
    per_event = -(-(run.initial_rank - run.target_rank) // events)
    count = -(-(run.initial_rank - run.target_rank) // per_event)
    # The first event comes as late as there are steps between two of them; B is zero at the start.
    interval = max(1, last // (count + 1))
    return replace(
        run, per_event=per_event, interval=interval, warmup_steps=last - count * interval
    )


def pruned_once(run: RunConfig, tail: float) -> RunConfig:
    """A run that prunes at one event, with a share of its steps to go."""
    steps = run.steps - round(tail * run.steps)
    return replace(
        run,
        method="prune",
        warmup_steps=0,
        interval=steps,
        per_event=run.initial_rank - run.target_rank,
    )


def left_after_events(run: RunConfig) -> float:
    """Share of the sum of all learning rates that a pruned run has left after its last event."""
    schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
    return share_left(_rates(run.steps), schedule.events(run.initial_rank)[-1][0])


@functools.cache
def _last_step(steps: int, share: float) -> int:
    """The step after which what is left is closest to a share; tables ask for the same ones over and over."""
    rates = _rates(steps)
    return min(range(2, steps + 1), key=lambda step: abs(share_left(rates, step) - share))


def _rates(steps: int) -> list[float]:
    factor = cosine_with_warmup(steps)
    return [factor(step) for step in range(steps)]
