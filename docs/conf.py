"""Settings of Sphinx; ``bash docs/build.sh`` builds the pages."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

import prunedlora

project = "prunedlora"
author = "The prunedlora authors"
release = prunedlora.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.mathjax",
    "docs.directive",
]
exclude_patterns = ["_build"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["dollarmath", "deflist"]
myst_heading_anchors = 4

autodoc_member_order = "bysource"
# Attributes of dataclasses are described in the docstring of their class, and only there.
napoleon_use_ivar = True
napoleon_attr_annotations = False
napoleon_google_docstring = True
napoleon_numpy_docstring = False

html_theme = "furo"
html_title = "prunedlora"
