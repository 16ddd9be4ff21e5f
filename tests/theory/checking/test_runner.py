import math

import pytest
import torch
from torch import Generator

from prunedlora.errors import ConfigurationError
from theory import available_statements, get_statement
from theory.checking.instances import entry
from theory.checking.registry import select_statements
from theory.checking.runner import derived_seed, draw, plan, replay, verify

KEYS = available_statements()


@pytest.mark.parametrize("key", KEYS)
def test_each_statement_is_what_it_claims_to_be(key):
    statement = get_statement(key)
    summary = verify(statement, count=24, seed=11, steps=2)
    assert summary.passed, summary.verdict
    assert summary.instances >= 24
    assert sum(summary.histogram["counts"]) > 0


@pytest.mark.parametrize("key", [key for key in KEYS if get_statement(key).claim != "refuted"])
def test_identities_and_bounds_are_not_vacuous(key):
    """Most instances meet the assumptions, and both sides differ from zero somewhere."""
    statement = get_statement(key)
    result = statement.check(statement.sample(Generator().manual_seed(5), 16, **statement.shapes[-1]))
    assert result.applies.double().mean() > 0.5
    assert (result.rhs > 0).any()


def test_every_statement_has_a_proof_and_a_formula():
    for key in KEYS:
        statement = get_statement(key)
        assert "**Proof" in statement.proof or "*Proof" in statement.proof or statement.claim == "refuted", key
        assert statement.formula


def test_statements_s1_to_s12_are_all_there():
    assert {int(key[1:].split(".")[0]) for key in KEYS} == set(range(1, 13))


def test_a_key_selects_its_parts_and_an_unknown_one_is_refused():
    assert [s.key for s in select_statements("S6")] == ["S6.path", "S6.printed"]
    assert [s.key for s in select_statements("S7")] == ["S7"]
    with pytest.raises(ConfigurationError, match="there are: S1"):
        select_statements("S99")


def test_defaults_try_ten_thousand_cheap_and_a_thousand_dear_instances():
    for key in KEYS:
        planned = sum(batch.size for batch in plan(get_statement(key), get_statement(key).instances, 0))
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
    again = statement.check(replay(statement, 400, 4, summary.worst["batch"], summary.worst["index"]))
    assert math.isclose(again.ratio.item(), summary.tightest_ratio, rel_tol=1e-9)


def test_one_entry_of_a_batch_checks_like_the_batch():
    statement = get_statement("S5.bound")
    batch = statement.sample(Generator().manual_seed(0), 5, **statement.shapes[1])
    torch.testing.assert_close(statement.check(batch).lhs[3:4], statement.check(entry(batch, 3)).lhs)
