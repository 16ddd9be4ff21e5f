"""Measure the statements of `theory` on a real model's trained adapter, part by part, and write one result file."""

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from tqdm import tqdm

from experiments.folders import ARTIFACTS
from experiments.jobs.record import provenance
from experiments.jobs.run import run
from experiments.real_layers import attention, curvature, noise, prediction
from experiments.real_layers.edits import changed
from experiments.real_layers.measured_model import MeasuredModel, load
from experiments.real_layers.settings import SETTINGS, Settings
from experiments.settings.jobs import digest
from theory.records import from_json, to_json, write_atomically
from theory.report import page as report
from theory.report import real_layers
from theory.report.real_summary import summarise

#: Trained adapters, and measured parts.
FOLDER = ARTIFACTS / "real_layers"
#: Magnitudes of the whole adapter at which statistics and prices are measured once more.
MAGNITUDES = (0.5, 2.0)

PARTS: dict[str, Callable[[MeasuredModel], Any]] = {
    "attention": attention.bounds,
    "spectra": curvature.spectra,
    "prices": curvature.prices,
    "joint_prices": curvature.joint_prices,
    "removals": prediction.removals,
    "noise": noise.choices_under_noise,
    "magnitudes": noise.magnitudes_under_noise,
}
#: Measured once more at every magnitude.
SCALED = "scaled_prices"
EVERY = (*PARTS, SCALED)


@dataclass
class Arguments:
    """Measure the statements of `theory` on the layers of a trained adapter.

    Attributes:
        model: smollm2 (Llama, sums of two-digit numbers) or minilm (BERT, sentiment of movie reviews).
        parts: only these parts; all by default.  A part that has been measured is not measured again.  The result
            is written once every part is there.
        fresh: measure again.
    """

    model: tuple[Literal["smollm2", "minilm"], ...] = ("minilm", "smollm2")
    parts: tuple[str, ...] = EVERY
    fresh: bool = False


def main(arguments: Arguments) -> None:
    """Measure what is missing, write the result, draw the pictures."""
    for name in arguments.model:
        settings = SETTINGS[name]
        adapter = FOLDER / settings.run.key
        if not adapter.exists():
            run(settings.run, adapter)
        results = measure(settings, adapter, FOLDER, arguments.parts, fresh=arguments.fresh)
        if left := [part for part in EVERY if not _files_of(part) <= set(results)]:
            print(f"{name}: still to be measured: {', '.join(left)}")
            continue
        record = {
            "settings": asdict(settings),
            "environment": provenance(),
            "summary": summarise(results),
            "result": results,
        }
        write_atomically(real_layers.file(name), to_json(real_layers.rounded(record)))
        print(real_layers.file(name))
    report.write(real_layers.RESULTS)


def measure(
    settings: Settings,
    adapter: Path,
    artifacts: Path,
    parts: tuple[str, ...],
    *,
    fresh: bool = False,
) -> dict[str, Any]:
    """Every part that is asked for or has a file of before, by the name of its file.

    Args:
        settings: what is measured.
        adapter: folder of the trained adapter.
        artifacts: where the file of each part lies.
        parts: names of those that are measured where they have no file.
        fresh: measure those even so.
    """
    torch.manual_seed(settings.seed)
    folder = artifacts / f"measured_{digest(asdict(settings))}"
    # One model at a time: another magnitude changes scalings and all statistics.
    loaded: dict[float, MeasuredModel] = {}

    def measured(magnitude: float = 1.0) -> MeasuredModel:
        if magnitude not in loaded:
            loaded.clear()
            loaded[magnitude] = load(settings, adapter, magnitude=magnitude)
        return loaded[magnitude]

    def whole(part: Callable[[MeasuredModel], Any]) -> Callable[[], Any]:
        return lambda: part(measured())

    def scaled(magnitude: float) -> Callable[[], Any]:
        return lambda: scaled_prices(measured(magnitude), magnitude)

    jobs: dict[str, Callable[[], Any]] = {"loss": lambda: losses(measured())}
    jobs |= {name: whole(part) for name, part in PARTS.items()}
    jobs |= {f"scaled_prices_{m:g}": scaled(m) for m in MAGNITUDES}
    asked = {"loss"}.union(*map(_files_of, parts))
    results = {}
    for name, job in tqdm(jobs.items(), desc=settings.run.model):
        file = folder / f"{name}.json"
        if name in asked and (fresh or not file.exists()):
            write_atomically(file, to_json(job()))
        if file.exists():
            results[name] = from_json(file.read_text())
    return results


def _files_of(part: str) -> set[str]:
    """Names of the files of a part."""
    return {f"{part}_{m:g}" for m in MAGNITUDES} if part == SCALED else {part}


def losses(measured: MeasuredModel) -> dict[str, Any]:
    """The loss before anything is pruned, and how far float32 can be trusted in its differences."""
    changes = []
    for place, candidate in measured.layers:
        # The same product in other factors: what the loss changes by is rounding.
        old = candidate.factors
        with changed(candidate, replace(old, B=old.B * 3, A=old.A / 3)):
            changes.append(measured.scorer.increase(place.depth)["calibration"])
    return {"unpruned": unpruned(measured), "rounding": max(map(abs, changes))}


def unpruned(measured: MeasuredModel) -> dict[str, float]:
    """Mean loss of each set."""
    return {name: losses.mean().item() for name, losses in measured.scorer.unpruned.items()}


def scaled_prices(measured: MeasuredModel, magnitude: float) -> dict[str, Any]:
    """All layers reduced at once, with every module of the adapter `magnitude` times as large and new statistics."""
    return {
        "magnitude": magnitude,
        "unpruned": unpruned(measured),
        "joint": curvature.joint_prices(measured),
    }


if __name__ == "__main__":
    main(tyro.cli(Arguments))
