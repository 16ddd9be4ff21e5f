"""A study: tables whose rows share the search for learning rates, and what must hold before anything is compared."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.reporting.table import Table
from experiments.settings.jobs import RunConfig
from experiments.tables.tuning import Tune, Tuning


@dataclass(frozen=True)
class Gate:
    """Nothing is compared where the unpruned adapter has not learnt the task.

    Attributes:
        untuned: run of the untuned model.
        unpruned: run of LoRA at the initial rank.
        least_gain: points of accuracy by which the unpruned adapter must be ahead.
    """

    untuned: RunConfig
    unpruned: RunConfig
    least_gain: float

    def check(self, results: Mapping[str, dict[str, Any]]) -> None:
        """Stop if the unpruned adapter is not far enough ahead of the untuned model.

        Args:
            results: of both runs, by key.

        Raises:
            SystemExit: it is not.
        """
        untuned = results[self.untuned.key]["accuracy"]
        unpruned = results[self.unpruned.key]["accuracy"]
        gain = 100 * (unpruned - untuned)
        if gain < self.least_gain:
            raise SystemExit(
                f"the unpruned adapter is {gain:+.1f} points from the untuned model, less than "
                f"{self.least_gain:g}: it has not learnt the task, and nothing can be compared; see steps and "
                "learning_rates of the preset"
            )


@dataclass(frozen=True)
class Study:
    """One part of a preset, ready to be run: see `experiments.tables.studies` for all of them.

    Attributes:
        heading: the setting in a sentence, which stands above every table.
        tuning: how the learning rate of every row is chosen.
        gate: what must hold, once the rates are chosen; none where the tables themselves say what can be judged.
        tables: builders by the name of their table; each asks for the rates of its rows.
    """

    heading: str
    tuning: Tuning
    gate: Callable[[Tune], Gate] | None
    tables: Mapping[str, Callable[[Tune], Table]]

    def chosen_rates(
        self,
        builders: Sequence[Callable[[Tune], Table]],
        results_of: Callable[[list[RunConfig]], dict[str, dict[str, Any]]],
    ) -> Tune:
        """The choice of learning rates for some tables and for the gate, searched by runs.

        Args:
            builders: of the tables.
            results_of: gives the results of runs, by key.
        """
        asking = builders if self.gate is None else [*builders, self.gate]
        results: dict[str, dict[str, Any]] = {}
        while missing := self.tuning.missing(results, *asking):
            results |= results_of(missing)
        return self.tuning.chooser(results)
