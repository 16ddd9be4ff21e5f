"""Unpack the wheels that this Python lacks: ``python set_up.py WHEELS PACKAGES``.  Needs nothing but Python."""

import re
import sys
import zipfile
from importlib.metadata import distributions
from pathlib import Path


def lacking(wheels: list[Path], installed: set[str]) -> list[Path]:
    """The wheels of packages that are not installed.

    >>> lacking([Path("PyYAML-6.0-cp312-cp312-linux.whl"), Path("a_b-1-py3-none-any.whl")], {"a-b"})
    [PosixPath('PyYAML-6.0-cp312-cp312-linux.whl')]
    """
    return [wheel for wheel in wheels if normal(wheel.name.partition("-")[0]) not in installed]


def normal(name: str) -> str:
    """A package's name as all its spellings are compared.

    >>> normal("Foo__bar.baz")
    'foo-bar-baz'
    """
    return re.sub(r"[-_.]+", "-", name).lower()


def main(wheels: Path, packages: Path) -> None:
    """Unpack them into a folder for ``PYTHONPATH``, and say so."""
    installed = {normal(d.metadata["Name"]) for d in distributions() if d.metadata["Name"]}
    packages.mkdir()
    for wheel in lacking(sorted(wheels.glob("*.whl")), installed):
        with zipfile.ZipFile(wheel) as archive:
            archive.extractall(packages)
        print(f"  {wheel.name}", file=sys.stderr)


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
