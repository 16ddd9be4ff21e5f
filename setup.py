"""Makes the README's links absolute, for an index page has no files; all else is in pyproject.toml."""

import re
import tomllib
from pathlib import Path

from setuptools import setup

FOLDER = Path(__file__).parent
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?![a-z]+:|#)([^)\s]+)\)")


def absolute(text: str, repository: str | None) -> str:
    """A Markdown text whose links to files lead into the repository on the web; as it is while that has no address."""
    if repository is None:
        return text

    def link(match: re.Match[str]) -> str:
        picture, label, path = match.groups()
        kind = "raw" if picture else "blob"
        return f"{picture}[{label}]({repository.rstrip('/')}/{kind}/main/{path})"

    return LINK.sub(link, text)


if __name__ == "__main__":
    project = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    setup(
        long_description=absolute(
            (FOLDER / "README.md").read_text(encoding="utf-8"), project["urls"].get("Repository")
        ),
        long_description_content_type="text/markdown",
    )
