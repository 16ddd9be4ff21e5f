"""What holds of every statement."""

import pytest
from torch import Generator

from theory import available_statements, get_statement
from theory.checking.runner import verify

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
    result = statement.check(
        statement.sample(Generator().manual_seed(5), 16, **statement.shapes[-1])
    )
    assert result.applies.double().mean() > 0.5
    assert (result.rhs > 0).any()


def test_every_statement_has_a_proof_and_a_formula():
    for key in KEYS:
        statement = get_statement(key)
        assert (
            "**Proof" in statement.proof
            or "*Proof" in statement.proof
            or statement.claim == "refuted"
        ), key
        assert statement.formula


def test_statements_s1_to_s15_are_all_there():
    assert {int(key[1:].split(".")[0]) for key in KEYS} == set(range(1, 16))
