"""Which numbers agree with the committed ones, and which do not."""

import math
from dataclasses import replace

import pytest

from experiments.reporting import agreement
from experiments.reporting.agreement import Number, compare, numbers_of
from experiments.reporting.table import Row, Table
from experiments.settings.jobs import RunConfig

#: Committed with three seeds that deviate by 0.01.
NUMBER = Number("verdict", "to 8: svd, seed 0", 0.50, 0.50, (0.49, 0.50, 0.51))
ENVIRONMENT = {
    "device": "AMD EPYC, AVX512",
    "threads": 1,
    "packages": {"torch": "2.13.0", "transformers": "5", "peft": "0.21", "numpy": "2.4"},
}
RUN = RunConfig("tiny_bert", "planted_flat", "lora", 4, 4)


def record(loss, device="AMD EPYC, AVX512", data="abc"):
    result = {"unexplained": loss, "splits": {"test": data}}
    return {"environment": ENVIRONMENT | {"device": device}, "result": result}


def verdict_of(**changes):
    (comparison,) = compare([replace(NUMBER, **changes)])
    return comparison.verdict, comparison.why


def test_the_same_number_agrees_and_a_wrong_one_differs():
    assert verdict_of() == ("agrees", "to the last digit")
    assert verdict_of(here=0.529) == ("agrees", "in tolerance")
    assert verdict_of(here=0.531) == ("differs", "by more than the tolerance")
    assert verdict_of(here=0.469) == ("differs", "by more than the tolerance")


def test_the_reference_is_the_number_of_the_same_seed_and_not_the_mean():
    assert verdict_of(here=0.535, committed=0.51)[0] == "agrees"
    assert verdict_of(here=0.535, committed=0.50)[0] == "differs"


def test_seeds_that_lie_close_by_chance_borrow_the_spread_of_other_cells():
    close = replace(NUMBER, here=0.51, over_seeds=(0.50, 0.50, 0.5001), pool="verdict")
    wide = replace(NUMBER, pool="verdict")
    assert compare([close])[0].verdict == "differs"
    assert compare([close, wide])[0].verdict == "agrees"
    # Cells of another pool lend nothing.
    assert compare([close, replace(wide, pool="figure1")])[0].verdict == "differs"


def test_a_standard_error_adds_to_the_spread():
    assert verdict_of(here=0.54)[0] == "differs"
    assert verdict_of(here=0.54, error=0.01)[0] == "agrees"


def test_other_digits_on_the_same_kind_of_machine_are_said():
    verdict, why = verdict_of(here=0.5001, same_machine=True)
    assert (verdict, why) == ("agrees", "other digits on such a machine")


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"committed": None}, "not comparable"),
        ({"here": 0.51, "over_seeds": (0.5,)}, "not comparable"),
        ({"over_seeds": (0.5,)}, "agrees"),
        ({"same_data": False}, "differs"),
        ({"here": math.inf}, "differs"),
        ({"here": math.nan, "committed": math.nan}, "agrees"),
        ({"here": math.inf, "committed": -math.inf}, "differs"),
    ],
)
def test_what_cannot_be_compared_is_said(changes, expected):
    assert verdict_of(**changes)[0] == expected


def test_a_number_is_taken_from_each_run_that_was_done_once_for_all_columns():
    seeds = tuple(replace(RUN, seed=seed) for seed in range(3))
    row = Row("LoRA", {"to 8": seeds, "to 16": seeds})
    table = Table("verdict", "A table", (row,))
    committed = {run.key: record(0.4 + 0.01 * run.seed) for run in seeds}
    here = {seeds[1].key: record(0.415)}
    (number,) = numbers_of(table, here, committed)
    assert number.cell == "to 8: LoRA, seed 1"
    assert (number.here, number.committed) == (0.415, 0.4 + 0.01)
    assert number.over_seeds == pytest.approx((0.40, 0.41, 0.42))
    assert number.same_machine
    assert number.same_data
    (other,) = numbers_of(table, {seeds[1].key: record(0.415, "another", "xyz")}, committed)
    assert not other.same_machine
    assert not other.same_data
    # What has nothing to stand beside is a number nevertheless.
    (alone,) = numbers_of(table, here, {})
    assert alone.committed is None


def test_the_summary_counts_and_the_table_stresses_what_differs():
    comparisons = compare([NUMBER, replace(NUMBER, here=0.6), replace(NUMBER, committed=None)])
    assert agreement.summary(comparisons) == (
        "3 numbers: 1 agrees with the committed one (1 to the last digit), 1 differs, 1 not comparable"
    )
    text = agreement.markdown(comparisons)
    assert text.count("**differs**") == 1
    assert "| 0.600000 | 0.500000    | 0.5000 (3)   | ± 0.0300    |" in text
