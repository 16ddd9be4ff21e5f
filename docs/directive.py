"""The Sphinx extension that puts `docs.parts` into the pages, and leads links out of ``docs`` somewhere."""

from pathlib import Path
from typing import Any

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from docs import parts
from experiments.folders import ROOT


class Part(SphinxDirective):
    """``{part} NAME [ARGUMENT]``: what the function of that name in `docs.parts` returns."""

    required_arguments = 1
    optional_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        """Parse the part as if it stood on the page."""
        name, *argument = self.arguments
        if name not in parts.PARTS:
            raise self.error(f"no part {name!r}; there are: {', '.join(parts.PARTS)}")
        page = Path(self.env.doc2path(self.env.docname))
        text = parts.relinked(parts.PARTS[name](*argument), ROOT, page.parent)
        lines = parts.for_page(text, page).splitlines()
        parent = nodes.Element()
        self.state.nested_parse(StringList(lines, name), 0, parent, match_titles=True)
        return parent.children


def _read(app: Sphinx, docname: str, source: list[str]) -> None:
    source[0] = parts.for_page(source[0], Path(app.env.doc2path(docname)))


def setup(app: Sphinx) -> dict[str, Any]:
    """What Sphinx calls."""
    app.add_directive("part", Part)
    app.connect("source-read", _read)
    return {"parallel_read_safe": True}
