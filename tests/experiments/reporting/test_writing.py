"""What is written of a table: numbers, differences and verdicts."""

import re
from dataclasses import replace

import pandas as pd
import pytest

from experiments.reporting.table import Row, Table, cells
from experiments.reporting.writing import (
    compared,
    difference_frame,
    first_table,
    frame,
    sentences,
    write,
)
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


def said_of(table, results, column="tweets"):
    """What the table of differences says of its one pair of rows."""
    (line,) = difference_frame(compared(table, cells(table, results))).to_dict("records")
    assert (line["loss of"], line["less that of"]) == ("good", "bad")
    return line[column]


def test_numbers_and_differences_follow_the_results(made, tmp_path):
    table, results = made
    (text,) = sentences(table, results)
    assert text == "- tweets: least loss good (0.4000), highest accuracy good (80.5 %)."
    assert said_of(table, results) == "-0.2000 ± 0.0000 **lower**"
    swapped = {k: {**v, "cross_entropy": 1 - v["cross_entropy"]} for k, v in results.items()}
    assert said_of(table, swapped) == "+0.2000 ± 0.0000 **higher**"
    markdown, csv, differences = write(table, results, tmp_path, "Somewhere.")
    assert "| good     | 80.5 [74.8, 85.8] 0.400 ± 0.000 |" in markdown.read_text()
    assert "Seeds: 2. In the cells: accuracy in %" in markdown.read_text()
    assert "for all 1 comparisons that are judged" in markdown.read_text()
    assert "| good      | bad            | -0.2000 ± 0.0000 **lower** |" in markdown.read_text()
    written = pd.read_csv(csv)
    assert written["seeds"].tolist() == [2, 2]
    assert written["accuracy"].tolist() == [0.805, 0.6]
    judged = pd.read_csv(differences)
    assert judged["verdict"].tolist() == ["lower"]
    assert judged["mean"].tolist() == pytest.approx([-0.2])


def test_a_difference_of_which_no_printed_digit_is_left_is_none(made):
    table, results = made
    good, bad = (row.cells["tweets"] for row in table.rows)
    for one, other in zip(good, bad, strict=True):
        same = results[other.key]["cross_entropy"]
        results[one.key] = {**results[other.key], "cross_entropy": same + 2e-5}
    assert said_of(table, results) == "the same"


def test_seeds_that_disagree_decide_nothing(made):
    table, results = made
    key = table.rows[0].cells["tweets"][1].key
    results[key] = {**results[key], "cross_entropy": 0.7}
    assert re.fullmatch(r"-0\.0500 ± 1\.\d{4}", said_of(table, results))


def test_one_seed_decides_nothing(made):
    table, results = made
    single = replace(
        table,
        rows=tuple(replace(r, cells={"tweets": r.cells["tweets"][:1]}) for r in table.rows),
    )
    assert said_of(single, results) == "-0.2000"
    assert sentences(single, results)[-1] == (
        "One seed, where no ± is given: it says nothing of other seeds."
    )


def test_one_run_that_stands_for_all_seeds_is_compared_with_each(made):
    table, results = made
    bad = table.rows[1]
    single = replace(
        table, rows=(table.rows[0], replace(bad, cells={"tweets": bad.cells["tweets"][:1]}))
    )
    assert said_of(single, results) == "-0.2000 ± 0.0000 **lower**"


def test_rows_of_other_seeds_are_not_compared(made):
    table, results = made
    good, bad = table.rows
    fewer = replace(table, rows=(replace(good, cells={"tweets": good.cells["tweets"][:1]}), bad))
    assert not compared(fewer, cells(fewer, results))


def test_of_a_planted_task_there_is_a_loss_and_no_accuracy(made, tmp_path):
    table, results = made
    planted = {k: {"unexplained": v["cross_entropy"]} for k, v in results.items()}
    markdown, csv, _ = write(table, planted, tmp_path, "Somewhere.")
    assert "| good     | 0.400 ± 0.000 |" in markdown.read_text()
    assert "least loss good (0.4000)." in markdown.read_text()
    assert "accuracy" not in markdown.read_text()
    assert pd.read_csv(csv)["accuracy"].isna().all()


def test_a_learning_rate_is_shown_where_rows_differ_in_it(made):
    table, results = made
    assert "learning rate" not in frame(table, results)
    run = table.rows[1].cells["tweets"][0]
    other = replace(run, learning_rate=0.5)
    results[other.key] = results[run.key]
    rows = (table.rows[0], replace(table.rows[1], cells={"tweets": (other,)}))
    assert frame(replace(table, rows=rows), results)["learning rate"].tolist()[1] == "0.5"


def test_nothing_is_judged_in_a_column_that_does_not_pass_the_gate(made):
    table, results = made
    gated = replace(table, gate=("bad", "good"))
    text = sentences(gated, results)
    assert text[0].startswith("Does rank matter? bad is behind good by so many")
    assert said_of(gated, results).endswith("**lower**")
    shut = replace(table, gate=("good", "bad"))
    assert "(nothing is judged)" in sentences(shut, results)[0]
    # The numbers stand there all the same, without a word.
    assert said_of(shut, results) == said_of(gated, results).removesuffix(" **lower**")


def test_the_first_table_of_a_file_is_found_and_none_is_an_error(tmp_path):
    file = tmp_path / "t.md"
    file.write_text("# Title\n\n| a |\n|--|\n| 1 |\n\n| b |\n|--|\n")
    assert first_table(file) == "| a |\n|--|\n| 1 |\n"
    file.write_text("# Title\n")
    with pytest.raises(ValueError, match="no table"):
        first_table(file)
