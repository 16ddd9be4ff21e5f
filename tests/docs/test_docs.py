"""The documentation builds without a warning, and says of each criterion, command and result what there is."""

import doctest
import importlib.util
import re
import subprocess
import sys

import pandas as pd
import pytest

import prunedlora
from docs import parts
from tests.paths import ROOT

DOCS = ROOT / "docs"
PAGES = parts.pages()
USED = {part for text in PAGES.values() for part in parts.used(text)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The built pages."""
    if importlib.util.find_spec("sphinx") is None:
        pytest.skip("Sphinx is not installed: pip install '.[docs]'")
    out = tmp_path_factory.mktemp("docs")
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-b", "html", DOCS, out]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return out


def test_the_pages_build_without_a_warning_and_without_broken_parts(built):
    for page in PAGES:
        html = (built / page).with_suffix(".html").read_text()
        article = html[html.index("<article") : html.index("</article>")]
        for broken in ("system-message", "problematic", 'class="xref myst"', "{part}"):
            assert broken not in article, f"{page}: {broken}"
        # Formulae and tables that Markdown did not understand stay as they were typed.
        text = re.sub(r"<(span|div|code|pre)[^>]*>.*?</\1>", "", article, flags=re.DOTALL)
        assert not re.search(r"\$[^$\n]+\$|\|\s*:?--|:math:", text), page


def test_every_public_name_has_its_place_in_the_reference(built):
    html = (built / "reference/api.html").read_text()
    for name in prunedlora.__all__:
        assert f'id="prunedlora.{name}"' in html, name


def test_the_groups_of_names_are_the_public_interface():
    names = [name for group in parts.public_names().values() for name in group]
    assert sorted(names) == prunedlora.__all__


def test_every_criterion_has_a_page_with_its_facts_and_its_evidence():
    for name in parts.own_criteria():
        page = PAGES[f"criteria/{name}.md"]
        assert {("criterion", name), ("evidence", name)} <= set(parts.used(page))
        for heading in ("## Formula", "## When to use it", "## Evidence"):
            assert heading in page, f"{name}: {heading}"


def test_every_committed_table_is_on_one_of_two_pages():
    places = {name: parts.PARTS[name]() for name in ("tables", "studies")}
    for file in parts.CPU.glob("*.md"):
        where = [name for name, text in places.items() if f"(study-{file.stem})=\n" in text]
        assert len(where) == 1, file.name


def test_every_part_is_used_and_every_command_is_shown():
    assert {name for name, _ in USED} == set(parts.PARTS)
    shown = {argument for name, argument in USED if name == "command"}
    assert shown == {"prunedlora", "compress", "merge", "extract", "inspect", "verify", "bench"}


def test_the_facts_of_a_criterion_are_those_of_the_registry():
    facts = parts.criterion("prunedlora2025")
    for fact in (
        "`gram_B`",
        "`recovery='half'` (one of `both`, `half`",
        "not to a change of basis",
    ):
        assert fact in facts
    assert "`scope='global'`" in parts.criterion("para2026")
    assert "the best approximation" in parts.criterion("svd_kfac")


@pytest.mark.parametrize("model", ["minilm", "smollm2"])
def test_what_the_pages_say_of_one_shot_pruning_is_what_was_measured(model):
    """That svd_fisher loses least, and svd_activation mostly more than svd_kfac."""
    lines = pd.read_csv(parts.CPU / f"one_shot_{model}.csv")
    least = lines.loc[lines.groupby("rank").test.idxmin()]
    assert set(least.criterion) == {"svd_fisher"}
    own = lines[lines.recovery == "own"].pivot_table(
        index="rank", columns="criterion", values="test"
    )
    assert (own.svd_activation > own.svd_kfac).mean() > 0.5


def test_evidence_is_cut_from_the_committed_files():
    text = parts.evidence("svd")
    lines = pd.read_csv(parts.CPU / "verdict.csv")
    loss = lines[(lines.method == "svd") & (lines.column == "to 32, 50% left")].loss.item()
    assert f"{loss:.3f} ±" in text
    assert "LoRA at the target rank" in text
    assert "svd_kfac" not in text


def test_a_row_is_of_the_criterion_that_it_names():
    assert parts.is_about("skyline truncated by svd", "svd")
    assert not parts.is_about("skyline truncated by svd_kfac", "svd")
    assert parts.is_about("LLM-Pruner", "llmpruner2023")


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(parts).failed == 0


def test_links_lead_from_a_page_to_tables_and_files():
    page = DOCS / "start/check.md"
    table = "[a](../../experiments/results/cpu/verdict.md)"
    assert parts.for_page(table, page) == "[a](#study-verdict)"
    assert parts.for_page("[a](../../LICENSE)", page) == "{download}`a <../../LICENSE>`"
    assert parts.for_page("[a](lower.md)", page) == "[a](lower.md)"
    assert parts.relinked("![a](x/y.png)", ROOT / "theory", DOCS) == "![a](../theory/x/y.png)"
