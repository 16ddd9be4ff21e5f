"""Every notebook runs from a fresh kernel, outside of the repository's working tree."""

import ast
import asyncio
import contextlib
import os
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from tests.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: Attempts to execute a notebook, and seconds for each.
ATTEMPTS, PATIENCE = 3, 300


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


async def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs; tried again where the client waits for an answer of the kernel that was lost."""
    for _ in range(ATTEMPTS):
        notebook = read(path)
        client = NotebookClient(notebook, timeout=PATIENCE, resources={"metadata": {"path": str(folder)}})
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(client.async_execute(), PATIENCE)
            return notebook
    pytest.fail(f"{path.name} was not executed in {ATTEMPTS} attempts of {PATIENCE} s")


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.filterwarnings("ignore")  # of the kernel's own machinery
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    notebook = asyncio.run(executed(path, tmp_path))
    assert not [o for cell in notebook.cells for o in cell.get("outputs", []) if o.output_type == "error"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_defines_no_logic_and_is_committed_with_its_pictures(path):
    notebook = read(path)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    for cell in code:
        source = "\n".join(line for line in cell.source.splitlines() if not line.startswith("%"))
        defined = (ast.FunctionDef, ast.ClassDef, ast.Lambda)
        assert not any(isinstance(node, defined) for node in ast.walk(ast.parse(source)))
        assert cell.execution_count, "run the notebook before committing it"
    outputs = [o for cell in code for o in cell.outputs]
    assert any("image/png" in o.get("data", {}) for o in outputs)
    assert path.stat().st_size < 1_000_000
