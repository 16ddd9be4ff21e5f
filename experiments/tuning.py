"""The learning rate of every row, chosen among the same rates by the loss on the validation split."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from experiments.config import RunConfig
from experiments.tables import Results, Table, Tune


def unchanged(run: RunConfig) -> RunConfig:
    """No tuning."""
    return run


@dataclass(frozen=True)
class Tuning:
    """How learning rates are chosen.

    Attributes:
        rates: among which; with one at most, every run keeps its own.
        seed: of the runs that decide.
        task: of the runs that decide; their own if empty.
    """

    rates: tuple[float, ...]
    seed: int
    task: str = ""

    def grid(self, *builds: Callable[[Tune], Table]) -> list[RunConfig]:
        """The runs that decide about the rates of some tables, each once."""
        asked: dict[str, RunConfig] = {}

        def note(run: RunConfig) -> RunConfig:
            asked.setdefault(self._deciding(run).key, self._deciding(run))
            return run

        for build in builds:
            build(note)
        runs = [run for run in asked.values() if self._tunes(run)]
        return [replace(run, learning_rate=rate) for run in runs for rate in self.rates]

    def chooser(self, results: Results) -> Tune:
        """Gives a run the rate of least validation loss; what is truncated has the rate of what it is made from."""

        def tune(run: RunConfig) -> RunConfig:
            if not self._tunes(run):
                return run
            losses = {
                rate: results[replace(self._deciding(run), learning_rate=rate).key]["validation"]["cross_entropy"]
                for rate in self.rates
            }
            return replace(run, learning_rate=min(losses, key=lambda rate: losses[rate]))

        return tune

    def _tunes(self, run: RunConfig) -> bool:
        return run.method != "untuned" and len(self.rates) > 1

    def _deciding(self, run: RunConfig) -> RunConfig:
        changes: dict[str, Any] = {"seed": self.seed} | ({"task": self.task} if self.task else {})
        run = replace(run, **changes)
        return run.source if run.method.startswith("truncate") else run
