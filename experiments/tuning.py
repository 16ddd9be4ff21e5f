"""The learning rate of every row, chosen among the same rates by the loss on the validation split."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Any

from experiments.config import RunConfig
from experiments.tables import Results, Tune

#: Nats by which a rate must be behind the best on the first seed not to be tried on the others: about half of what the
#: same settings differ by between seeds.
CLOSE = 0.01
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
    Rates that come close to the best there are compared by their means over all seeds.

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
        return [replace(run, learning_rate=rate) for run in self._asked(builds) for rate in self.rates]

    def wanted(self, results: Results, *builds: Callable[[Tune], object]) -> list[RunConfig]:
        """The runs of that grid that must be done next; none when every rate is chosen."""
        return [wanted for run in self._asked(builds) for wanted in self._next(run, results)]

    def chooser(self, results: Results) -> Tune:
        """Gives a run the rate of least validation loss; what is truncated has the rate of what it is made from."""

        def tune(run: RunConfig) -> RunConfig:
            if not self._tunes(run):
                return run
            decides = self._deciding(run)
            close = _close(self._tried(decides, self.seeds[:1], results))
            losses = self._tried(decides, self.seeds, results) if len(close) > 1 else close
            return replace(run, learning_rate=min(close, key=lambda rate: losses[rate]))

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
        tried = self._tried(run, self.seeds[:1], results)
        best = self.rates.index(min(tried, key=lambda rate: tried[rate]) if tried else self._first(run))
        around = self.rates[max(0, best - 1) : best + 2]
        if missing := [replace(run, learning_rate=rate) for rate in around if rate not in tried]:
            return missing
        close = _close(tried)
        others = [replace(run, learning_rate=rate, seed=seed) for rate in close for seed in self.seeds[1:]]
        return [other for other in others if len(close) > 1 and other.key not in results]

    def _first(self, run: RunConfig) -> float:
        """The rate from which the search goes outwards."""
        wanted = self.rates[len(self.rates) // 2] * (FULL if run.method == "full" else 1)
        return min(self.rates, key=lambda rate: abs(math.log(rate / wanted)))

    def _tried(self, run: RunConfig, seeds: Sequence[int], results: Results) -> dict[float, float]:
        """Validation loss by rate, mean over the seeds, of rates that were tried on all; infinite for a breakdown."""
        found = {}
        for rate in self.rates:
            keys = [replace(run, learning_rate=rate, seed=seed).key for seed in seeds]
            if all(key in results for key in keys):
                loss = fmean(results[key]["validation"]["cross_entropy"] for key in keys)
                found[rate] = math.inf if math.isnan(loss) else loss
        return found

    def _tunes(self, run: RunConfig) -> bool:
        return run.method != "untuned" and len(self.rates) > 1

    def _deciding(self, run: RunConfig) -> RunConfig:
        changes: dict[str, Any] = {"seed": self.seeds[0]} | ({"task": self.task} if self.task else {})
        run = replace(run, **changes)
        return run.source if run.method.startswith("truncate") else run


def _close(losses: dict[float, float]) -> dict[float, float]:
    """The best rate and those that come close to it, with their losses."""
    best = min(losses.values())
    return {rate: loss for rate, loss in losses.items() if loss <= best + CLOSE}
