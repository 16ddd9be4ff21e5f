"""Settings of jobs: which values are refused, and that no committed result loses its name."""

import json
from dataclasses import asdict, replace

import pytest

from experiments.folders import RESULTS
from experiments.running.runner import Runner
from experiments.settings.jobs import Compression, Cost, OneShot, Refined, RunConfig, digest
from experiments.settings.preset import load_preset
from experiments.settings.validation import validated
from tests.experiments.finetuning.runs import BASE

RUN = {"model": "tiny", "task": "arithmetic"}


def records(kind: str) -> list[tuple[str, dict]]:
    """Name and configuration of every committed result of a kind."""
    files = sorted((RESULTS / "cpu" / kind).glob("*.json"))
    assert files
    return [(file.stem, json.loads(file.read_text())["config"]) for file in files]


def test_the_configuration_of_every_committed_run_has_the_key_of_its_file():
    runner = Runner(load_preset("cpu"), False, 1)
    for name, config in records("runs"):
        run = validated(RunConfig, config, name)
        assert runner.file(run).stem == name
        for key, value in config.items():
            assert getattr(run, key) == (tuple(value) if isinstance(value, list) else value)


def test_the_configuration_of_every_committed_one_shot_experiment_has_the_key_of_its_file():
    for name, config in records("one_shot"):
        one_shot = validated(OneShot, config["one_shot"], name)
        run = validated(RunConfig, config["run"], name)
        assert name.endswith(
            f"_seed{run.seed}_{digest({'one_shot': asdict(one_shot), 'run': asdict(run)})}"
        )


def test_the_configuration_of_every_committed_refining_has_the_key_of_its_file():
    for name, config in records("refined"):
        settings = validated(Refined, config["refined"], name)
        run = validated(RunConfig, config["run"], name)
        key = digest({"refined": asdict(settings), "run": asdict(run)})
        assert name == f"{run.task}_{settings.criteria[0]}_seed{run.seed}_{key}"


def test_the_configuration_of_every_committed_cost_has_the_key_of_its_file():
    for name, config in records("table2"):
        if "memory" in name:
            run = validated(RunConfig, config, name)
            assert name.endswith(f"_memory_{Cost(run, run, 1).memory_key}")
        else:
            assert name.endswith(f"_{validated(Cost, config, name).key}")


def test_the_configuration_of_every_committed_compression_has_the_key_of_its_file():
    for name, config in records("table8"):
        run = validated(Compression, config, name)
        assert name == f"{run.method}_seed{run.seed}_{run.key}"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"stepps": 3}, "here: unknown key stepps; known: .*steps"),
        ({"model": None}, "here: model: .* not None"),
        ({"learning_rate": "1e-3"}, "here: learning_rate: .* not '1e-3'"),
        ({"steps": "100"}, "here: steps: .* not '100'"),
        ({"steps": True}, "here: steps: .* not True"),
        ({"steps": 0}, "here: steps: .*greater than 0"),
        ({"seed": 1.5}, "here: seed: .* not 1.5"),
        ({"scaling": float("nan")}, "here: scaling: .*finite"),
        ({"method": "prun"}, "here: method: .*'prune', not 'prun'"),
        ({"scope": "everything"}, "here: scope: .*'global'"),
        ({"target_modules": "all-linear"}, "here: target_modules: .* not 'all-linear'"),
        ({"target_modules": ["q", 3]}, "here: target_modules: 1: .* not 3"),
    ],
)
def test_a_value_that_does_not_fit_is_refused_with_its_key_and_place(changes, message):
    with pytest.raises(ValueError, match=message):
        validated(RunConfig, RUN | changes, "here")


def test_a_missing_key_is_named():
    with pytest.raises(ValueError, match="here: task is missing"):
        validated(RunConfig, {"model": "tiny"}, "here")


def test_a_whole_number_is_the_float_that_it_is_meant_to_be():
    run = validated(RunConfig, RUN | {"scaling": 2, "learning_rate": 1}, "")
    assert run.key == validated(RunConfig, RUN | {"scaling": 2.0, "learning_rate": 1.0}, "").key


def test_the_key_depends_on_every_setting_and_survives_json():
    run = RunConfig("tiny", "arithmetic", "prune", 8, 4, "magnitude")
    assert validated(RunConfig, asdict(run), "") == run
    others = [
        replace(run, seed=1),
        replace(run, steps=101),
        replace(run, criterion="random"),
        replace(run, method="lora_at_ranks"),
    ]
    assert len({r.key for r in [run, *others]}) == 5
    assert len({Runner(load_preset("smoke"), False, 1).file(r) for r in [run, *others]}) == 5


def test_what_is_truncated_is_the_skyline_whatever_it_is_calibrated_on():
    skyline = replace(BASE, initial_rank=8, target_rank=8, calibration_examples=16)
    cut = replace(skyline, method="truncate", criterion="svd_kfac", target_rank=4)
    assert cut.source.key == skyline.key
    assert replace(cut, calibration_examples=32).key != cut.key
    assert replace(cut, calibration_examples=32).source.key == skyline.key


def test_ranks_come_from_pruning_with_the_same_settings_and_nothing_else_has_a_source():
    pruned = replace(BASE, method="prune", criterion="magnitude", initial_rank=8, target_rank=4)
    again = replace(pruned, method="lora_at_ranks")
    assert again.source == pruned
    assert again.trains
    assert all(
        replace(pruned, method=method).source is None
        for method in ("untuned", "full", "lora", "dora", "adalora", "prune")
    )


def test_settings_that_came_later_leave_the_names_of_older_results_as_they_are():
    assert BASE.key == replace(BASE, length_groups=1).key != replace(BASE, length_groups=2).key
