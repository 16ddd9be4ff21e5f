"""The table of ways to train says what tests say, and no more."""

import ast
import re

import pytest

from docs import parts, support
from tests.paths import ROOT

PROOFS = support.proofs()


def test_each_right_cell_names_a_test_that_runs():
    for proof in PROOFS:
        tree = ast.parse((ROOT / proof.file).read_text())
        (test,) = (f for f in tree.body if getattr(f, "name", "") == proof.test)
        assert proof.test.startswith("test_"), proof
        marks = " ".join(map(ast.unparse, test.decorator_list))
        assert not {"skip", "skipif", "xfail"} & set(re.findall(r"\w+", marks)), proof


def test_what_is_called_untested_is_not_tested():
    assert not {proof.way for proof in PROOFS} & set(support.UNTESTED)


def test_no_way_is_right_and_refused():
    verdicts = {}
    for proof in PROOFS:
        assert verdicts.setdefault(proof.way, proof.verdict) == proof.verdict, proof


def test_the_page_has_a_row_for_each_way_with_its_tests():
    text = parts.support()
    ways = {proof.way for proof in PROOFS}
    assert len(text.splitlines()) == 2 + len(ways) + len(support.UNTESTED)
    for proof in PROOFS:
        assert f"({proof.file})" in text


@pytest.mark.parametrize("mark", ['"AdamW"', '"a", "b", "c", "d", verdict="maybe"'])
def test_a_mark_that_is_not_understood_is_an_error_that_names_the_test(tmp_path, mark):
    folder = tmp_path / "tests"
    folder.mkdir()
    text = f"@pytest.mark.supports({mark})\ndef test_it(): ...\n"
    (folder / "test_marks.py").write_text(text)
    with pytest.raises(ValueError, match=r"tests/test_marks\.py::test_it"):
        support.proofs(folder)
