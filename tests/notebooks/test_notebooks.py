"""Every notebook runs from a fresh kernel, outside of the repository's working tree."""

import ast
import os
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from tests.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: Seconds for each cell.
PATIENCE = 300


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def executed(path: Path, folder: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, executed in `folder` by a kernel of its own.

    The client plays no widgets.  Where it does, it sends an Output widget's new state to the kernel
    through a socket whose next message it awaits at the same time; sending may take the one signal
    that this message has arrived, and the client waits for ever.  What `interact` prints, errors
    included, is then an ordinary output of its cell.
    """
    notebook = read(path)
    with tempfile.TemporaryDirectory() as short:  # sockets have short names, and no port that others may take first
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{short}/kernel"}})
        where = {"metadata": {"path": str(folder)}}
        client = NotebookClient(notebook, timeout=PATIENCE, config=sockets, resources=where)
        client.comm_open_handlers = {}
        client.execute()
    return notebook


def test_there_are_notebooks():
    assert NOTEBOOKS


@pytest.mark.filterwarnings("ignore")  # of the kernel's own machinery
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    outputs = [o for cell in executed(path, tmp_path).cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]


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
