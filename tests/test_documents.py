"""What the documents say must be what the files hold."""

import re

import pytest

from experiments.reporting import readme
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
    for document in ("README.md", "CHANGELOG.md", "experiments/LOG.md"):
        folder = (ROOT / document).parent
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / document).read_text()):
            assert (folder / target).exists(), f"{document}: {target}"


def test_the_code_in_the_readme_prunes(lora, tmp_path, monkeypatch):
    from tests.models import ids, llama

    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    code = code.replace("r=64", "r=6").replace("target_rank=16", "target_rank=2")
    loader = [{"input_ids": tokens, "labels": tokens} for tokens in (ids() for _ in range(40))]
    exec(code, {"base_model": llama(), "loader": loader})
    assert (tmp_path / "adapter-r16" / "adapter_config.json").exists()
