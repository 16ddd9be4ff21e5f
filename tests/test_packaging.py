"""What is packed, and what an index page shows of it."""

import re
import runpy
import tomllib

import pytest

from tests.dependency_versions import requirements
from tests.paths import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_an_index_page_has_links_into_the_repository():
    absolute = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["absolute"]
    text = "![a](x/y.png) [b](docs/z.md#part) [c](https://d) [e](#here)"
    assert absolute(text, "https://host/r/") == (
        "![a](https://host/r/raw/main/x/y.png) [b](https://host/r/blob/main/docs/z.md#part) "
        "[c](https://d) [e](#here)"
    )
    assert absolute(text, None) == text


def test_the_readme_is_the_description_of_the_project():
    assert "readme" in PROJECT["dynamic"]
    assert '"README.md"' in (ROOT / "setup.py").read_text()


def test_the_source_distribution_names_files_that_exist():
    lines = (ROOT / "MANIFEST.in").read_text().splitlines()
    named = [word for line in lines if line.startswith("include ") for word in line.split()[1:]]
    assert {"CHANGELOG.md", "CITATION.cff"} <= set(named)
    assert [name for name in named if not (ROOT / name).exists()] == []


def test_the_version_is_the_same_everywhere():
    version = PROJECT["version"]
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f'__version__ = "{version}"' in (ROOT / "prunedlora/__init__.py").read_text()
    assert f"version = {{{version}}}" in (ROOT / "README.md").read_text()


def test_the_papers_authors_are_the_same_everywhere():
    cited = (ROOT / "CITATION.cff").read_text()
    names = re.findall(r"family-names: (\w+)\n\s+given-names: (\w+)", cited)
    assert len(names) == 6
    bibtex = " and ".join(f"{family}, {given}" for family, given in names)
    assert f"author        = {{{bibtex}}}" in (ROOT / "README.md").read_text()
    assert (
        ", ".join(f"{given} {family}" for family, given in names)
        in (ROOT / "docs/reproduction/report.md").read_text()
    )


def test_every_dependency_says_from_which_version_on(monkeypatch):
    extras = list(PROJECT["optional-dependencies"])
    oldest = requirements("oldest", extras)
    assert "torch==2.6" in oldest
    assert "torch>=2.6" in requirements("newest", [])
    monkeypatch.setattr("tests.dependency_versions.PROJECT", {"dependencies": ["numpy"]})
    with pytest.raises(ValueError, match="numpy does not say from which version on"):
        requirements("oldest", [])
