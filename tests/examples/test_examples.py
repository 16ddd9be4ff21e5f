"""The examples are short, and run; here on a tiny random model and few steps."""

import pytest

from prunedlora import inspect_adapter
from tests.paths import ROOT
from tests.test_documents import run_example

SCRIPTS = ("trainer", "loop", "make_adapter", "compress_with_data", "serve")


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working folder, from which the scripts find what they share."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(ROOT / "examples")
    return tmp_path


def test_every_example_is_shorter_than_sixty_lines_and_tried():
    files = {file.stem: file for file in (ROOT / "examples").glob("*.py")}
    assert set(files) == {*SCRIPTS, "common"}
    for name in SCRIPTS:
        assert len(files[name].read_text().splitlines()) < 60


@pytest.mark.parametrize("script", ["trainer", "loop"])
def test_a_training_example_ends_at_the_target_rank(folder, script):
    run_example(f"examples/{script}.py", "small", "--model", "tiny", "--steps", "52")
    assert {module.rank for module in inspect_adapter("small").modules} == {8}


def test_an_adapter_is_made_compressed_with_data_and_served(folder, capsys):
    run_example("examples/make_adapter.py", "--steps", "5")
    assert {module.rank for module in inspect_adapter("my-adapter").modules} == {16}
    run_example("examples/compress_with_data.py", "several", "--rank", "4")
    for name in ("svd", "svd_fisher"):
        assert {m.rank for m in inspect_adapter(f"several/{name}").modules} == {4}
    capsys.readouterr()
    run_example("examples/serve.py", "served", "--rank", "8")
    answers = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in answers] == ["my-adapter", "served"]
    assert "12+34=" in answers[1]


def test_nothing_is_overwritten(folder):
    (folder / "my-adapter").mkdir()
    with pytest.raises(SystemExit, match="my-adapter exists"):
        run_example("examples/make_adapter.py")
    assert [file.name for file in folder.iterdir()] == ["my-adapter"]
