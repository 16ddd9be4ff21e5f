"""What the documents say must be what the files hold."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()


@pytest.mark.parametrize("name", ["table1", "table3", "table7"])
def test_the_tables_in_the_readme_are_the_committed_ones(name):
    table = (ROOT / "experiments" / "results" / "cpu" / f"{name}.md").read_text()
    lines = [line for line in table.splitlines() if line.startswith("|")]
    assert len(lines) > 5
    assert "\n".join(lines) in README


@pytest.mark.parametrize("name", ["minilm", "smollm2"])
def test_the_one_shot_tables_in_the_readme_are_the_committed_ones(name):
    text = (ROOT / "experiments" / "results" / "cpu" / f"one_shot_{name}.md").read_text()
    lines = [line for line in text.split("## Rank 2")[1].split("##")[0].splitlines() if line.startswith("|")]
    assert len(lines) > 5
    assert "\n".join(lines) in README


def test_links_in_the_documents_lead_somewhere():
    for document in ("README.md", "CHANGELOG.md", "experiments/LOG.md"):
        folder = (ROOT / document).parent
        for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", (ROOT / document).read_text()):
            assert (folder / target).exists(), f"{document}: {target}"


def test_the_code_in_the_readme_prunes(lora, tmp_path, monkeypatch):
    from tests.conftest import ids, llama

    code = re.search(r"```python\n(.*?)```", README, re.DOTALL).group(1)
    monkeypatch.chdir(tmp_path)
    code = code.replace("r=64", "r=6").replace("target_rank=16", "target_rank=2")
    loader = [{"input_ids": tokens, "labels": tokens} for tokens in (ids() for _ in range(40))]
    exec(code, {"base_model": llama(), "loader": loader})
    assert (tmp_path / "adapter-r16" / "adapter_config.json").exists()
