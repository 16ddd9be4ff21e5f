"""The requirements of the library and of some of its extras at their oldest or newest: one a line.

``python tests/dependency_versions.py oldest|newest EXTRA[,EXTRA...]``; what `tests/check_dependencies.sh` installs.
"""

import re
import sys
import tomllib
from pathlib import Path

PROJECT = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]


def requirements(which: str, extras: list[str]) -> list[str]:
    """Every requirement, in ``oldest`` pinned to the least version that it allows.

    Raises:
        ValueError: a requirement without a least version, which nobody could check.
    """
    lines = list(PROJECT["dependencies"])
    extras = list(extras)
    for extra in extras:
        for line in PROJECT["optional-dependencies"][extra]:
            # An extra may be made of others of this project.
            own = re.fullmatch(r"prunedlora\[(.+)\]", line)
            if own is None:
                lines.append(line)
            else:
                extras += own[1].split(",")
    return sorted({_oldest(line) if which == "oldest" else line for line in lines})


def _oldest(requirement: str) -> str:
    found = re.fullmatch(r"([\w.-]+)>=([\w.]+)", requirement)
    if found is None:
        raise ValueError(f"{requirement} does not say from which version on")
    return f"{found[1]}=={found[2]}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(requirements(sys.argv[1], sys.argv[2].split(","))) + "\n")
