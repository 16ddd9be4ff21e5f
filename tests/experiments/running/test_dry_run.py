"""What is said of a preset without running it, and what is made of results afterwards."""

import json
from dataclasses import asdict, replace

import pytest

from experiments.finetuning.models import load_model
from experiments.reporting import page as report
from experiments.running import dry_run
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import PRESETS, load_preset
from experiments.tables import peft_comparison as export_peft_comparison

NAMES = sorted(file.stem for file in PRESETS.glob("*.yaml"))


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
    preset = load_preset("smoke")
    with pytest.raises(ValueError, match=message):
        dry_run.check(replace(preset, math=replace(preset.math, run=replace(preset.math.run, **changes))))


def test_a_schedule_that_does_not_fit_is_refused():
    preset = load_preset("smoke")
    with pytest.raises(ValueError, match="events"):
        dry_run.check(replace(preset, math=replace(preset.math, run=replace(preset.math.run, interval=100))))


def test_the_estimate_knows_the_model_that_comes_in_a_package():
    import torch

    estimate, run = load_preset("gpu").estimates["smollm2"], load_preset("gpu").run
    model, _ = load_model("smollm2", torch.float32)
    adapted = [m for n, m in model.named_modules() if n.endswith(run.target_modules)]
    assert sum(p.numel() for p in model.parameters()) == estimate.parameters
    assert sum(m.in_features + m.out_features for m in adapted) == estimate.adapted_width


RUN = RunConfig("org/llama@" + "a" * 40, "metamath_gsm8k", "prune", 128, 64, "prunedlora2025", steps=10)
RECORD = {
    "config": asdict(RUN),
    "environment": {
        "date": "2026-01-01",
        "device": "a GPU",
        "packages": {"transformers": "5", "peft": "0.21", "torch": "2.13"},
    },
    "result": {
        "accuracy": 0.5,
        "train_loss": [2.0] * 9 + [1.0],
        "train_seconds": 3.0,
        "evaluation_seconds": 1.0,
        "peak_memory_bytes": 7,
        "trainable_parameters": 4,
        "base_parameters": 100,
        "adapter_bytes": 8,
    },
}


def test_a_result_becomes_an_entry_of_pefts_comparison(tmp_path):
    made = export_peft_comparison.convert(json.loads(json.dumps(RECORD)))
    assert made["run_info"]["experiment_name"] == "prunedlora/llama-prunedlora2025-rank64"
    assert made["run_info"]["total_time"] == 4.0
    assert made["run_info"]["peft_config"]["prunedlora"]["initial_rank"] == 128
    assert made["train_info"]["metrics"][0] == {
        "step": 10,
        "test accuracy": 0.5,
        "train loss": 1.0,
        "train samples": 160,
        "train total tokens": None,
    }
    assert made["meta_info"]["model_info"]["sha"] == "a" * 40
    assert len(made["meta_info"]["dataset_info"]["gsm8k"]["sha"]) == 40


def test_another_task_cannot_stand_beside_pefts():
    with pytest.raises(ValueError, match="metamath_gsm8k"):
        export_peft_comparison.convert(RECORD | {"config": asdict(replace(RUN, task="arithmetic"))})


def test_the_report_adds_up_what_runs_took(tmp_path):
    for i, seconds in enumerate((1800, 3600)):
        result = {"train_seconds": seconds, "evaluation_seconds": 900}
        (tmp_path / f"{i}.json").write_text(json.dumps({"result": result}))
    assert report.spent(tmp_path) == "2 runs; training and evaluation took 2.0 hours, added up over runs."


def test_the_report_holds_every_table_and_needs_no_other_file(tmp_path):
    page = report.write(tmp_path / "report.html").read_text()
    for file in (report.RESULTS / "cpu").glob("*.md"):
        title = file.read_text().splitlines()[0].removeprefix("# ")
        assert title.replace("&", "&amp;") in page
    assert page.count('src="data:image/png') == len(list((report.FIGURES / "cpu").glob("*.png")))
    assert 'src="http' not in page
    assert (
        "<td>LoRA at the target rank</td>" in page
        or '<td style="text-align: left;">LoRA at the target rank</td>' in page
    )
