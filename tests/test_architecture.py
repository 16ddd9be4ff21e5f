"""The rooms are as the developers' page draws them, and imports run downwards only; read off the import statements."""

import graphlib
import re
import subprocess
from collections.abc import Iterable
from pathlib import Path

import grimp
import pytest

from tests.paths import ROOT

PACKAGES = ("prunedlora", "theory", "experiments")
#: Where the trees are drawn.
DRAWING = ROOT / "docs/project/developing.md"
#: What may stand in a folder without a line in its tree.
UNDRAWN = ("__init__", "__main__")
#: What each package may import of the others.
ALLOWED = {
    "prunedlora": set(),
    "theory": {"prunedlora"},
    "paper_figures": set(),
    "experiments": {"prunedlora", "theory", "paper_figures"},
}


def drawn(package: str) -> list[tuple[int, str]]:
    """The drawn tree of a package: depth and name of every entry, the package's own line left out."""
    text = DRAWING.read_text()
    tree = re.search(rf"^{package}/ .*\n((?:[│├└ ].*\n)+)", text, re.MULTILINE)
    assert tree is not None, f"{DRAWING.name} draws no tree of {package}/"
    entries = []
    for line in tree[1].splitlines():
        branch, text = re.match(r"([│├└─ ]+)(.*)", line).groups()
        # Several files may share a line; what is said of them comes after.
        names = re.match(r"(?:[\w*]+(?:/|\.py|\.sh)(?:, |  |$)\s*)+|\S+", text + "  ")[0]
        entries += [(len(branch) // 4, name.rstrip(",")) for name in names.split()]
    return entries


def rooms(package: str) -> list[str]:
    """Folders and single modules of a package, in the order of the drawing, which imports may only go down."""
    top = [name for depth, name in drawn(package) if depth == 1]
    names = [
        name.removesuffix("/").removesuffix(".py") for name in top if name.endswith(("/", ".py"))
    ]
    return [
        name
        for name in names
        if (ROOT / package / name).with_suffix(".py").exists() or _is_room(package, name)
    ]


def _is_room(package: str, name: str) -> bool:
    return (ROOT / package / name / "__init__.py").exists()


@pytest.fixture(scope="module")
def graph() -> grimp.ImportGraph:
    """Who imports whom, function-level imports and those for type checkers included."""
    packages = (*PACKAGES, "paper_figures")
    return grimp.build_graph(*packages, include_external_packages=True, cache_dir=None)


def upward(imports: Iterable[tuple[str, str]], package: str, order: list[str]) -> list[str]:
    """Imports from a room into one above it, or into the package's front page."""

    def floor(module: str) -> int:
        parts = module.split(".")
        # The front page and the command line see everything, nothing sees them.
        return order.index(parts[1]) if len(parts) > 1 and parts[1] not in UNDRAWN else -1

    inside = [
        (a, b)
        for a, b in imports
        if f"{a}.".startswith(f"{package}.") and f"{b}.".startswith(f"{package}.")
    ]
    return [f"{a} imports {b}" for a, b in inside if floor(b) < floor(a)]


def imports_of(graph: grimp.ImportGraph, package: str) -> list[tuple[str, str]]:
    """Every import of a module of the package."""
    modules = [module for module in graph.modules if module.split(".")[0] == package]
    return [
        (module, other)
        for module in modules
        for other in graph.find_modules_directly_imported_by(module)
    ]


@pytest.mark.parametrize("package", PACKAGES)
def test_the_drawn_tree_is_that_of_the_files(package):
    expected, folders = set(), []
    for depth, name in drawn(package):
        folders[depth - 1 :] = [name]
        if name.endswith((".py", ".sh")):
            expected.add("/".join(part.strip("/") for part in folders))
    listed = subprocess.run(
        ["git", "ls-files", package], cwd=ROOT, capture_output=True, text=True, check=True
    )
    files = {
        Path(line).relative_to(package)
        for line in listed.stdout.splitlines()
        if (ROOT / line).exists()
    }
    scripts = {str(file) for file in files if file.suffix in (".py", ".sh")}
    undrawn = {name for name in scripts if Path(name).stem in UNDRAWN}
    assert expected - undrawn == scripts - undrawn


@pytest.mark.parametrize("package", PACKAGES)
def test_every_room_says_what_is_in_it(package):
    for room in rooms(package):
        if _is_room(package, room):
            text = (ROOT / package / room / "__init__.py").read_text()
            assert re.match(r'r?"""\S.{20,}', text), (
                f"{package}/{room}/__init__.py does not say what is in the room"
            )


@pytest.mark.parametrize("package", PACKAGES)
def test_no_import_runs_upward(graph, package):
    assert upward(imports_of(graph, package), package, rooms(package)) == []


def test_an_upward_import_would_be_noticed(graph):
    order = rooms("prunedlora")
    imports = imports_of(graph, "prunedlora")
    for lower, upper in (
        ("prunedlora.files.header", "prunedlora.criteria.registry"),
        ("prunedlora.factors", "prunedlora.linalg.truncation"),
        ("prunedlora.linalg.truncation", "prunedlora"),
    ):
        assert upward([*imports, (lower, upper)], "prunedlora", order) == [
            f"{lower} imports {upper}"
        ]


def test_no_files_import_each_other_in_a_circle(graph):
    packages = set(ALLOWED)
    modules = [module for module in graph.modules if module.split(".")[0] in packages]
    arrows = {module: graph.find_modules_directly_imported_by(module) for module in modules}
    graphlib.TopologicalSorter(arrows).prepare()


@pytest.mark.parametrize("package", ALLOWED)
def test_packages_know_only_those_below_them(graph, package):
    others = {other.split(".")[0] for _, other in imports_of(graph, package)} & set(ALLOWED)
    assert others - {package} <= ALLOWED[package]


def test_files_and_statistics_do_not_know_each_other_nor_files_the_rules(graph):
    for room, unknown in (("files", "criteria"), ("files", "statistics"), ("statistics", "files")):
        chains = graph.find_shortest_chains(
            f"prunedlora.{room}", f"prunedlora.{unknown}", as_packages=True
        )
        assert not chains, f"{room} reaches {unknown}: {chains}"


def test_only_modules_that_say_so_import_transformers(graph):
    for module, other in imports_of(graph, "prunedlora"):
        if other == "transformers":
            text = (ROOT / Path(*module.split("."))).with_suffix(".py").read_text()
            assert "transformers" in text.split('"""')[1], (
                f"{module} imports transformers without saying so"
            )
