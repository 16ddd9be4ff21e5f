"""What an import brings with it: public names, and no package that is not needed."""

import ast
import re
import subprocess
import sys
import tomllib
import warnings
from importlib import import_module, util
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import prunedlora
from prunedlora.optional import installed_version

PACKAGE = Path(prunedlora.__file__).parent
ROOMS = (
    "cli",
    "training",
    "compress",
    "ranks",
    "criteria",
    "statistics",
    "files",
    "adapters",
    "linalg",
)
#: The criteria register themselves, so their room imports all of its files.
LIGHT = ("prunedlora", *(f"prunedlora.{room}" for room in ROOMS if room != "criteria"))
#: For one release, under their old names.
MOVED = {
    "prunedlora.callback": ("prunedlora.training.callback", "PruningCallback"),
    "prunedlora.obs": ("prunedlora.linalg.elimination", "eliminate"),
    "prunedlora.truncation": ("prunedlora.linalg.truncation", "truncate"),
}
HEAVY = "peft, transformers, torch"


def loaded_after(code):
    """Which of the heavy packages a fresh process has imported after running some code."""
    code += (
        f"\nimport sys\nprint('loaded:', *(m for m in '{HEAVY}'.split(', ') if m in sys.modules))"
    )
    command = [sys.executable, "-W", "error", "-c", code]
    out = subprocess.run(command, capture_output=True, text=True, cwd=PACKAGE.parent)
    assert out.returncode == 0, out.stderr
    return out.stdout.splitlines()[-1].split()[1:]


def run(*arguments):
    return f"""
from prunedlora.cli.entry import main
try:
    main({list(arguments)!r})
except SystemExit as stopped:
    status = stopped.code"""


@pytest.mark.parametrize(
    "code",
    [
        "import prunedlora; dir(prunedlora); prunedlora.__version__",
        "import prunedlora.errors, prunedlora.choices, prunedlora.optional",
        "import prunedlora.callback, prunedlora.obs, prunedlora.truncation",
        f"import {', '.join(LIGHT)}",
        "from prunedlora import CompressConfig",
        "from prunedlora.cli.entry import main",
        run("--help"),
        run("--version"),
        *(run(command, "--help") for command in ("compress", "inspect", "verify", "bench")),
        run(),
        run("nothing"),
        run("compress", "a"),
        run("compress", "a", "b", "--rank", "x"),
        run("compress", "a", "b"),
    ],
)
def test_names_help_and_refusals_import_no_heavy_package(code):
    assert loaded_after(code) == []


def test_files_are_inspected_and_compressed_without_peft_and_transformers(tmp_path):
    source, out = str(tmp_path / "a.safetensors"), str(tmp_path / "b.safetensors")
    save_file({"x.lora_down.weight": torch.eye(4), "x.lora_up.weight": torch.eye(4)}, source)
    for arguments in (("inspect", source), ("compress", source, out, "--rank", "1")):
        assert loaded_after(run(*arguments) + "\nassert status == 0, status") == ["torch"]
    assert Path(out).exists()


def test_every_public_name_is_where_the_table_and_the_type_checker_look_for_it():
    tree = ast.parse(Path(prunedlora.__file__).read_text())
    block = next(
        n for n in tree.body if isinstance(n, ast.If) and ast.unparse(n.test) == "TYPE_CHECKING"
    )
    checked = {alias.asname: node.module for node in block.body for alias in node.names}
    assert checked == {name: f"prunedlora.{place}" for name, place in prunedlora._PLACES.items()}
    assert set(checked) <= set(prunedlora.__all__)
    assert set(checked) <= set(dir(prunedlora))
    for name, place in checked.items():
        assert getattr(prunedlora, name) is getattr(import_module(place), name)
        # A file of that name would take the place of the object as soon as it is imported.
        assert util.find_spec(f"prunedlora.{name}") is None


@pytest.mark.parametrize("room", ROOMS)
def test_a_rooms_table_of_contents_names_its_files_and_no_others(room):
    folder = PACKAGE / room
    mentioned = set(re.findall(r"(?<!`)`(\w+)`(?!`)", import_module(f"prunedlora.{room}").__doc__))
    files = {file.stem for file in folder.glob("*.py")} - {"__init__"}
    assert mentioned == files


