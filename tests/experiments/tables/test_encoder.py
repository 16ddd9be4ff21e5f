"""Tables of runs: which runs they ask for, how learning rates are chosen, and what is written about numbers."""

import json
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest

from experiments.reporting import table as tables
from experiments.reporting.table import Row, Table
from experiments.settings.jobs import RunConfig
from experiments.settings.preset import PRESETS, load_preset
from experiments.tables.studies import studies
from experiments.tables.tuning import unchanged
from paper_figures import figure1, figure3, rank_per_layer
from prunedlora import Schedule

WITH_ENCODER = [n for n in sorted(f.stem for f in PRESETS.glob("*.yaml")) if load_preset(n).encoder is not None]
STUDY = studies(load_preset("cpu"))["encoder"]
CPU = load_preset("cpu").encoder
RUN = RunConfig("tiny_bert", "tweets", "lora", 4, 4)


def result(accuracy: float, loss: float, n: int = 200, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    right = np.arange(n) < round(accuracy * n)
    return {
        "correct": "".join("1" if r else "0" for r in right),
        "interval": [accuracy - 0.05, accuracy + 0.05],
        "cross_entropy": loss,
        "losses": (loss + 0.01 * rng.standard_normal(n)).tolist(),
        "trainable_parameters": 10,
        "accuracy": accuracy,
    }


@pytest.mark.parametrize("name", WITH_ENCODER)
@pytest.mark.parametrize("table", STUDY.tables)
def test_every_pruned_run_fits_its_schedule(name, table):
    made = studies(load_preset(name))["encoder"].tables[table](unchanged)
    for run in made.runs:
        if run.method == "prune":
            schedule = Schedule(run.target_rank, run.interval, run.per_event, run.warmup_steps)
            schedule.check(run.initial_rank, run.steps)


def test_all_rules_and_baselines_are_there():
    tables = [build(unchanged) for build in STUDY.tables.values()]
    runs = [run for table in tables for run in table.runs]
    assert {"untuned", "full", "lora", "dora", "adalora", "truncate", "truncate_full", "prune"} == {
        r.method for r in runs
    }
    rules = {r.criterion for r in runs if r.criterion}
    assert {"random", "magnitude", "wanda2024", "sparsegpt2023", "llmpruner2023", "prunedlora2025"} < rules
    assert {"svd", "svd_kfac", "svd_fisher", "para2026", "kfac", "adalora2023"} < rules
    assert any(r.rslora for r in runs)
    assert {"keep", "reset", "follow"} == {r.moments for r in runs}


def test_the_learning_rate_of_least_validation_loss_is_chosen_on_the_first_task_and_seed():
    rates = CPU.learning_rates
    grid = STUDY.tuning.grid(STUDY.tables["table3"])
    assert {r.task for r in grid} == {CPU.tasks[0]}
    assert {r.seed for r in grid} == {CPU.seeds[0]}
    best = {r.key: (rates[-1] if r.method == "lora" else rates[0]) for r in grid}
    results = {r.key: {"validation": {"cross_entropy": 1e4 * abs(r.learning_rate - best[r.key])}} for r in grid}
    tune = STUDY.tuning.chooser(results)
    for run in STUDY.tables["table3"](tune).runs:
        trained = run.source if run.method.startswith("truncate") else run
        expected = {"lora": rates[-1], "untuned": CPU.run.learning_rate}.get(trained.method, rates[0])
        assert run.learning_rate == expected


@pytest.fixture
def made():
    runs = {name: replace(RUN, criterion=name) for name in ("good", "bad")}
    rows = tuple(Row(name, {"tweets": tuple(replace(run, seed=s) for s in (0, 1))}) for name, run in runs.items())
    results = {
        r.key: result(0.8 + 0.01 * r.seed if name == "good" else 0.6, 0.4 if name == "good" else 0.6, seed=r.seed)
        for name, run in runs.items()
        for r in (replace(run, seed=0), replace(run, seed=1))
    }
    return Table("t", "A table", rows, (("good", "bad"),)), results


def test_numbers_and_sentences_follow_the_results(made, tmp_path):
    table, results = made
    text = tables.sentences(table, results)
    assert "least cross-entropy good (0.4000), highest accuracy good (80.5 %)" in text[0]
    assert text[1].startswith("tweets: good has a lower loss than bad (-0.2")
    assert "; 2 of 2 seeds; +20.5)" in text[1]
    assert not any("One seed" in line for line in text)
    swapped = {k: {**v, "losses": [1 - x for x in v["losses"]]} for k, v in results.items()}
    assert "good has a higher loss than bad (+" in tables.sentences(table, swapped)[1]
    markdown, csv = tables.write(table, results, tmp_path, "Somewhere.")
    assert "| good     | 80.5 [74.8, 85.8] 0.400 ± 0.000 |" in markdown.read_text()
    assert "Seeds: 2. Accuracy" in markdown.read_text()
    frame = pd.read_csv(csv)
    assert frame["seeds"].tolist() == [2, 2]
    assert frame["accuracy"].tolist() == [0.805, 0.6]


def test_a_difference_of_which_no_printed_digit_is_left_is_none(made):
    table, results = made
    good, bad = (row.cells["tweets"] for row in table.rows)
    for one, other in zip(good, bad, strict=True):
        results[one.key] = {**results[other.key], "losses": [x + 2e-5 for x in results[other.key]["losses"]]}
    same = "tweets: good has the same loss to four digits as bad (+0.0000, +0.0000 to +0.0000; 2 of 2 seeds; +0.0)."
    assert tables.sentences(table, results)[1] == same


def test_a_difference_that_one_seed_denies_is_no_verdict(made):
    table, results = made
    key = table.rows[0].cells["tweets"][1].key
    results[key] = {**results[key], "losses": [x + 0.3 for x in results[key]["losses"]]}
    verdict = tables.sentences(table, results)[1]
    assert verdict.startswith("tweets: good has a loss that cannot be told from that of bad (-0.")
    assert "; 1 of 2 seeds; " in verdict


def test_one_run_that_stands_for_all_seeds_is_compared_with_each(made):
    table, results = made
    bad = table.rows[1]
    single = replace(table, rows=(table.rows[0], replace(bad, cells={"tweets": bad.cells["tweets"][:1]})))
    verdict = tables.sentences(single, results)[1]
    assert verdict.startswith("tweets: good has a lower loss than bad (-0.2")
    assert "; 2 of 2 seeds; " in verdict


def test_rows_of_other_examples_are_not_compared(made):
    table, results = made
    key = table.rows[1].cells["tweets"][0].key
    other = table.rows[1].cells["tweets"][1].key
    for k in (key, other):
        results[k] = result(0.6, 0.6, n=100)
    assert "good has not been scored on the same seeds and examples as bad." in tables.sentences(table, results)[1]


@pytest.mark.parametrize(("name", "figure"), [("figure1", figure1), ("figure3", figure3)])
def test_figures_are_drawn_from_the_tables(name, figure, tmp_path):
    table = STUDY.tables[name](unchanged)
    tables.write(table, {run.key: result(0.7, 0.5) for run in table.runs}, tmp_path, "")
    for file in figure.draw(tmp_path, tmp_path / "figures"):
        assert file.stat().st_size > 5_000


def test_the_rank_of_every_module_is_drawn_from_the_events_of_its_run(tmp_path):
    names = [f"base_model.model.bert.layer.{i}.query" for i in range(4)]
    events = [{"step": s, "ranks": {n: 8 - s * i for i, n in enumerate(names)}} for s in (1, 2)]
    record = {"config": {"initial_rank": 8}, "result": {"events": events}}
    frame = rank_per_layer.ranks(record)
    assert frame.columns.tolist() == [0, 1, 2]
    assert frame.loc["layer.2.query"].tolist() == [8, 6, 4]
    with pytest.raises(FileNotFoundError, match="run table7"):
        rank_per_layer.draw(tmp_path, tmp_path)
    (tmp_path / "runs").mkdir()
    (tmp_path / "runs" / "tweets_prune_para2026_r8-2_seed0_abc.json").write_text(json.dumps(record))
    for file in rank_per_layer.draw(tmp_path, tmp_path / "figures"):
        assert file.stat().st_size > 5_000


def test_a_learning_rate_is_shown_where_rows_differ_in_it(made):
    table, results = made
    assert "learning rate" not in tables.frame(table, results)
    run = table.rows[1].cells["tweets"][0]
    other = replace(run, learning_rate=0.5)
    results[other.key] = results[run.key]
    rows = (table.rows[0], replace(table.rows[1], cells={"tweets": (other,)}))
    assert tables.frame(replace(table, rows=rows), results)["learning rate"].tolist()[1] == "0.5"
