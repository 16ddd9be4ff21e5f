"""What the README and other documents say must be what the files hold, and what they show must run."""

import json
import re
import runpy
import shlex
import sys
import tomllib

import pytest

from docs import parts
from experiments.reporting import readme
from prunedlora import Schedule
from prunedlora.cli.entry import main
from tests.models import ids, llama
from tests.paths import ROOT

README = (ROOT / "README.md").read_text()
#: What the README types that is not tried here: it installs, or takes long.
NOT_TRIED = ("pip install", "bash experiments/run_all.sh", "python -m theory")
DOCUMENTS = (
    *("README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "experiments/LOG.md"),
    *(f"docs/{page}" for page in parts.pages()),
)


def test_the_readme_is_short():
    assert len(README.split()) <= 1200


def test_the_verdicts_in_the_readme_are_the_committed_ones():
    assert readme.refreshed(README) == README, "run: python -m experiments.reporting.readme"


def test_a_readme_without_a_place_for_the_verdicts_is_an_error():
    line = "<!-- table: claims.json -->\n"
    assert readme.refreshed(f"a\n{line}| old |\n\nb\n").startswith(f"a\n{line}| the paper says ")
    with pytest.raises(ValueError, match="one line"):
        readme.refreshed("a\n")


@pytest.mark.parametrize("document", DOCUMENTS)
def test_links_in_the_documents_lead_somewhere(document):
    folder, text = (ROOT / document).parent, (ROOT / document).read_text()
    targets = re.findall(r"\]\((?!https?:)([^)#\s]+)[^)]*\)", text)
    targets += re.findall(r"^```\{literalinclude\} (\S+)$", text, re.MULTILINE)
    targets += re.findall(r"\{download\}`[^<`]+<([^>]+)>`", text)
    missing = [target for target in targets if not (folder / target).exists()]
    assert missing == []


def test_the_page_of_every_criterion_is_two_clicks_from_the_readme():
    index = ROOT / "docs/criteria/index.md"
    assert "(docs/criteria/index.md)" in README
    linked = set(re.findall(r"^(\w+)$", index.read_text().split("```{toctree}")[-1], re.MULTILINE))
    assert linked >= {file.stem for file in index.parent.glob("*.md")} - {"index"}


def test_the_code_in_the_readme_prunes_when_it_says(lora, tmp_path, monkeypatch):
    code = next(c for c in python_code(README) if "LoraRankPruner" in c)
    assert "r=32" in code
    events = Schedule(target_rank=16, per_event=None).events(32)
    assert len(events) == 8
    assert events[-1][0] == 90
    assert "in eight events, the last at step 90" in code
    monkeypatch.chdir(tmp_path)
    code = code.replace("r=32", "r=6").replace("target_rank=16", "target_rank=2")
    loader = [{"input_ids": tokens, "labels": tokens} for tokens in (ids() for _ in range(40))]
    exec(code, {"base_model": llama(), "loader": loader})
    assert (tmp_path / "adapter-r16" / "adapter_config.json").exists()


def test_the_steps_that_the_page_on_training_names_are_those_of_the_schedule():
    page = " ".join((ROOT / "docs/start/prune.md").read_text().split())
    words = {4: "four events, and the last", 8: "eight, and the last"}
    for high, low in ((16, 8), (64, 16)):
        events = Schedule(target_rank=low, per_event=None).events(high)
        said = f"From {'rank ' * (high == 16)}{high} to {low} there are {words[len(events)]}"
        assert f"{said} is at step {events[-1][0]}." in page


def test_the_code_in_the_readme_reduces_an_adapter_in_memory(lora, tmp_path, monkeypatch):
    code = next(c for c in python_code(README) if "reduce_adapter" in c)
    monkeypatch.chdir(tmp_path)
    code = code.replace("rank=16", "rank=4").replace("rank=8", "rank=2")
    loader = [{"input_ids": tokens, "labels": tokens} for tokens in (ids() for _ in range(3))]
    exec(code, {"model": lora(), "loader": loader})
    saved = json.loads((tmp_path / "adapter-r8" / "adapter_config.json").read_text())
    assert saved["r"] == 2


@pytest.mark.parametrize("document", ["README.md", "docs/start/lower.md"])
def test_the_commands_of_a_newcomer_run_as_typed(document, tmp_path, monkeypatch, capsys):
    """In the order of the page, in an empty folder; scripts of the repository by their path there."""
    text = (ROOT / document).read_text()
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    typed = [
        line
        for block in re.findall(r"```bash\n(.*?)```", text, re.DOTALL)
        for line in block.splitlines()
    ]
    for line in filter(None, typed):
        words = shlex.split(line, comments=True)
        if words[0] == "prunedlora":
            with pytest.raises(SystemExit) as stopped:
                main(words[1:])
            assert not stopped.value.code, f"{line}: {capsys.readouterr().err}"
        elif words[0] == "python" and words[1].startswith("examples/"):
            run_example(words[1], *words[2:])
        else:
            assert line.startswith(NOT_TRIED), line
    for code in python_code(text):
        if "my-adapter" in code:
            exec(code, {})


def python_code(text: str) -> list[str]:
    """The blocks of Python in a document."""
    return re.findall(r"```python\n(.*?)```", text, re.DOTALL)


def run_example(path: str, *arguments: str) -> None:
    """Run a script as the command line would, in this process."""
    before = sys.argv
    sys.argv = [path, *arguments]
    try:
        runpy.run_path(str(ROOT / path), run_name="__main__")
    finally:
        sys.argv = before


def test_the_page_on_own_criteria_runs():
    text = (ROOT / "docs/criteria/own.md").read_text()
    names: dict[str, object] = {}
    for code in python_code(text):
        exec(code, names)
    assert "last_out" in names


def test_the_documented_python_versions_are_those_of_the_project():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    versions = [
        line.rsplit(" :: ", 1)[1]
        for line in project["classifiers"]
        if re.fullmatch(r"Programming Language :: Python :: 3\.\d+", line)
    ]
    said = f"Python {', '.join(versions[:-1])} or {versions[-1]}"
    assert said in README
    assert said in (ROOT / "docs/start/install.md").read_text()
    assert project["requires-python"] == f">={versions[0]}"
