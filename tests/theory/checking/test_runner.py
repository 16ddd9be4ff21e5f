import math

import torch

from theory import available_statements, get_statement
from theory.checking.runner import derived_seed, draw, plan, replay, verify

KEYS = available_statements()


def test_defaults_try_ten_thousand_cheap_and_a_thousand_dear_instances():
    for key in KEYS:
        planned = sum(
            batch.size for batch in plan(get_statement(key), get_statement(key).instances, 0)
        )
        assert planned >= 1_000
        if get_statement(key).instances >= 10_000:
            assert planned >= 10_000


def test_an_instance_does_not_depend_on_the_other_statements_or_the_device_order():
    statement = get_statement("S7")
    first, second = plan(statement, 3000, 1)[2], plan(statement, 3000, 1)[2]
    assert first == second
    assert torch.equal(draw(statement, first).W, draw(statement, second).W)
    assert derived_seed(1, "S7", 2) != derived_seed(2, "S7", 2)


def test_the_worst_instance_can_be_made_again():
    statement = get_statement("S10.general")
    summary = verify(statement, count=400, seed=4, steps=1)
    again = statement.check(
        replay(statement, 400, 4, summary.worst["batch"], summary.worst["index"])
    )
    assert math.isclose(again.ratio.item(), summary.tightest_ratio, rel_tol=1e-9)