def test_all_names_can_be_imported_at_once():
    names: dict[str, object] = {}
    exec("from prunedlora import *", names)
    assert set(prunedlora.__all__) <= set(names)


def test_every_name_of_the_package_that_a_text_mentions_exists():
    texts = [*PACKAGE.rglob("*.py"), *PACKAGE.parent.glob("*.md")]
    for file in texts:
        for mention in re.findall(r"\bprunedlora(?:\.[A-Za-z]\w*)+\b(?!\.py)", file.read_text()):
            # A plugin of a program that is not installed has a test of its own.
            if mention.startswith("prunedlora.training.axolotl"):
                continue
            found = prunedlora
            for part in mention.split(".")[1:]:
                if hasattr(found, "__path__") and util.find_spec(f"{found.__name__}.{part}"):
                    import_module(f"{found.__name__}.{part}")
                assert hasattr(found, part), f"{file.name}: there is no {mention}"
                found = getattr(found, part)


def test_a_wrong_name_is_an_ordinary_error():
    assert not hasattr(prunedlora, "nothing_of_the_kind")
    assert not hasattr(prunedlora, "__path_that_is_not__")
    with pytest.raises(AttributeError, match="module 'prunedlora' has no attribute 'Nothing'"):
        prunedlora.Nothing  # noqa: B018
    with pytest.raises(ImportError, match="Nothing"):
        exec("from prunedlora import Nothing")


def test_the_version_is_that_of_the_project(monkeypatch):
    project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text())["project"]
    assert prunedlora.__version__ == project["version"]
    asked = []
    monkeypatch.setattr("importlib.metadata.version", lambda name: asked.append(name) or "1.2.3")
    assert (installed_version.__wrapped__(), asked) == ("1.2.3", ["prunedlora"])


def test_the_version_is_unknown_where_the_package_is_not_installed(monkeypatch):
    monkeypatch.setattr("importlib.metadata.Distribution.discover", lambda **_: iter(()))
    assert installed_version.__wrapped__() == "unknown"


def test_rooms_can_be_reached_from_the_package():
    code = """
import prunedlora
assert prunedlora.errors.PrunedLoRAError is prunedlora.PrunedLoRAError
assert prunedlora.factors.Factors is prunedlora.Factors """
    loaded_after(code)


def test_a_room_that_lacks_a_package_says_so_and_is_not_taken_for_a_wrong_name():
    code = """
import sys
sys.modules["jaxtyping"] = None
import prunedlora
try:
    prunedlora.factors
except ModuleNotFoundError as error:
    assert error.name == "jaxtyping", error
else:
    raise AssertionError"""
    loaded_after(code)


@pytest.mark.parametrize("where", ["prunedlora", "prunedlora.training.callback"])
def test_the_callback_without_transformers_says_what_to_install(where):
    code = f"""
import sys
sys.modules["transformers"] = None
from prunedlora.errors import MissingPackageError
try:
    from {where} import PruningCallback
except MissingPackageError as error:
    assert str(error) == 'PruningCallback needs transformers: pip install "prunedlora[trainer]"', error
else:
    raise AssertionError"""
    loaded_after(code)


@pytest.mark.parametrize(("old", "new", "name"), [(old, *new) for old, new in MOVED.items()])
def test_an_old_module_still_works_and_names_the_new_one(old, new, name):
    module = import_module(old)
    with pytest.warns(DeprecationWarning, match=f"{old} is now {new}; import {name} from there"):
        assert getattr(module, name) is getattr(import_module(new), name)
    with pytest.raises(AttributeError):
        module.nothing  # noqa: B018
    names: dict[str, object] = {}
    with warnings.catch_warnings():  # one for each name
        warnings.simplefilter("ignore")
        exec(f"from {old} import *", names)
    assert names[name] is getattr(import_module(new), name)


def test_the_warning_of_an_old_module_is_for_the_line_that_uses_it():
    code = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from prunedlora.obs import eliminate
(warning,) = caught
assert (warning.filename, warning.lineno) == ("<string>", 5), warning"""
    loaded_after(code)
