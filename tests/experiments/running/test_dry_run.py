"""What is said of a preset without running it."""

from dataclasses import replace

import pytest

from experiments.finetuning.models import load_model
from experiments.running import dry_run
from experiments.settings.preset import PRESETS, load_preset

SMOKE = load_preset("smoke")
NAMES = sorted(file.stem for file in PRESETS.glob("*.yaml"))


def with_math_runs(**changes):
    """The smoke preset with other settings of its math runs."""
    return replace(SMOKE, math=replace(SMOKE.math, run=replace(SMOKE.math.run, **changes)))


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_is_sound_and_its_runs_differ(name):
    preset = load_preset(name)
    text = dry_run.report(preset)
    assert f"Preset {name}: {len(dry_run.check(preset))} runs" in text
    assert ("GB" in text) == bool(preset.estimates)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "someone/model@main"}, "full commit"),
        ({"task": "chess"}, "unknown task"),
        ({"model": "minilm", "task": "arithmetic"}, "no labels"),
    ],
)
def test_an_unsound_preset_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        dry_run.check(with_math_runs(**changes))


def test_a_schedule_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="events"):
        dry_run.check(with_math_runs(interval=100))


def test_the_estimate_knows_the_model_that_comes_in_a_package():
    import torch

    estimate, run = load_preset("gpu").estimates["smollm2"], load_preset("gpu").run
    model, _ = load_model("smollm2", torch.float32)
    adapted = [m for n, m in model.named_modules() if n.endswith(run.target_modules)]
    assert sum(p.numel() for p in model.parameters()) == estimate.parameters
    assert sum(m.in_features + m.out_features for m in adapted) == estimate.adapted_width
