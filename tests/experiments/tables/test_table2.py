"""The cost of training: which runs are measured, and what is made of it."""

from dataclasses import replace

import pandas as pd
import pytest

from experiments.settings.jobs import Cost
from experiments.settings.preset import load_preset
from experiments.tables import math as math_tables
from experiments.tables import table2
from experiments.tables.tuning import unchanged

SMOKE = load_preset("smoke")
TABLE = math_tables.table5(SMOKE.math, unchanged)


def test_every_row_that_trains_is_measured_once_against_lora_at_the_target_rank():
    costs = table2.costs(SMOKE.table2, TABLE)
    runs = {replace(c.run, learning_rate=1.0).key for c in costs.values()}
    assert len(runs) == len(costs)
    assert {c.run.method for c in costs.values()} == {"lora", "full", "dora", "adalora", "prune"}
    assert {"pruned by svd, from 6", "pruned by svd, from 8", "LoRA at the target rank"} < set(
        costs
    )
    for cost in costs.values():
        assert cost.reference == costs["LoRA at the target rank"].run
        assert cost.run.steps % cost.block == 0


def test_another_learning_rate_is_the_same_measurement_and_another_rank_is_not():
    cost, *_ = table2.costs(SMOKE.table2, TABLE).values()
    faster, larger = (
        Cost(replace(cost.run, **change), replace(cost.reference, **change), cost.block)
        for change in ({"learning_rate": 0.5}, {"initial_rank": 16})
    )
    assert (faster.key, faster.memory_key) == (cost.key, cost.memory_key)
    assert larger.key != cost.key
    assert larger.memory_key != cost.memory_key


def test_events_are_no_part_of_a_step_and_the_text_follows_the_numbers(tmp_path):
    results = {
        r.key: {
            "trainable_parameters": 20,
            "adapter_parameters": 10,
            "base_parameters": 1000,
            "adapter_bytes": 10**6,
        }
        | {"events": [0] * 4 if r.method == "prune" else []}
        for r in TABLE.runs
    }
    measured = {
        label: {
            "run": [2.0, 3.0, 2.0],
            "reference": [1.0] * 3,
            "events": [{"block": 1, "seconds": 1.0}],
            "block": 2,
        }
        if run.method == "prune"
        else {"run": [1.0] * 3, "reference": [1.0] * 3, "events": [], "block": 2}
        for label, run in table2.trained(TABLE).items()
    }
    measured = {label: found | {"peak_memory_bytes": 2**29} for label, found in measured.items()}
    markdown, csv = table2.write("Somewhere.", TABLE, results, measured, tmp_path)
    rows = pd.read_csv(csv).set_index("method")
    own = rows.loc["pruned by prunedlora2025, from 8"]
    assert own["trained %"] == "2 → 1"
    assert own["step, relative to LoRA"] == "2.00 [2.00, 2.00]"
    assert own["paper: trained %, time"] == "3.36 → 0.84, 2 h 46"
    # four events of a second, sixteen steps of a second
    assert own["events, share of training"] == "20.0%"
    assert set(rows["peak GiB"]) == {0.5}
    assert rows.loc["DoRA", "step, relative to LoRA"] == "1.00 [1.00, 1.00]"
    text = markdown.read_text()
    assert "interval above 1: pruned by random, from 6" in text
    assert "DoRA" not in text.split("interval above 1:")[1]


@pytest.mark.parametrize("name", ["cpu", "gpu", "paper"])
def test_short_runs_do_all_their_events(name):
    from prunedlora import Schedule

    preset = load_preset(name)
    build = getattr(math_tables, preset.table2.of)
    for cost in table2.costs(preset.table2, build(preset.math, unchanged)).values():
        run = cost.run
        if run.method == "prune":
            schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
            schedule.check(run.initial_rank, run.steps)
