"""The paper's claims: every piece of evidence is what the committed files say."""

import json
from dataclasses import replace

import pytest

from experiments.reporting import claims
from experiments.reporting.claims import Evidence
from tests.paths import ROOT

CLAIMS = claims.load()
EVIDENCE = [
    pytest.param(evidence, id=f"{number}-{evidence.file}")
    for number, claim in enumerate(CLAIMS)
    for evidence in claim.evidence
]


@pytest.mark.parametrize("evidence", EVIDENCE)
def test_the_committed_results_say_what_a_verdict_rests_on(evidence):
    assert claims.contradiction(evidence) is None


def test_every_claim_has_pages_that_exist_and_a_command_that_can_be_typed():
    for claim in CLAIMS:
        assert all((ROOT / page).exists() for page in claim.pages), claim.claim
        assert claim.command.startswith(("bash experiments/run_all.sh", "python -m theory"))


def test_what_was_found_is_said_in_a_line_of_a_table():
    table = claims.table(CLAIMS).splitlines()
    assert len(table) == 2 + len(CLAIMS)
    for claim, line in zip(CLAIMS, table[2:], strict=True):
        assert len(claim.finding.split()) <= 15, claim.finding
        assert f"**{claim.verdict}**" in line


@pytest.fixture
def evidence(tmp_path, monkeypatch):
    monkeypatch.setattr(claims, "ROOT", tmp_path)
    rows = (
        "column,method,against,mean,verdict\na,one,other,-0.5,lower\nb,one,other,0.5,not decided\n"
    )
    (tmp_path / "x.csv").write_text(rows)
    return Evidence("x.csv", {"column": "a", "method": "one"})


def test_evidence_that_the_file_denies_is_found(evidence):
    assert claims.contradiction(replace(evidence, verdict="lower")) is None
    assert "lower" in claims.contradiction(replace(evidence, verdict="level"))
    assert claims.contradiction(replace(evidence, within=("mean", -1.0, 0.0))) is None
    assert "-0.5" in claims.contradiction(replace(evidence, within=("mean", 0.0, 1.0)))
    other = {"column": "b"}
    assert claims.contradiction(replace(evidence, below=("mean", other))) is None
    assert "is not below" in claims.contradiction(
        Evidence("x.csv", other, below=("mean", evidence.where))
    )


def test_evidence_must_mean_one_line_and_one_thing(evidence):
    with pytest.raises(ValueError, match="2 lines have"):
        claims.contradiction(Evidence("x.csv", {"method": "one"}, verdict="lower"))
    with pytest.raises(ValueError, match="0 lines have"):
        claims.contradiction(Evidence("x.csv", {"method": "two"}, verdict="lower"))
    with pytest.raises(ValueError, match="say one of"):
        claims.contradiction(evidence)


def test_a_claim_without_evidence_is_refused(tmp_path):
    file = tmp_path / "claims.json"
    claim = json.loads(claims.FILE.read_text())["claims"][0] | {"evidence": []}
    file.write_text(json.dumps({"claims": [claim]}))
    with pytest.raises(ValueError, match="evidence"):
        claims.load(file)
