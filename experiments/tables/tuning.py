"""The learning rate of every row, chosen among the same rates by the loss on the validation split."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from statistics import fmean

from experiments.reporting.table import Results, loss_of
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
    the loss on the validation split is assumed to fall and then to rise with the rate.  That is done on the first seed.
    The best rate there is then tried on all seeds.  Where its mean is no longer the least, the rate whose mean is comes
    next, until the best has been tried on all: a rate at which a row learns from one seed only is not its best.

    Attributes:
        rates: among which, ascending; with one at most, every run keeps its own.
        seeds: of the runs that decide.
        task: of the runs that decide; their own if empty.
        others: rates of runs on other tasks, by the task.
    """

    rates: tuple[float, ...]
    seeds: tuple[int, ...]
    task: str = ""
    others: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for rates in (self.rates, *self.others.values()):
            if list(rates) != sorted(set(rates)):
                raise ValueError(f"learning rates must ascend, not {', '.join(map(str, rates))}")

    def grid(self, *builds: Callable[[Tune], object]) -> list[RunConfig]:
        """All runs that may have to be done on the first seed to choose the rates of what is built, each once."""
        return [
            replace(run, learning_rate=rate)
            for run in self._asked(builds)
            for rate in self._rates(run)
        ]

    def missing(self, results: Results, *builds: Callable[[Tune], object]) -> list[RunConfig]:
        """The runs of that grid that must be done next; none when every rate is chosen."""
        return [run for asked in self._asked(builds) for run in self._next(asked, results)]

    def chooser(self, results: Results) -> Tune:
        """Gives a run the rate of least validation loss, to a truncation that of the adapter that it truncates.

        Args:
            results: of all runs that `missing` has asked for, by key.
        """

        def tune(run: RunConfig) -> RunConfig:
            if not self._tunes(run):
                return run
            losses = self._losses(self._deciding(run), results)
            return replace(run, learning_rate=_best(losses))

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
        best = _best(losses) if losses else self.first(run)
        # Its neighbours first, on the first seed: while one of them is untried, the least loss may lie further out.
        rates = self._rates(run)
        i = rates.index(best)
        neighbours = rates[max(0, i - 1) : i + 2]
        if untried := [rate for rate in neighbours if rate not in losses]:
            return [replace(run, learning_rate=rate) for rate in untried]
        # Then the best rate on the other seeds, whose mean may make another one the best.
        left = [seed for seed in self.seeds if seed not in losses[best]]
        return [replace(run, learning_rate=best, seed=seed) for seed in left]

    def first(self, run: RunConfig) -> float:
        """The rate from which the search goes outwards."""
        rates = self._rates(run)
        start = rates[len(rates) // 2] * (FULL if run.method == "full" else 1)
        return min(rates, key=lambda rate: abs(math.log(rate / start)))

    def _losses(self, run: RunConfig, results: Results) -> dict[float, dict[int, float]]:
        """Validation losses by rate and seed, of rates that were tried on the first; infinite for a breakdown."""
        losses: dict[float, dict[int, float]] = {}
        for rate in self._rates(run):
            of_seed = {}
            for seed in self.seeds:
                key = replace(run, learning_rate=rate, seed=seed).key
                if key in results:
                    loss = loss_of(results[key]["validation"])
                    of_seed[seed] = math.inf if math.isnan(loss) else loss
            if self.seeds[0] in of_seed:
                losses[rate] = of_seed
        return losses

    def _tunes(self, run: RunConfig) -> bool:
        return run.method != "untuned" and len(self._rates(run)) > 1

    def _rates(self, run: RunConfig) -> tuple[float, ...]:
        return self.others.get(run.task, self.rates)

    def _deciding(self, run: RunConfig) -> RunConfig:
        """The run on the first seed, and on the task, whose losses choose the rate of this one."""
        run = replace(run, seed=self.seeds[0], task=self.task or run.task)
        # A truncation has the rate of the adapter that it truncates; whatever trains has its own.
        return run if run.trains or run.source is None else run.source


def _best(losses: dict[float, dict[int, float]]) -> float:
    """The rate of least loss, on average over the seeds on which it was tried."""
    return min(losses, key=lambda rate: fmean(losses[rate].values()))
