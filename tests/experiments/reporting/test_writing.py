"""What is written of a table: numbers, sentences and verdicts."""

from dataclasses import replace

import pandas as pd
import pytest

from experiments.reporting.table import Row, Table
from experiments.reporting.writing import frame, sentences, write
from experiments.settings.jobs import RunConfig
from tests.experiments.made_up import result

RUN = RunConfig("tiny_bert", "tweets", "lora", 4, 4)


@pytest.fixture
def made():
    runs = {name: replace(RUN, criterion=name) for name in ("good", "bad")}
    rows = tuple(
        Row(name, {"tweets": tuple(replace(run, seed=s) for s in (0, 1))})
        for name, run in runs.items()
    )
    results = {
        r.key: result(
            0.8 + 0.01 * r.seed if name == "good" else 0.6,
            0.4 if name == "good" else 0.6,
            seed=r.seed,
        )
        for name, run in runs.items()
        for r in (replace(run, seed=0), replace(run, seed=1))
    }
    return Table("t", "A table", rows, (("good", "bad"),)), results


def test_numbers_and_sentences_follow_the_results(made, tmp_path):
    table, results = made
    text = sentences(table, results)
    assert "least cross-entropy good (0.4000), highest accuracy good (80.5 %)" in text[0]
    assert text[1].startswith("tweets: good has a lower loss than bad (-0.2")
    assert "; 2 of 2 seeds; +20.5)" in text[1]
    assert not any("One seed" in line for line in text)
    swapped = {k: {**v, "losses": [1 - x for x in v["losses"]]} for k, v in results.items()}
    assert "good has a higher loss than bad (+" in sentences(table, swapped)[1]
    markdown, csv = write(table, results, tmp_path, "Somewhere.")
    assert "| good     | 80.5 [74.8, 85.8] 0.400 ± 0.000 |" in markdown.read_text()
    assert "Seeds: 2. Accuracy" in markdown.read_text()
    written = pd.read_csv(csv)
    assert written["seeds"].tolist() == [2, 2]
    assert written["accuracy"].tolist() == [0.805, 0.6]


def test_a_difference_of_which_no_printed_digit_is_left_is_none(made):
    table, results = made
    good, bad = (row.cells["tweets"] for row in table.rows)
    for one, other in zip(good, bad, strict=True):
        results[one.key] = {
            **results[other.key],
            "losses": [x + 2e-5 for x in results[other.key]["losses"]],
        }
    same = "tweets: good has the same loss to four digits as bad (+0.0000, +0.0000 to +0.0000; 2 of 2 seeds; +0.0)."
    assert sentences(table, results)[1] == same


def test_a_difference_that_one_seed_denies_is_no_verdict(made):
    table, results = made
    key = table.rows[0].cells["tweets"][1].key
    results[key] = {**results[key], "losses": [x + 0.3 for x in results[key]["losses"]]}
    verdict = sentences(table, results)[1]
    assert verdict.startswith("tweets: good has a loss that cannot be told from that of bad (-0.")
    assert "; 1 of 2 seeds; " in verdict


def test_one_run_that_stands_for_all_seeds_is_compared_with_each(made):
    table, results = made
    bad = table.rows[1]
    single = replace(
        table, rows=(table.rows[0], replace(bad, cells={"tweets": bad.cells["tweets"][:1]}))
    )
    verdict = sentences(single, results)[1]
    assert verdict.startswith("tweets: good has a lower loss than bad (-0.2")
    assert "; 2 of 2 seeds; " in verdict


def test_rows_of_other_examples_are_not_compared(made):
    table, results = made
    key = table.rows[1].cells["tweets"][0].key
    other = table.rows[1].cells["tweets"][1].key
    for k in (key, other):
        results[k] = result(0.6, 0.6, n=100)
    assert (
        "good has not been scored on the same seeds and examples as bad."
        in sentences(table, results)[1]
    )


def test_a_learning_rate_is_shown_where_rows_differ_in_it(made):
    table, results = made
    assert "learning rate" not in frame(table, results)
    run = table.rows[1].cells["tweets"][0]
    other = replace(run, learning_rate=0.5)
    results[other.key] = results[run.key]
    rows = (table.rows[0], replace(table.rows[1], cells={"tweets": (other,)}))
    assert frame(replace(table, rows=rows), results)["learning rate"].tolist()[1] == "0.5"
