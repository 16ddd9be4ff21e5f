"""What the benchmarks are to reach on a GPU, one H100 of 80 GB, and whether their results do."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

Result = dict[str, Any]


@dataclass(frozen=True)
class Goal:
    """One figure of a benchmark's result.

    Attributes:
        what: of what.
        limit: of the figure.
        unit: of both, as `shown` writes it.
        read: the figure in a result.
        floor: the least that it could be, in a result that knows.
        at_least: whether the figure is to be the limit at least, not at most.
    """

    what: str
    limit: float
    unit: str
    read: Callable[[Result], float]
    floor: Callable[[Result], float] | None = None
    at_least: bool = False

    def value(self, result: Result) -> float | None:
        """The figure; None where the result does not have it, as with ``--rules``."""
        try:
            return self.read(result)
        except (KeyError, ValueError):
            return None

    def reached(self, value: float) -> bool:
        """Whether a figure is on the right side of the limit."""
        return value >= self.limit if self.at_least else value <= self.limit

    @property
    def asked(self) -> str:
        """The limit in words."""
        return f"at {'least' if self.at_least else 'most'} {shown(self.limit, self.unit)}"


def shown(value: float, unit: str) -> str:
    """A figure with its unit.

    >>> shown(0.0402, "s"), shown(59.91, "s"), shown(151_234.0, "tokens/s"), shown(1.0512, "x")
    ('40.2 ms', '59.9 s', '151,000 tokens/s', 'x 1.051')
    """
    if unit == "x":
        return f"x {value:.3f}"
    if unit == "s" and value < 1:
        return f"{1000 * value:.3g} ms"
    return f"{float(f'{value:.3g}'):,.10g} {unit}"


def judged(name: str, result: Result) -> list[dict[str, Any]]:
    """The goals of a benchmark of which its result on a GPU has the figure, with what it is."""
    return [
        {"what": goal.what, "value": value, "unit": goal.unit, "goal": goal.limit}
        | {"reached": goal.reached(value), "floor": goal.floor(result) if goal.floor else None}
        for goal in GOALS.get(name, ())
        if (value := goal.value(result)) is not None
    ]


def _row(*path: str) -> Callable[[Result], float]:
    """A figure of one row."""

    def read(result: Result) -> float:
        value: Any = result["rows"]
        for key in path:
            value = value[key]
        return float(value)

    return read


#: Rules whose event is a choice of components.
CHOOSING = ("magnitude", "llmpruner2023", "sparsegpt2023", "kfac", "prunedlora2025")


def _slowest_choice(result: Result) -> float:
    return max(result["rows"][name]["seconds"] for name in CHOOSING)


def _of_statistics(result: Result, *, recorded: bool) -> float:
    """The largest ratio of a step with statistics to one without: of recorded activations, or of gradients."""
    rows = result["criteria"] if "criteria" in result else result["rows"]
    found = [
        row["ratio"]
        for row in rows.values()
        if row.get("collects") and bool(RECORDED & {*row["collects"]}) == recorded
    ]
    return float(max(found))


#: Statistics for which activations are recorded.
RECORDED = {"C_z", "U", "core_gradients"}
_OF_GRADIENTS = partial(_of_statistics, recorded=False)
_OF_ACTIVATIONS = partial(_of_statistics, recorded=True)


def _slowest_run(result: Result) -> float:
    return max(row["times_high"] for row in result["rows"].values() if "goal" in row)


#: By the name of the benchmark, in the order in which they are run.
GOALS: dict[str, tuple[Goal, ...]] = {
    "svd_fisher": (
        Goal(
            "`svd_fisher` with its statistics, 120 modules of SmolLM2, rank 512 to 64",
            60,
            "s",
            _row("whole", "seconds"),
            _row("whole", "floor_seconds"),
        ),
        Goal(
            "the same: memory above the model",
            8,
            "GiB",
            _row("whole", "gibibytes_above_model"),
            _row("whole", "floor_gibibytes"),
        ),
    ),
    "decoding": (
        Goal(
            "answers to 250 word problems, SmolLM2 with an adapter of rank 64",
            8,
            "s",
            _row("whole", "seconds"),
            _row("whole", "floor_seconds"),
        ),
    ),
    "together": (
        Goal(
            "several trainings of SmolLM2 at rank 512 at once, the best number of them",
            150_000,
            "tokens/s",
            _row("best", "tokens_per_second"),
            _row("best", "ceiling_tokens_per_second"),
            at_least=True,
        ),
    ),
    "event": (
        Goal(
            "event of rules that choose components, 128 modules of Llama-3-8B's attention, rank 512; the slowest of "
            "five",
            0.04,
            "s",
            _slowest_choice,
        ),
        Goal("the same by `svd`", 0.7, "s", _row("svd", "seconds"), _row("svd", "floor_seconds")),
        Goal(
            "the same by `prunedlora2025`, against the published code's way",
            250,
            "times as fast",
            _row("prunedlora2025", "times_published"),
            at_least=True,
        ),
    ),
    "truncation": (
        Goal(
            "truncation of 64 modules of 4096 x 4096, rank 512 to 64, against dense SVD",
            300,
            "times as fast",
            _row("rank 512", "times_dense"),
            at_least=True,
        ),
    ),
    "step": (
        Goal(
            "step of SmolLM2 at rank 512 with statistics of gradients; the slowest",
            1.05,
            "x",
            _OF_GRADIENTS,
        ),
        Goal("the same with statistics of activations", 1.10, "x", _OF_ACTIVATIONS),
    ),
    "statistics": (
        Goal(
            "step of a small Llama with statistics of gradients; the slowest",
            1.05,
            "x",
            _OF_GRADIENTS,
        ),
        Goal("the same with statistics of activations", 1.10, "x", _OF_ACTIVATIONS),
    ),
    "whole_run": (
        Goal(
            "a run of SmolLM2 from rank 512 to 64, relative to LoRA at 512; the slowest rule",
            1.02,
            "x",
            _slowest_run,
        ),
    ),
}
