"""Presets: all that are there load, and a slip in one is refused with its place."""

import pytest

from experiments.settings.preset import PRESETS, load_preset, read_preset
from experiments.settings.validation import read_yaml
from experiments.tables import math as math_tables
from experiments.tables.tuning import unchanged

NAMES = sorted(file.stem for file in PRESETS.glob("*.yaml"))


@pytest.mark.parametrize("name", NAMES)
def test_every_preset_loads_and_its_schedules_fit_into_training(name):
    from prunedlora import Schedule

    preset = load_preset(name)
    pruned = [
        run for run in math_tables.table5(preset.math, unchanged).runs if run.method == "prune"
    ]
    assert pruned
    for run in pruned:
        schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
        schedule.check(run.initial_rank, run.steps)


def test_the_presets_named_in_the_manual_exist():
    assert NAMES == ["cpu", "gpu", "paper", "smoke"]
    with pytest.raises(ValueError, match="there are: cpu, gpu, paper, smoke"):
        load_preset("laptop")


@pytest.mark.parametrize(
    ("right", "wrong", "message"),
    [
        ("run:\n  model: smollm2", "run:", "cpu: run: model is missing"),
        ("  steps: 200", '  steps: "100"', "cpu: run: steps: .* not '100'"),
        (
            "  interval: 5",
            "  learnin_rate: 0.1",
            "cpu: run: unknown key learnin_rate; known: .*learning_rate",
        ),
        ("table8:", "table9: {}\ntable8:", "cpu: unknown key table9; known: .*table8"),
        (
            "  target_rank: 8\n  initial_ranks: [32]",
            "  target_rank: 8",
            "cpu: math: initial_ranks is missing",
        ),
        (
            "    length_groups: 16",
            "    length_groops: 16",
            "cpu: understanding: run: unknown key length_groops",
        ),
        (
            "  schedules: [[5, 2]",
            "  schedules: [[5, two]",
            "cpu: ablations: schedules: 0: 1: .* not 'two'",
        ),
        (
            "  seeds: [0, 1, 2, 3, 4]",
            "  seeds: []",
            "cpu: ablations: seeds: .*at least 1",
        ),
        (
            "[query, key, value, attention.output.dense]",
            "all-linear",
            "cpu: one_shot: planted_flat: run: target_modules: ",
        ),
        ("    ranks: [16, 4]", "    ranks: 16", "cpu: one_shot: minilm: ranks: .* not 16"),
        (
            "      initial_rank: 64",
            "      initial_rank: none",
            "one_shot: minilm: run: initial_rank: .* not 'none'",
        ),
        (
            "    held_out: 128\n    steps: 200\n    seeds: [0]",
            "    held_out: 128\n    steps: 200\n    seeds: [7]",
            "cpu: refined: planted_flat: seeds: the experiment has no adapter of .7.",
        ),
        (
            "  planted_flat:\n    criteria",
            "  planted:\n    criteria",
            "refined: planted: there is no",
        ),
        ("    steps: 45", "    stps: 45", "cpu: table2: run: unknown key stps"),
        ('["50%", "4:8"', '["50%", 4:8', "cpu: table8: run: patterns: 1: .*string"),
        (
            "max_perplexity: 60",
            "max_perplexity: 60\n  methods: [obd]",
            "cpu: table8: methods: 0: .* not 'obd'",
        ),
        ("math:\n  run:", "math:\n  run: 3\n  ran:", "cpu: math: run: .*object, not 3"),
    ],
)
def test_a_slip_in_a_preset_is_refused_with_its_place(right, wrong, message):
    text = (PRESETS / "cpu.yaml").read_text()
    assert right in text
    with pytest.raises(ValueError, match=message):
        read_preset("cpu", text.replace(right, wrong, 1), "cpu")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "^x.yaml: must hold settings by name, not None$"),
        ("[math]", "^x.yaml: must hold settings by name, not "),
        ("math: [", "^x.yaml: not valid YAML: "),
        ("run:\n  seed: 1\n\n  seed: 2", "line 4: the key seed is in line 2 already$"),
        ("run: {}\nmath: {}\nrun: {}", "^x.yaml: not valid YAML: line 3: the key run is in line 1"),
        ("run: {seed: 1, seed: 1}", "line 1: the key seed is in line 1 already"),
        ("run: 3", "^x.yaml: run: Input should be an object, not 3$"),
        ("run: !!python/object/apply:os.getcwd []", "^x.yaml: not valid YAML: "),
    ],
)
def test_a_file_that_is_no_preset_is_refused(text, message):
    with pytest.raises(ValueError, match=message):
        read_preset("x", text, "x.yaml")


def test_a_mapping_may_replace_what_it_merges_from_another():
    text = "a: &a {x: 1, y: 1}\nb: &b {<<: *a, x: 2}\nc: {<<: *b, x: 3}\n1: 0\n'1': 0\n? [1]\n: 0"
    with pytest.raises(ValueError, match="unhashable"):
        read_yaml(text, "x.yaml")
    values = read_yaml(text.rpartition("?")[0], "x.yaml")
    assert values == {
        "a": {"x": 1, "y": 1},
        "b": {"x": 2, "y": 1},
        "c": {"x": 3, "y": 1},
        1: 0,
        "1": 0,
    }


def test_a_slip_in_a_one_shot_experiment_is_refused_with_its_file():
    text = (PRESETS / "cpu.yaml").read_text()
    wrong = text.replace("      initial_rank: 64", "      initial_rank: none", 1)
    with pytest.raises(ValueError, match=r"^x\.yaml: one_shot: minilm: run: initial_rank: "):
        read_preset("x", wrong, "x.yaml")


def test_a_rate_without_a_point_is_a_number():
    text = (PRESETS / "cpu.yaml").read_text()
    run = read_preset(
        "cpu", text.replace("learning_rate: 0.001", "learning_rate: 1e-3", 1), "cpu"
    ).run
    assert run == load_preset("cpu").run


def test_parts_complete_the_shared_settings_and_sequences_are_tuples():
    preset = load_preset("cpu")
    assert preset.understanding.run.steps == 150
    assert preset.understanding.run.model == "minilm"
    assert preset.math.run.model == preset.run.model == "smollm2"
    assert preset.ablations.schedules == ((5, 2), (5, 4), (10, 2), (10, 4))
    assert preset.table8.run.method == "dense"
