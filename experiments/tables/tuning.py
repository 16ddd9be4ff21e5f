"""The learning rate of every row, chosen among the same rates by the loss on the validation split."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from experiments.reporting.table import Results
from experiments.settings.jobs import RunConfig

#: Chooses the learning rate of a run.
Tune = Callable[[RunConfig], RunConfig]
#: Share of the middle rate from which the search goes outwards where all weights are trained.  Beyond the rates
#: at which those are wrecked, and the task is learnt from scratch, the loss falls a second time.
FULL = 0.1


def unchanged(run: RunConfig) -> RunConfig:
    """No tuning."""
    return run


@dataclass(frozen=True)
class Tuning:
    """How learning rates are chosen.

    Rates are tried from the middle of the list outwards, as long as the best one tried lies at an end of those tried:
    the loss on the validation split is taken to fall and then to rise with the rate.  That is done on the first seed.
    The best rate there is then tried on all seeds.  Where its mean is no longer the least, the rate whose mean is comes
    next, until the best has been tried on all: a rate at which a row learns from one seed only is not its best.

    Attributes:
        rates: among which, ascending; with one at most, every run keeps its own.
        seeds: of the runs that decide.
        task: of the runs that decide; their own if empty.
    """

    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    task: str = ""

    def __post_init__(self) -> None:
        if list(self.rates) != sorted(set(self.rates)):
            raise ValueError(f"learning rates must ascend, not {', '.join(map(str, self.rates))}")

    def grid(self, *builds: Callable[[Tune], object]) -> list[RunConfig]:
        """All runs that may have to be done on the first seed to choose the rates of what is built, each once."""
        return [
            replace(run, learning_rate=rate) for run in self._asked(builds) for rate in self.rates
        ]

    def missing(self, results: Results, *builds: Callable[[Tune], object]) -> list[RunConfig]:
        """The runs of that grid that must be done next; none when every rate is chosen."""
        return [run for asked in self._asked(builds) for run in self._next(asked, results)]

    def chooser(self, results: Results) -> Tune:
        """Gives a run the rate of least validation loss; what is truncated has the rate of what it is made from."""

        def tune(run: RunConfig) -> RunConfig:
            if not self._tunes(run):
                return run
            losses = self._losses(self._deciding(run), results)
            return replace(
                run, learning_rate=min(losses, key=lambda rate: fmean(losses[rate].values()))
            )

        return tune

    def _asked(self, builds: tuple[Callable[[Tune], object], ...]) -> list[RunConfig]:
        """The runs whose rates are asked for, whatever their rate."""
        asked: dict[str, RunConfig] = {}

        def note(run: RunConfig) -> RunConfig:
            decides = self._deciding(run)
            if self._tunes(decides):
                asked.setdefault(decides.key, decides)
            return run

        for build in builds:
            build(note)
        return list(asked.values())

    def _next(self, run: RunConfig, results: Results) -> list[RunConfig]:
        """What must be tried next for a run on the first seed."""
        losses = self._losses(run, results)
        best = (
            min(losses, key=lambda rate: fmean(losses[rate].values()))
            if losses
            else self._first(run)
        )
        i = self.rates.index(best)
        if missing := [rate for rate in self.rates[max(0, i - 1) : i + 2] if rate not in losses]:
            return [replace(run, learning_rate=rate) for rate in missing]
        return [
            replace(run, learning_rate=best, seed=seed)
            for seed in self.seeds
            if seed not in losses[best]
        ]

    def _first(self, run: RunConfig) -> float:
        """The rate from which the search goes outwards."""
        wanted = self.rates[len(self.rates) // 2] * (FULL if run.method == "full" else 1)
        return min(self.rates, key=lambda rate: abs(math.log(rate / wanted)))

    def _losses(self, run: RunConfig, results: Results) -> dict[float, dict[int, float]]:
        """Validation losses by rate and seed, of rates that were tried on the first; infinite for a breakdown."""
        found: dict[float, dict[int, float]] = {}
        for rate in self.rates:
            keys = {seed: replace(run, learning_rate=rate, seed=seed).key for seed in self.seeds}
            of_seed = {
                s: results[k]["validation"]["cross_entropy"]
                for s, k in keys.items()
                if k in results
            }
            if self.seeds[0] in of_seed:
                found[rate] = {
                    s: math.inf if math.isnan(loss) else loss for s, loss in of_seed.items()
                }
        return found

    def _tunes(self, run: RunConfig) -> bool:
        return run.method != "untuned" and len(self.rates) > 1

    def _deciding(self, run: RunConfig) -> RunConfig:
        changes: dict[str, Any] = {"seed": self.seeds[0]} | (
            {"task": self.task} if self.task else {}
        )
        run = replace(run, **changes)
        return run.source if run.method.startswith("truncate") else run
