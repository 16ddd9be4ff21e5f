"""What the documents say must be what the files hold."""

import json
import re

import pytest

from experiments.reporting import readme
from tests.models import ids, llama
from tests.paths import ROOT

README = (ROOT / "README.md").read_text()


def test_the_tables_in_the_readme_are_the_committed_ones():
    assert README.count("<!-- table: ") >= 5
    assert readme.refreshed(README) == README, "run: python -m experiments.reporting.readme"


def test_a_quoted_table_that_is_not_there_is_an_error(tmp_path):
    file = tmp_path / "t.md"
    file.write_text("# Title\n\n| a |\n|--|\n| 1 |\n\n## Next\n\n| b |\n|--|\n")
    assert readme.table(file) == "| a |\n|--|\n| 1 |\n"
    assert readme.table(file, "## Next") == "| b |\n|--|\n"
    with pytest.raises(ValueError, match="no table below ## Other"):
        readme.table(file, "## Other")


def test_links_in_the_documents_lead_somewhere():
    for document in ("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "experiments/LOG.md"):
        folder = (ROOT / document).parent
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / document).read_text()):
            assert (folder / target).exists(), f"{document}: {target}"


def test_the_code_in_the_readme_prunes(lora, tmp_path, monkeypatch):
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[0]
    monkeypatch.chdir(tmp_path)
    code = code.replace("r=64", "r=6").replace("target_rank=16", "target_rank=2")
    loader = [{"input_ids": tokens, "labels": tokens} for tokens in (ids() for _ in range(40))]
    exec(code, {"base_model": llama(), "loader": loader})
    assert (tmp_path / "adapter-r16" / "adapter_config.json").exists()


def test_the_code_in_the_readme_reduces_an_adapter_in_memory(lora, tmp_path, monkeypatch):
    code = re.findall(r"```python\n(.*?)```", README, re.DOTALL)[1]
    monkeypatch.chdir(tmp_path)
    code = code.replace("rank=16", "rank=4").replace("rank=8", "rank=2")
    loader = [{"input_ids": tokens, "labels": tokens} for tokens in (ids() for _ in range(3))]
    exec(code, {"model": lora(), "loader": loader})
    saved = json.loads((tmp_path / "adapter-r8" / "adapter_config.json").read_text())
    assert saved["r"] == 2
