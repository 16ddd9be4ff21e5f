"""Every notebook runs in its folder from a fresh kernel, with nothing but what its extra installs."""

import ast
import sys
import tempfile
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from traitlets.config import Config

from tests.paths import ROOT

NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
#: Seconds for each cell.
PATIENCE = 900


def read(path: Path) -> nbformat.NotebookNode:
    return nbformat.read(path, as_version=4)


def executed(path: Path) -> nbformat.NotebookNode:
    """The notebook with its outputs, executed in its folder by a kernel of its own.

    The client plays no widgets.  Where it does, it sends an Output widget's new state to the kernel
    through a socket whose next message it awaits at the same time; sending may take the one signal
    that this message has arrived, and the client waits for ever.  What `interact` prints, errors
    included, is then an ordinary output of its cell.
    """
    notebook = read(path)
    with tempfile.TemporaryDirectory() as short:  # sockets have short names, and no port that others may take first
        sockets = Config({"KernelManager": {"transport": "ipc", "ip": f"{short}/kernel"}})
        where = {"metadata": {"path": str(path.parent)}}
        client = NotebookClient(notebook, timeout=PATIENCE, config=sockets, resources=where)
        client.comm_open_handlers = {}
        client.execute()
    return notebook


def test_there_are_the_notebooks_that_the_folder_lists():
    listed = (ROOT / "notebooks" / "README.md").read_text()
    assert len(NOTEBOOKS) == 3
    assert all(f"]({path.name})" in listed for path in NOTEBOOKS)


@pytest.mark.filterwarnings("ignore")  # of the kernel's own machinery
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_it_runs(path, tmp_path, monkeypatch):
    # As somebody starts it who has a clone and no path set: the notebook itself finds the packages beside it.
    monkeypatch.delenv("PYTHONPATH", raising=False)
    for name in ("IPYTHONDIR", "JUPYTER_RUNTIME_DIR", "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR"):
        monkeypatch.setenv(name, str(tmp_path / name.lower()))
    before = set((ROOT / "notebooks").iterdir())
    outputs = [o for cell in executed(path).cells for o in cell.get("outputs", [])]
    assert not [o for o in outputs if o.output_type == "error"]
    assert set((ROOT / "notebooks").iterdir()) == before


def extra(name: str) -> set[str]:
    """The distributions that an extra of the project names, with those of the extras in it and of the project."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [Requirement(text) for text in project["dependencies"]]
    asked += [Requirement(text) for text in project["optional-dependencies"][name]]
    own = [requirement for requirement in asked if requirement.name == project["name"]]
    inner = [extra(one) for requirement in own for one in requirement.extras]
    return set().union({canonicalize_name(requirement.name) for requirement in asked}, *inner)


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_all_that_it_imports_comes_with_its_extra(path):
    imported = set()
    for cell in read(path).cells:
        if cell.cell_type == "code":
            source = "\n".join(line for line in cell.source.splitlines() if line[:1] != "%")
            for node in ast.walk(ast.parse(source)):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add(node.module.partition(".")[0])
    beside = {folder.name for folder in ROOT.iterdir() if (folder / "__init__.py").exists()}
    others = imported - set(sys.stdlib_module_names) - beside
    assert others
    of_module = packages_distributions()
    # A kernel brings its display.
    named = extra("notebooks") | {"ipython"}
    for module in others:
        assert named & {canonicalize_name(name) for name in of_module[module]}, module


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
