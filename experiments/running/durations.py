"""How long runs take, by what committed runs took."""

from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from experiments.settings.jobs import RunConfig
from theory.records import from_json

#: Seconds besides training and evaluation: reading the model, and opening what was exported in another process.
OVERHEAD = 2.0
#: What runs share that take about as long.
Kind = tuple[Any, ...]


class Durations:
    """Seconds of runs.

    Args:
        folder: of results, with or without ``runs`` in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "runs"

    def of(self, run: RunConfig) -> float | None:
        """Of the same run, else of the median of those that are alike; none where there are none."""
        if run.key in self._files:
            return _seconds(from_json(self._files[run.key].read_text()))
        return self._kinds.get(kind(run))

    @cached_property
    def _files(self) -> dict[str, Path]:
        """Results by the key that ends their name."""
        return {file.stem.rpartition("_")[2]: file for file in self._folder.glob("*.json")}

    @cached_property
    def _kinds(self) -> dict[Kind, float]:
        """Medians; all files are read once, where a run is asked for that has none."""
        seconds: dict[Kind, list[float]] = {}
        for file in self._files.values():
            record = from_json(file.read_text())
            seconds.setdefault(kind_of(record["config"]), []).append(_seconds(record))
        return {key: median(values) for key, values in seconds.items()}


def kind(run: RunConfig) -> Kind:
    """What the time of a run depends on most."""
    return kind_of(vars(run))


def kind_of(config: dict[str, Any]) -> Kind:
    """The same of settings by name."""
    work = "train" if config["method"] not in ("full", "untuned") else config["method"]
    work = "truncate" if config["method"].startswith("truncate") else work
    return work, *(config[name] for name in ("model", "task", "steps", "batch_size"))


def _seconds(record: dict[str, Any]) -> float:
    result = record["result"]
    return float(result["train_seconds"] + result["evaluation_seconds"]) + OVERHEAD
