"""Packages that may not be installed: those that few parts need, and this one itself."""

import importlib
import importlib.metadata
from functools import cache
from typing import Any

from prunedlora.errors import MissingPackageError


def require(name: str, install: str = '"prunedlora[cli]"', *, purpose: str = "this") -> Any:
    """Import an optional package, or something in it.

    Args:
        name: of the package or module, or of an object in it as ``module:object``.
        install: what ``pip install`` is to be given where it is missing.
        purpose: what needs it, for the message.

    Raises:
        MissingPackageError: it is not installed; the message says how to get it.

    >>> require("json").loads("1")
    1
    >>> require("json:loads")("1")
    1
    """
    module, _, attribute = name.partition(":")
    top = module.partition(".")[0]
    needed = f"{attribute} of {top}" if attribute else top
    try:
        imported = importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(f"{purpose} needs {needed}: pip install {install}") from error
    if attribute and not hasattr(imported, attribute):
        raise MissingPackageError(f"{purpose} needs {needed}: pip install {install}")
    return getattr(imported, attribute) if attribute else imported


@cache
def installed_version() -> str:
    """The version of this package; ``"unknown"`` where its source is used without installing it."""
    try:
        return importlib.metadata.version("prunedlora")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"
