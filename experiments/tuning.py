"""The learning rate of every row, chosen among the same rates by the loss on the validation split."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from experiments.config import RunConfig
from experiments.tables import Results, Tune


def unchanged(run: RunConfig) -> RunConfig:
    """No tuning."""
    return run


@dataclass(frozen=True)
class Tuning:
    """How learning rates are chosen.

    Rates are tried from the middle of the list outwards, as long as the best one tried lies at an end of those tried:
    the loss on the validation split is taken to fall and then to rise with the rate.

    Attributes:
        rates: among which, ascending; with one at most, every run keeps its own.
        seed: of the runs that decide.
        task: of the runs that decide; their own if empty.
    """

    rates: tuple[float, ...]
    seed: int
    task: str = ""

    def __post_init__(self) -> None:
        if list(self.rates) != sorted(set(self.rates)):
            raise ValueError(f"learning rates must ascend, not {', '.join(map(str, self.rates))}")

    def grid(self, *builds: Callable[[Tune], object]) -> list[RunConfig]:
        """All runs that may have to be done to choose the rates of what is built, each once."""
        return [replace(run, learning_rate=rate) for run in self._asked(builds) for rate in self.rates]

    def wanted(self, results: Results, *builds: Callable[[Tune], object]) -> list[RunConfig]:
        """The runs of that grid that must be done next; none when every rate is chosen."""
        return [replace(run, learning_rate=rate) for run in self._asked(builds) for rate in self._next(run, results)]

    def chooser(self, results: Results) -> Tune:
        """Gives a run the rate of least validation loss; what is truncated has the rate of what it is made from."""

        def tune(run: RunConfig) -> RunConfig:
            if not self._tunes(run):
                return run
            losses = self._tried(self._deciding(run), results)
            return replace(run, learning_rate=min(losses, key=lambda rate: losses[rate]))

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

    def _next(self, run: RunConfig, results: Results) -> list[float]:
        """The rates that must be tried next."""
        tried = self._tried(run, results)
        middle = len(self.rates) // 2
        best = self.rates.index(min(tried, key=lambda rate: tried[rate])) if tried else middle
        around = self.rates[max(0, best - 1) : best + 2]
        return [rate for rate in around if rate not in tried]

    def _tried(self, run: RunConfig, results: Results) -> dict[float, float]:
        """Validation loss by rate, infinite where training broke down."""
        runs = {rate: replace(run, learning_rate=rate).key for rate in self.rates}
        losses = {rate: results[key]["validation"]["cross_entropy"] for rate, key in runs.items() if key in results}
        return {rate: math.inf if math.isnan(loss) else loss for rate, loss in losses.items()}

    def _tunes(self, run: RunConfig) -> bool:
        return run.method != "untuned" and len(self.rates) > 1

    def _deciding(self, run: RunConfig) -> RunConfig:
        changes: dict[str, Any] = {"seed": self.seed} | ({"task": self.task} if self.task else {})
        run = replace(run, **changes)
        return run.source if run.method.startswith("truncate") else run
