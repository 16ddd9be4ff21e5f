import json

import pytest

from theory.__main__ import main
from theory.report.page import COLUMNS

SMALL = ["--instances", "12", "--steps", "2"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    out = tmp_path_factory.mktemp("results")
    assert main([*SMALL, "--out", str(out), "--seed", "7"]) == 0
    return out


def test_all_statements_are_written(folder):
    record = json.loads((folder / "statements.json").read_text())
    assert len({one["key"].split(".")[0] for one in record["statements"]}) == 15
    for one in record["statements"]:
        assert one["verdict"] in ("verified", "refuted")
        assert one["worst"]["seed"] >= 0
    assert record["environment"]["precision"] == "float64"


def test_report_is_readable_and_self_contained(folder):
    page, text = (folder / "report.html").read_text(), (folder / "report.md").read_text()
    assert "data:image/png;base64" in page
    assert 'src="http' not in page
    assert all(column in text for column in COLUMNS)
    for line in text.splitlines():
        if line.startswith("!["):
            assert (folder / line.split("(")[1].rstrip(")")).stat().st_size > 1000


def test_claim_has_its_numbers_from_the_record(folder):
    claim = (folder / "claim.md").read_text()
    assert "{" not in claim
    assert "6.069" in claim  # the counterexample of 64 tokens, 0.0800 / 0.0132


def test_no_temporary_file_stays(folder):
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_a_violation_is_exit_code_one(tmp_path):
    assert main(["--statement", "S7", "--tighten", "0.9", *SMALL, "--out", str(tmp_path)]) == 1
    record = json.loads((tmp_path / "statements.json").read_text())
    assert [one["verdict"] for one in record["statements"]] == ["violated"]
    assert not (tmp_path / "claim.md").exists()


def test_an_unknown_statement_is_exit_code_two(tmp_path):
    assert main(["--statement", "S99", "--out", str(tmp_path)]) == 2
    assert not list(tmp_path.iterdir())


def test_the_same_seed_gives_the_same_numbers(tmp_path, monkeypatch):
    monkeypatch.setattr(
        "theory.report.page.write", lambda out: None
    )  # the numbers are in the record
    for name in "ab":
        assert main(["--statement", "S5", *SMALL, "--out", str(tmp_path / name)]) == 0
    first, second = (json.loads((tmp_path / name / "statements.json").read_text()) for name in "ab")
    drop = ("seconds", "adversary")
    kept = [
        [{k: v for k, v in one.items() if k not in drop} for one in r["statements"]]
        for r in (first, second)
    ]
    assert kept[0] == kept[1]
